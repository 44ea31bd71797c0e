//! `saas worker` as a process, with jobs from the API.

use reqwest::Method;
use saas::{
    jobs::{Housekeeping, SYSTEM_QUEUE},
    queue::{Origin, State},
};

use crate::support::{
    TestApp,
    app::Answer,
    eventually,
    process::{Running, production_command, run},
    servers::servers,
};

impl TestApp {
    async fn worker_command(&self, args: &[&str]) -> std::process::Command {
        production_command(&[&["worker"], args].concat(), &self.database, &self.prefix).await
    }

    async fn read_job_state(&self, id: &str, user: &crate::support::User) -> String {
        let status = self.get(&format!("/jobs/{id}/status"), Some(user)).await;
        status.body["status"].as_str().unwrap().to_owned()
    }

    async fn enqueue_example_job(&self, seconds: u32, user: &crate::support::User) -> String {
        let path = format!("/jobs/example?name=x&duration={seconds}");
        self.call(Method::POST, &path, user).await.body["job_id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn smoke_burst_runs_all_jobs_and_exits() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let ids = [app.enqueue_example_job(0, &user).await, app.enqueue_example_job(0, &user).await];
    let ended = run(app.worker_command(&["--burst"]).await).await.succeeded();
    for id in &ids {
        assert_eq!(app.read_job_state(id, &user).await, "finished");
        let line =
            ended.stderr.lines().find(|line| line.contains(id) && line.contains("job finished")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["task"], "example_task");
        assert_eq!(line["request_id"].as_str().unwrap().len(), 36, "the id of the request that enqueued it");
    }
}

#[tokio::test]
async fn a_job_logs_the_trace_of_its_request() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (traceparent, expected) in [
        (format!("00-{trace}-00f067aa0ba902b7-01"), Some(trace)),
        (format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()), None),
        (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
        ("00-\"x\"".into(), None),
    ] {
        let request = app.request(Method::POST, "/jobs/example?name=x&duration=0").bearer_auth(&user.token);
        let answer = Answer::of(request.header("traceparent", traceparent)).await;
        let id = answer.body["job_id"].as_str().unwrap();
        let ended = run(app.worker_command(&["--burst"]).await).await.succeeded();
        let line =
            ended.stderr.lines().find(|line| line.contains(id) && line.contains("job finished")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["trace_id"].as_str(), expected);
    }
}

#[tokio::test]
async fn smoke_another_worker_takes_over_after_a_kill() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let id = app.enqueue_example_job(3_600, &user).await;
    let args = ["--lease-seconds", "3"];
    let mut first = Running::start(app.worker_command(&args).await);
    eventually("it runs", || async { (app.read_job_state(&id, &user).await == "started").then_some(()) })
        .await;
    let mut second = Running::start(app.worker_command(&args).await);
    second.wait_for_output("worker started").await;
    first.signal("KILL");
    first.end().await;
    second.wait_for_output("recovered jobs").await;
    eventually("the second runs it", || async {
        let status = app.get(&format!("/jobs/{id}/status"), Some(&user)).await.body;
        (status["status"] == "started" && status["attempts"].as_u64() >= Some(2)).then_some(())
    })
    .await;
    app.call(Method::DELETE, &format!("/jobs/{id}"), &user).await;
    eventually("it is canceled", || async {
        (app.read_job_state(&id, &user).await == "canceled").then_some(())
    })
    .await;
    second.signal("TERM");
    assert_eq!(second.end().await.code(), Some(0));
}

#[tokio::test]
async fn sigterm_releases_unfinished_jobs_to_the_queue() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for signals in [1, 2] {
        let id = app.enqueue_example_job(3_600, &user).await;
        let grace = if signals == 1 { "0" } else { "3600" };
        let mut worker = Running::start(app.worker_command(&["--shutdown-grace-seconds", grace]).await);
        eventually("it runs", || async { (app.read_job_state(&id, &user).await == "started").then_some(()) })
            .await;
        worker.signal("TERM");
        if signals == 2 {
            worker.wait_for_output("worker stopping").await;
            worker.signal("TERM");
        }
        assert_eq!(worker.end().await.code(), Some(0));
        let status = app.get(&format!("/jobs/{id}/status"), Some(&user)).await.body;
        assert_eq!((status["status"].as_str(), status["attempts"].as_u64()), (Some("queued"), Some(0)));
        app.call(Method::DELETE, &format!("/jobs/{id}"), &user).await;
    }
}

#[tokio::test]
async fn a_worker_waits_for_redis() {
    let app = TestApp::start().await;
    let mut command = app.worker_command(&[]).await;
    command.env("REDIS_URL", "redis://127.0.0.1:9/0");
    let mut worker = Running::start(command);
    worker.wait_for_output("cannot reach Redis, retrying").await;
    assert!(!worker.has_ended());
    worker.signal("TERM");
    assert_eq!(worker.end().await.code(), Some(0));
}

#[tokio::test]
async fn jobs_of_a_user_do_not_delay_system_jobs() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let mut worker = Running::start(app.worker_command(&[]).await);
    for _ in 0..12 {
        app.enqueue_example_job(3_600, &user).await;
    }
    let started = || async { app.app.queue.queue("default").await.unwrap().unwrap().started };
    eventually("the worker runs jobs of the user", || async { (started().await >= 5).then_some(()) }).await;
    app.app.queue.enqueue(&Housekeeping {}, Origin::default()).await.unwrap();
    let finished = || async { app.app.queue.queue(SYSTEM_QUEUE).await.unwrap().unwrap().totals.finished };
    eventually("the job of the product has finished", || async { (finished().await > 0).then_some(()) })
        .await;
    worker.signal("TERM");
    worker.signal("TERM");
    assert_eq!(worker.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_flag_turns_the_system_queue_off() {
    let app = TestApp::start().await;
    let id = app.app.queue.enqueue(&Housekeeping {}, Origin::default()).await.unwrap();
    let state = || async { app.app.queue.status(&id).await.unwrap().unwrap().state };
    let args: [(&[&str], State); 3] = [
        (&["--burst", "--system-queue=false"], State::Queued),
        (&["--burst", "--queues", "other"], State::Finished),
        (&["--burst"], State::Finished),
    ];
    for (args, wanted) in args {
        run(app.worker_command(args).await).await.succeeded();
        assert_eq!(state().await, wanted, "{args:?}");
    }
}

#[tokio::test]
async fn system_jobs_that_an_earlier_release_put_into_the_default_queue_run() {
    let app = TestApp::start().await;
    let id = app.app.queue.enqueue(&Housekeeping {}, Origin::default()).await.unwrap();
    // Moves the job to the queue `default`, into which earlier releases put it.
    let mut redis = crate::support::queue::connect(&servers().await.redis_url()).await.unwrap();
    let key = |name: &str| format!("{}:{name}", app.prefix);
    let envelope: String =
        redis::cmd("HGET").arg(key("jobs")).arg(&id).query_async(&mut redis).await.unwrap();
    let envelope = envelope.replace(r#""queue":"system""#, r#""queue":"default""#);
    let mut old = redis::pipe();
    old.hset(key("jobs"), &id, envelope).del(key("queue:system")).rpush(key("queue:default"), &id);
    old.sadd(key("queues"), "default");
    old.query_async::<()>(&mut redis).await.unwrap();
    run(app.worker_command(&["--burst"]).await).await.succeeded();
    assert_eq!(app.app.queue.status(&id).await.unwrap().unwrap().state, State::Finished);
}
