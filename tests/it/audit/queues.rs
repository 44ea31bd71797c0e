//! Audit entries of the operations of admins on queues and jobs.

use reqwest::Method;
use saas::{
    context::RequestContext,
    dev::{Purpose, Server, test_dir},
    jobs::{ExampleTask, SendEmail},
    queue::{Origin, State},
    services::{actor::AdminActor, queue_admin, sessions},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::count_rows;
use crate::support::{TestApp, User, app::Answer, eventually, queue::connect, records::column};

/// Returns the audit entries of an admin about queues and jobs, the oldest first.
async fn read_operations(app: &TestApp, admin: &User) -> Vec<Value> {
    let page = app.get(&format!("/audit?actor_id={}&limit=200", admin.id), Some(admin)).await;
    let items = page.body["items"].as_array().unwrap().iter().rev();
    items.filter(|entry| entry["target_type"] != "user").cloned().collect()
}

async fn call(app: &TestApp, method: Method, path: &str, admin: &User, body: Value) -> Answer {
    let request = app.request(method, path).bearer_auth(&admin.token).header("x-request-id", "mine-1");
    Answer::of(if body.is_null() { request } else { request.json(&body) }).await
}

async fn enqueue(app: &TestApp, owner: Option<i64>) -> String {
    let job = ExampleTask { name: "x".into(), duration: 0 };
    app.app.queue.enqueue(&job, Origin { owner, ..Origin::default() }).await.unwrap()
}

/// Enqueues a job, and runs it. The job fails, because its address is invalid.
async fn create_failed_job(app: &TestApp) -> String {
    let mail = SendEmail { to: "x".into(), subject: "Hi".into(), body: "Hello".into(), permitted: true };
    let id = app.app.queue.enqueue(&mail, Origin::default()).await.unwrap();
    app.run_jobs().await;
    id
}

#[tokio::test]
async fn smoke_every_queue_operation_of_an_admin_writes_an_audit_entry() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let failed = create_failed_job(&app).await;
    let (first, second) = (enqueue(&app, None).await, enqueue(&app, Some(user.id)).await);
    enqueue(&app, Some(user.id)).await;
    let limits =
        json!({ "paused": true, "concurrency_limit": 3, "rate_limit": { "jobs": 5, "per_seconds": 60 } });
    let (queue, none) = ("/admin/queues/default", Value::Null);
    for (method, path, body) in [
        (Method::PATCH, queue.to_owned(), limits.clone()),
        (Method::PATCH, queue.to_owned(), json!({ "paused": false })),
        (Method::POST, format!("/admin/jobs/{failed}/requeue"), none.clone()),
        (Method::DELETE, format!("/admin/jobs/{first}"), none.clone()),
        (Method::DELETE, format!("/jobs/{second}"), none.clone()),
        (Method::POST, format!("{queue}/requeue"), none.clone()),
        (Method::DELETE, format!("{queue}/jobs?status=queued"), none.clone()),
    ] {
        let answer = call(&app, method, &path, &admin, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    let task = |task: &str, owner: Option<i64>, status: &str| json!({ "task": task, "queue": "default", "owner": owner, "status": status });
    let expected = [
        (
            "queue.changed",
            ("queue", "default"),
            json!({ "paused": false, "concurrency_limit": null, "rate_limit": null }),
            json!({ "paused": true, "concurrency_limit": 3, "rate_limit": { "jobs": 5, "per_seconds": 60.0 } }),
        ),
        ("queue.changed", ("queue", "default"), json!({ "paused": true }), json!({ "paused": false })),
        ("job.requeued", ("job", &*failed), task("send_email_task", None, "failed"), none.clone()),
        ("job.canceled", ("job", &*first), task("example_task", None, "queued"), none.clone()),
        ("job.canceled", ("job", &*second), task("example_task", Some(user.id), "queued"), none.clone()),
        ("queue.requeued", ("queue", "default"), json!({ "status": "failed", "jobs": 0 }), none.clone()),
        // Two jobs: the job of the user that was not canceled, and the requeued job.
        ("queue.purged", ("queue", "default"), json!({ "status": "queued", "jobs": 2 }), none),
    ];
    let entries = read_operations(&app, &admin).await;
    assert_eq!(entries.len(), expected.len(), "{entries:#?}");
    for (entry, (action, (target_type, target_id), before, after)) in entries.iter().zip(expected) {
        assert_eq!(entry["action"], action);
        assert_eq!((&entry["target_type"], &entry["target_id"]), (&json!(target_type), &json!(target_id)));
        assert_eq!((&entry["before"], &entry["after"]), (&before, &after), "{action}");
        assert_eq!((&entry["address"], &entry["client_request_id"]), (&json!("127.0.0.1"), &json!("mine-1")));
    }
}

#[tokio::test]
async fn a_queue_operation_that_changes_nothing_writes_no_audit_entry() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let (failed, own) = (create_failed_job(&app).await, enqueue(&app, Some(user.id)).await);
    let before = count_rows(&app, "audit_log").await;
    assert_eq!(app.call(Method::DELETE, &format!("/jobs/{own}"), &user).await.status, 200, "an own job");
    for (status, method, path, body) in [
        (200, Method::PATCH, "/admin/queues/default".to_owned(), json!({})),
        (404, Method::DELETE, "/admin/queues/unused/jobs?status=queued".into(), Value::Null),
        (404, Method::DELETE, format!("/admin/jobs/{}", "0".repeat(32)), Value::Null),
        (409, Method::POST, format!("/admin/jobs/{own}/requeue"), Value::Null),
        (409, Method::DELETE, format!("/admin/jobs/{own}"), Value::Null),
        (409, Method::DELETE, format!("/jobs/{failed}"), Value::Null),
    ] {
        assert_eq!(call(&app, method, &path, &admin, body).await.status, status, "{path}");
    }
    let refused = call(&app, Method::PATCH, "/admin/queues/default", &user, json!({ "paused": true })).await;
    refused.is_some_problem(403, "forbidden");
    assert_eq!(count_rows(&app, "audit_log").await, before);
}

#[tokio::test]
async fn a_queue_operation_is_not_run_if_its_audit_entry_cannot_be_written() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let job = enqueue(&app, None).await;
    app.sql("ALTER TABLE audit_log ADD CONSTRAINT no_room CHECK (false) NOT VALID").await;
    for (method, path, body) in [
        (Method::PATCH, "/admin/queues/default".to_owned(), json!({ "paused": true })),
        (Method::DELETE, "/admin/queues/default/jobs?status=queued".into(), Value::Null),
        (Method::DELETE, format!("/admin/jobs/{job}"), Value::Null),
    ] {
        call(&app, method, &path, &admin, body).await.is_some_problem(500, "internal_error");
    }
    let queue = app.app.queue.queue("default").await.unwrap().unwrap();
    assert!(!queue.paused);
    assert_eq!(app.app.queue.status(&job).await.unwrap().unwrap().state, State::Queued);
}

#[tokio::test]
async fn a_queue_operation_that_redis_refuses_writes_a_second_entry_about_the_failure() {
    let redis = Server::redis(&test_dir().unwrap(), Purpose::Test).await.unwrap();
    let app = TestApp::with(&[&format!("--redis-url={}", redis.url.expose_secret())]).await;
    let admin = app.admin().await;
    // Makes the server a replica of one that does not exist. A replica answers reads and refuses writes.
    let mut conn = connect(redis.url.expose_secret()).await.unwrap();
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).query_async::<()>(&mut conn).await.unwrap();
    let paused = json!({ "paused": true });
    let refused = call(&app, Method::PATCH, "/admin/queues/default", &admin, paused.clone()).await;
    refused.is_some_problem(503, "unavailable");
    let entries = read_operations(&app, &admin).await;
    let [changed, failed] = &entries[..] else { panic!("{entries:#?}") };
    assert_eq!((&changed["action"], &changed["after"]), (&json!("queue.changed"), &paused));
    assert_eq!((&failed["action"], &failed["target_id"]), (&json!("operation.failed"), &json!("default")));
    let after = json!({ "action": "queue.changed", "error": "Redis is unavailable" });
    assert_eq!(failed["after"], after);
    redis.stop().await;
}

#[tokio::test]
async fn a_queue_operation_runs_to_its_end_if_the_request_is_dropped() {
    let redis = Server::redis(&test_dir().unwrap(), Purpose::Test).await.unwrap();
    let app = TestApp::with(&[&format!("--redis-url={}", redis.url.expose_secret())]).await;
    let admin = app.admin().await;
    enqueue(&app, None).await;
    let queue = app.app.queue.queue("default").await.unwrap().unwrap();
    let session = app.app.tokens.verify(&admin.token).unwrap();
    let identity = sessions::identify(&app.app, session).await.unwrap();
    let actor = AdminActor::new(&app.app, identity, RequestContext::default()).unwrap();

    // While the server holds back all writes, the request of the purge is dropped.
    let mut conn = connect(redis.url.expose_secret()).await.unwrap();
    let mut pause = redis::cmd("CLIENT");
    pause.arg("PAUSE").arg(600_000).arg("WRITE").query_async::<()>(&mut conn).await.unwrap();
    let sql = "SELECT action FROM audit_log WHERE target_type = 'queue' ORDER BY id";
    let has_begun = || async { (column(&app.database, sql).await == ["queue.purged"]).then_some(()) };
    tokio::select! {
        purged = queue_admin::purge(&app.app, &actor, &queue, State::Queued) => panic!("{purged:?}"),
        () = eventually("the audit entry is written", has_begun) => {}
    }

    // The server then refuses the writes, because it is a replica now. The purge writes an audit entry about the failure.
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).query_async::<()>(&mut conn).await.unwrap();
    redis::cmd("CLIENT").arg("UNPAUSE").query_async::<()>(&mut conn).await.unwrap();
    let has_failed = || async {
        let actions = column(&app.database, sql).await;
        (actions == ["queue.purged", "operation.failed"]).then_some(())
    };
    eventually("the failure is in the audit trail", has_failed).await;
    redis.stop().await;
}
