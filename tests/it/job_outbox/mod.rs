//! Jobs that are enqueued in a transaction: from the row in the table `job_outbox` to the job in the queue.

mod owners;

use std::time::Duration;

use chrono::Utc;
use diesel_async::AsyncPgConnection;
use reqwest::Method;
use saas::{
    app::App,
    context::RequestContext,
    db::Tx,
    error::{Error, Result},
    jobs::ExampleTask,
    queue::{EnqueueOptions, Error as QueueError, OnDuplicate, Origin, Unique, When},
    services::{
        job_outbox::{EnqueueInTx, check_owner},
        job_relay::sweep,
        transaction::change_without_actor,
    },
};
use serde_json::json;

use crate::support::{
    TestApp, User, eventually,
    process::{production_command, run},
    queue::{Behavior, TestQueue, connect},
    records::column,
    servers::servers,
};

/// Flags of an application for which Redis is unavailable.
const UNREACHABLE_REDIS: [&str; 2] = ["--redis-url=redis://127.0.0.1:1/", "--redis-timeout-ms=200"];

fn task(name: &str) -> ExampleTask {
    ExampleTask { name: name.into(), duration: 0 }
}

fn origin(owner: &User) -> Origin {
    Origin { owner: Some(owner.id), ..Origin::default() }
}

/// Enqueues a job in a transaction, like a process that crashes right after the commit. Returns the id of the job.
async fn enqueue_without_relay(app: &App, name: &str, origin: Origin, options: EnqueueOptions) -> String {
    let (context, effects) = Default::default();
    let job = task(name);
    let work = async |conn: &mut AsyncPgConnection| {
        let tx = &Tx::on(conn, &context, &effects);
        app.queue.enqueue_in_tx(tx, &job, origin.clone(), options.clone()).await
    };
    app.db.transaction(work).await.unwrap()
}

async fn enqueue_plain(app: &TestApp, name: &str) -> String {
    enqueue_without_relay(&app.app, name, Origin::default(), EnqueueOptions::default()).await
}

/// Returns the ids of the jobs in the outbox, in the format of the queue, sorted.
async fn outbox_job_ids(app: &TestApp) -> Vec<String> {
    column(&app.database, "SELECT replace(id::text, '-', '') FROM job_outbox ORDER BY id").await
}

/// Returns the number of jobs that were ever enqueued to the queue `default`.
async fn total_enqueued(app: &TestApp) -> u64 {
    app.app.queue.queue("default").await.unwrap().map_or(0, |queue| queue.totals.enqueued)
}

#[tokio::test]
async fn smoke_a_job_exists_if_and_only_if_its_transaction_commits() {
    let app = TestApp::start().await;
    let (context, job) = (RequestContext::default(), task("x"));
    let write = async |tx: &Tx<'_>| {
        app.app.queue.enqueue_in_tx(tx, &job, Origin::default(), EnqueueOptions::default()).await
    };
    let fail = async |tx: &Tx<'_>| -> Result<String> {
        write(tx).await?;
        Err(Error::Conflict("no"))
    };
    change_without_actor(&app.app, &context, fail).await.unwrap_err();
    let id = change_without_actor(&app.app, &context, write).await.unwrap();
    eventually("the process that has committed enqueues it", || async {
        app.app.queue.status(&id).await.unwrap().filter(|job| job.task == "example_task")
    })
    .await;
    app.relay().await;
    assert_eq!((app.run_jobs().await.finished, total_enqueued(&app).await), (1, 1));
    assert!(outbox_job_ids(&app).await.is_empty());

    // While Redis is unavailable, the job stays in the outbox, and the relay records no attempt in `tried_at`.
    let away = TestApp::on(app.database.clone(), &UNREACHABLE_REDIS).await;
    let write = async |tx: &Tx<'_>| {
        away.app.queue.enqueue_in_tx(tx, &job, Origin::default(), EnqueueOptions::default()).await
    };
    let id = change_without_actor(&away.app, &context, write).await.unwrap();
    assert_eq!(sweep(&away.app).await.unwrap_err().to_string(), "Redis is unavailable");
    let tried = column(&app.database, "SELECT tried_at FROM job_outbox").await;
    assert_eq!((outbox_job_ids(&app).await, tried), (vec![id.clone()], vec![String::new()]));
    assert_eq!(sweep(&app.app).await.unwrap(), 1);
    app.run_jobs().await;
    assert_eq!(app.status(&id, &app.admin().await).await["status"], "finished");
}

#[tokio::test]
async fn an_outbox_job_has_a_status_and_can_be_canceled() {
    let app = TestApp::start().await;
    let (owner, other, admin) = (app.user().await, app.user().await, app.admin().await);
    let away = TestApp::on(app.database.clone(), &UNREACHABLE_REDIS).await;
    for caller in [&owner, &admin] {
        let id = enqueue_without_relay(&app.app, "x", origin(&owner), EnqueueOptions::default()).await;
        for app in [&app, &away] {
            let status = app.status(&id, caller).await;
            assert_eq!((&status["status"], &status["job_id"]), (&json!("queued"), &json!(id)));
            assert_eq!((&status["task"], &status["attempts"]), (&json!("example_task"), &json!(0)));
            assert!(status["enqueued_at"].is_string() && status["started_at"].is_null());
        }
        let path = format!("/jobs/{id}");
        for id in [id.to_uppercase().as_str(), "019a8c1e7d3a7c2e9b1f5d4c3b2a1908"] {
            app.get(&format!("/jobs/{id}/status"), Some(&admin)).await.is_some_problem(404, "not_found");
        }
        app.get(&format!("{path}/status"), Some(&other)).await.is_some_problem(404, "not_found");
        app.call(Method::DELETE, &path, &other).await.is_some_problem(404, "not_found");
        app.sql("CREATE TABLE copied AS SELECT * FROM job_outbox").await;
        let canceled = app.call(Method::DELETE, &path, caller).await;
        assert_eq!((canceled.status.as_u16(), &canceled.body["status"]), (200, &json!("canceled")));
        assert!(outbox_job_ids(&app).await.is_empty());
        // Simulates a relay that has read the row before the cancellation, and enqueues the job now.
        app.sql("INSERT INTO job_outbox SELECT * FROM copied; DROP TABLE copied").await;
        assert_eq!(sweep(&app.app).await.unwrap(), 1);
        assert_eq!(app.run_jobs().await.finished, 0);
        assert_eq!(app.status(&id, caller).await["status"], "canceled");
        app.call(Method::DELETE, &path, caller).await.is_some_problem(409, "conflict");
    }
    let trail = column(&app.database, "SELECT count(*) FROM audit_log WHERE action = 'job.canceled'").await;
    assert_eq!(trail, ["1"], "only the cancellation by the admin is audited");
}

#[tokio::test]
async fn an_outbox_job_keeps_its_options() {
    let app = TestApp::start().await;
    let add =
        async |name: &str, options| enqueue_without_relay(&app.app, name, Origin::default(), options).await;
    let options = EnqueueOptions::default;
    let later = EnqueueOptions { when: When::In(Duration::from_secs(3_600)), ..options() };
    let later = add("later", later).await;
    app.sql("UPDATE job_outbox SET created_at = created_at - interval '20 minutes'").await;
    let at = Utc::now() + chrono::Duration::days(2);
    let at_a_time = add("at", EnqueueOptions { when: When::At(at), ..options() }).await;
    let parent = add("parent", EnqueueOptions { group: Some("tenant \0".into()), ..options() }).await;
    let child = add("child", EnqueueOptions { after: vec![parent.clone()], ..options() }).await;
    let unique = |on_duplicate| {
        let (key, window) = ("key \0".to_owned(), Duration::from_secs(3_600));
        EnqueueOptions { unique: Some(Unique { key, window, on_duplicate }), ..options() }
    };
    let first = add("first", unique(OnDuplicate::KeepExisting)).await;
    let second = add("second", unique(OnDuplicate::KeepExisting)).await;
    let third = add("third", unique(OnDuplicate::Replace)).await;
    assert_eq!(sweep(&app.app).await.unwrap(), 7);

    let admin = app.admin().await;
    let states = async |ids: &[&String]| {
        let mut states = Vec::new();
        for id in ids {
            states.push(app.status(id, &admin).await["status"].as_str().unwrap().to_owned());
        }
        states
    };
    let all = [&later, &at_a_time, &parent, &child, &first, &second, &third];
    let expected = ["scheduled", "scheduled", "queued", "deferred", "canceled", "canceled", "queued"];
    assert_eq!(states(&all).await, expected);
    let due = app.app.queue.status(&later).await.unwrap().unwrap().due_at.unwrap();
    let rest = due - Utc::now();
    assert!(rest < chrono::Duration::minutes(41), "20 of 60 minutes have passed: {rest}");
    let due = app.app.queue.status(&at_a_time).await.unwrap().unwrap().due_at.unwrap();
    assert_eq!(due.timestamp_millis(), at.timestamp_millis());
    app.run_jobs().await;
    assert_eq!(states(&[&parent, &child, &third]).await, ["finished"; 3]);
}

#[tokio::test]
async fn an_outbox_job_that_may_have_run_is_set_aside() {
    let app = TestApp::start().await;
    let done = enqueue_plain(&app, "done").await;
    app.sql("CREATE TABLE again AS SELECT * FROM job_outbox").await;
    sweep(&app.app).await.unwrap();
    app.run_jobs().await;
    // Adds rows to the outbox, as crashes leave them. Only the job `done` has run.
    app.sql("INSERT INTO job_outbox SELECT * FROM again").await;
    let (lost, old, forgotten) = (
        enqueue_plain(&app, "lost").await,
        enqueue_plain(&app, "old").await,
        enqueue_plain(&app, "forgotten").await,
    );
    let never_tried = enqueue_plain(&app, "never tried").await;
    app.sql(&format!(
        "UPDATE job_outbox SET created_at = now() - interval '30 days', tried_at = CASE id
             WHEN '{done}' THEN now() - interval '23 hours' WHEN '{lost}' THEN now() - interval '23 hours'
             WHEN '{old}' THEN now() - interval '24 hours' END
         WHERE id <> '{forgotten}'"
    ))
    .await;
    assert_eq!(sweep(&app.app).await.unwrap(), 4, "the row of `forgotten` is new");
    assert_eq!(outbox_job_ids(&app).await, std::slice::from_ref(&old));
    assert_eq!(app.run_jobs().await.finished, 3, "`done` does not run again");

    // Another row is left, as after a crash. Since then, the queue has deleted states of jobs, because their number is
    // limited.
    let forgotten = enqueue_plain(&app, "forgotten").await;
    let mut redis = connect(&servers().await.redis_url()).await.unwrap();
    let (key, now) = (format!("{}:forgotten", app.prefix), Utc::now().timestamp_millis());
    redis::cmd("SET").arg(key).arg(now).query_async::<()>(&mut redis).await.unwrap();
    app.sql(&format!(
        "UPDATE job_outbox SET tried_at = now() - interval '5 minutes' WHERE id = '{forgotten}'"
    ))
    .await;
    let new = enqueue_plain(&app, "new").await;
    let worker = production_command(&["worker", "--burst"], &app.database, &app.prefix).await;
    let log = run(worker).await.succeeded().stderr;
    assert_eq!(log.matches("a job of the outbox is set aside").count(), 1, "{log}");
    let aside = column(&app.database, "SELECT count(set_aside_at) FROM job_outbox").await;
    assert_eq!((outbox_job_ids(&app).await, aside), (vec![old.clone(), forgotten], vec!["2".into()]));

    let doctor = run(production_command(&["doctor"], &app.database, &app.prefix).await).await.succeeded();
    assert!(doctor.stdout.contains("warn  outbox      jobs that were set aside: 2"), "{doctor:?}");
    let ready = app.get("/health/ready", None).await;
    assert_eq!((&ready.body["status"], &ready.body["set_aside_jobs"]), (&json!("healthy"), &json!(2)));
    let admin = app.admin().await;
    for (id, status) in
        [(&new, "finished"), (&lost, "finished"), (&never_tried, "finished"), (&old, "queued")]
    {
        assert_eq!(app.status(id, &admin).await["status"], status);
    }
    // docs/jobs.md has this statement, with the id of one job, for a job that was set aside and must run.
    app.sql("UPDATE job_outbox SET set_aside_at = NULL, tried_at = NULL, claimed_until = NULL").await;
    assert_eq!(sweep(&app.app).await.unwrap(), 2);
}

#[tokio::test]
async fn the_queue_refuses_a_repeated_job_if_it_may_have_deleted_the_state_of_the_job() {
    let queue = TestQueue::new().await;
    queue.push("ended", Behavior::Succeed).await;
    queue.drain().await;
    // Adds a bucket with one state from an hour ago. With the state of the job above, the queue has two states, and the tick
    // below has a limit of one.
    let hour_ago = (Utc::now().timestamp_millis() - 3_600_000).to_string();
    let _: () = queue.redis(&["ZADD", "{}:ended", &hour_ago, "{}:ended:86400000:1"]).await;
    let _: () = queue.redis(&["HSET", "{}:ended:86400000:1", "a", "f"]).await;
    let tick = ["1000", "5000", "3", "1000", "1", "100", "1000", "0", "1000", "1000000"];
    queue.script::<redis::Value>("tick", &[&tick[..], &["1"]].concat()).await;
    assert_eq!(queue.redis::<String>(&["GET", "{}:forgotten"]).await, hour_ago);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let job = task("x");
    for (since, is_forgotten) in [(0, false), (30, false), (90, true), (1_500, true)] {
        let job = queue.queue.prepare(&job, Origin::default(), EnqueueOptions::default()).unwrap();
        let answer = queue.queue.enqueue_prepared_again(&job, minutes(since)).await;
        assert_eq!(matches!(answer, Err(QueueError::Forgotten(_))), is_forgotten, "{since}: {answer:?}");
        assert_eq!(answer.is_err(), is_forgotten, "{since}: {answer:?}");
    }
}

#[tokio::test]
async fn an_outbox_job_that_cannot_be_enqueued_does_not_block_others() {
    let app = TestApp::start().await;
    let after = vec!["019a8c1e7d3a7c2e9b1f5d4c3b2a1908".to_owned()];
    let orphan = EnqueueOptions { after, ..EnqueueOptions::default() };
    let orphan = enqueue_without_relay(&app.app, "orphan", Origin::default(), orphan).await;
    let strange = enqueue_plain(&app, "strange").await;
    app.sql(&format!("UPDATE job_outbox SET options = '{{\"when\": \"someday\"}}' WHERE id = '{strange}'"))
        .await;
    enqueue_plain(&app, "good").await;
    assert_eq!(sweep(&app.app).await.unwrap(), 1);
    assert_eq!(outbox_job_ids(&app).await, [orphan.clone(), strange.clone()]);
    let status = app.status(&strange, &app.admin().await).await;
    assert_eq!((&status["status"], &status["task"]), (&json!("queued"), &json!("example_task")));
    let aside = "SELECT count(set_aside_at) FROM job_outbox";
    assert_eq!(column(&app.database, aside).await, ["0"], "a newer release may read it");
    app.sql("UPDATE job_outbox SET claimed_until = NULL, created_at = now() - interval '25 hours'").await;
    assert_eq!(sweep(&app.app).await.unwrap(), 0);
    assert_eq!(column(&app.database, aside).await, ["2"]);
}
