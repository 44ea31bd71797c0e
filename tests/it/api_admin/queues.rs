use reqwest::Method;
use serde_json::{Value, json};

use super::{Chore, call_ok, enqueue, enqueue_after, enqueue_in_an_hour, run_chores};
use crate::support::{
    TestApp, User,
    app::{Answer, fields},
    records::column,
};

async fn update_queue(app: &TestApp, name: &str, admin: &User, body: Value) -> Answer {
    let request = app.request(Method::PATCH, &format!("/admin/queues/{name}")).json(&body);
    Answer::of(request.bearer_auth(&admin.token)).await
}

/// Returns the queue `chores` from the list of queues.
async fn find_chores_queue(app: &TestApp, admin: &User) -> Option<Value> {
    let queues = call_ok(app, Method::GET, "/admin/queues", admin).await;
    queues.as_array().unwrap().iter().find(|queue| queue["name"] == "chores").cloned()
}

#[tokio::test]
async fn smoke_queues_are_listed_with_their_job_counts() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    assert_eq!(find_chores_queue(&app, &admin).await, None);
    enqueue(&app, Chore::Fail).await;
    assert_eq!(run_chores(&app).await.failed, 1);
    let first = enqueue(&app, Chore::Succeed).await;
    enqueue_in_an_hour(&app).await;
    enqueue_after(&app, &first).await;
    let mut queue = find_chores_queue(&app, &admin).await.unwrap();
    assert!(queue["latency_seconds"].take().as_f64().unwrap() >= 0.0);
    let expected = json!({
        "name": "chores",
        "paused": false,
        "queued": 1,
        "scheduled": 1,
        "deferred": 1,
        "started": 0,
        "failed": 1,
        "latency_seconds": null,
        "totals": { "enqueued": 4, "requeued": 0, "finished": 0, "failed": 1, "canceled": 0 },
        "concurrency_limit": null,
        "rate_limit": null,
    });
    assert_eq!(queue, expected);
}

#[tokio::test]
async fn a_queue_update_changes_only_the_given_fields() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let settings = |answer: Answer| {
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["name"], "chores");
        ["paused", "concurrency_limit", "rate_limit"].map(|name| answer.body[name].clone())
    };
    // A queue has settings even before its first job.
    let rate = json!({ "jobs": 50, "per_seconds": 60 });
    let all = json!({ "paused": true, "concurrency_limit": 3, "rate_limit": rate });
    let expected = [json!(true), json!(3), rate.clone()];
    assert_eq!(settings(update_queue(&app, "chores", &admin, all).await), expected);
    assert_eq!(settings(update_queue(&app, "chores", &admin, json!({})).await), expected);
    // 3.0 is an integer in JSON Schema.
    let same = json!({ "concurrency_limit": 3.0, "rate_limit": { "jobs": 50.0, "per_seconds": 60.0 } });
    assert_eq!(settings(update_queue(&app, "chores", &admin, same).await), expected);

    enqueue(&app, Chore::Succeed).await;
    assert_eq!(run_chores(&app).await.finished, 0);
    let resumed = json!({ "paused": false, "concurrency_limit": null });
    let expected = [json!(false), Value::Null, rate];
    assert_eq!(settings(update_queue(&app, "chores", &admin, resumed).await), expected);
    assert_eq!(run_chores(&app).await.finished, 1);
    let unlimited = json!({ "rate_limit": null });
    let expected = [json!(false), Value::Null, Value::Null];
    assert_eq!(settings(update_queue(&app, "chores", &admin, unlimited).await), expected);
    let queue = find_chores_queue(&app, &admin).await.unwrap();
    assert_eq!((&queue["totals"]["finished"], &queue["latency_seconds"]), (&json!(1), &Value::Null));
}

#[tokio::test]
async fn every_invalid_field_of_a_queue_update_is_reported() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (body, wrong) in [
        (json!({ "concurrency_limit": 0 }), vec![("body.concurrency_limit", "greater_than_equal")]),
        (json!({ "concurrency_limit": 100_001 }), vec![("body.concurrency_limit", "less_than_equal")]),
        (json!({ "concurrency_limit": 1.5 }), vec![("body.concurrency_limit", "int_type")]),
        (json!({ "paused": null }), vec![("body.paused", "bool_type")]),
        (
            json!({ "paused": "yes", "pause": true }),
            vec![("body.pause", "extra_forbidden"), ("body.paused", "bool_type")],
        ),
        (
            json!({ "rate_limit": {} }),
            vec![("body.rate_limit.jobs", "missing"), ("body.rate_limit.per_seconds", "missing")],
        ),
        (
            json!({ "rate_limit": { "jobs": 0, "per_seconds": 86_401 } }),
            vec![
                ("body.rate_limit.jobs", "greater_than_equal"),
                ("body.rate_limit.per_seconds", "less_than_equal"),
            ],
        ),
        (
            json!({ "rate_limit": { "jobs": 4_294_967_296_u64, "per_seconds": 1 } }),
            vec![("body.rate_limit.jobs", "less_than_equal")],
        ),
    ] {
        let answer = update_queue(&app, "chores", &admin, body.clone()).await;
        assert_eq!(answer.invalid_fields(), fields(&wrong), "{body}");
    }
    assert_eq!(find_chores_queue(&app, &admin).await, None);
}

#[tokio::test]
async fn an_invalid_queue_name_is_refused() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let long = "x".repeat(101);
    for (name, kind) in [("a%20b", "value_error"), ("a:1", "value_error"), (&*long, "string_too_long")] {
        let wrong = fields(&[("path.name", kind)]);
        let changed = update_queue(&app, name, &admin, json!({ "paused": true })).await;
        assert_eq!(changed.invalid_fields(), wrong, "{name}");
        let requeued = app.call(Method::POST, &format!("/admin/queues/{name}/requeue"), &admin).await;
        assert_eq!(requeued.invalid_fields(), wrong, "{name}");
        let purge = format!("/admin/queues/{name}/jobs?status=failed");
        assert_eq!(app.call(Method::DELETE, &purge, &admin).await.invalid_fields(), wrong, "{name}");
        let list = app.call(Method::GET, &format!("/admin/jobs?queue={name}"), &admin).await;
        assert_eq!(list.invalid_fields(), fields(&[("query.queue", kind)]), "{name}");
    }
    let longest = "x".repeat(100);
    assert_eq!(update_queue(&app, &longest, &admin, json!({ "paused": true })).await.status, 200);
}

#[tokio::test]
async fn an_unused_queue_is_not_found() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for answer in [
        update_queue(&app, "unused", &admin, json!({})).await,
        update_queue(&app, "unused", &admin, json!({ "paused": false, "rate_limit": null })).await,
        app.call(Method::POST, "/admin/queues/unused/requeue", &admin).await,
        app.call(Method::DELETE, "/admin/queues/unused/jobs?status=failed", &admin).await,
    ] {
        answer.is_problem(404, "not_found", "Queue not found");
    }
    let audited = "SELECT count(*) FROM audit_log WHERE target_id = 'unused'";
    assert_eq!(column(&app.database, audited).await, ["0"]);
    let page = call_ok(&app, Method::GET, "/admin/jobs?queue=unused", &admin).await;
    assert_eq!(page, json!({ "items": [], "next_cursor": null, "total": 0, "offset": 0, "limit": 50 }));
}

#[tokio::test]
async fn a_purge_deletes_the_jobs_of_one_state() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    enqueue(&app, Chore::Fail).await;
    run_chores(&app).await;
    let first = enqueue(&app, Chore::Succeed).await;
    enqueue_in_an_hour(&app).await;
    enqueue_after(&app, &first).await;
    // The deferred job is purged first, because a purge of the queued job, on which it depends, would make it fail.
    let states = ["deferred", "queued", "scheduled", "failed"];
    for (n, state) in states.into_iter().enumerate() {
        let path = format!("/admin/queues/chores/jobs?status={state}");
        for count in [1, 0] {
            assert_eq!(
                call_ok(&app, Method::DELETE, &path, &admin).await,
                json!({ "count": count }),
                "{state}"
            );
        }
        let queue = find_chores_queue(&app, &admin).await.unwrap();
        for (m, state) in states.into_iter().enumerate() {
            assert_eq!(queue[state], u8::from(m > n), "{state}");
        }
    }
    assert_eq!(find_chores_queue(&app, &admin).await.unwrap()["totals"]["canceled"], 3);

    for (query, kind) in [("", "missing"), ("?status=started", "enum"), ("?status=", "enum")] {
        let path = format!("/admin/queues/chores/jobs{query}");
        let answer = app.call(Method::DELETE, &path, &admin).await;
        assert_eq!(answer.invalid_fields(), fields(&[("query.status", kind)]), "{query}");
    }
}

#[tokio::test]
async fn the_failed_jobs_of_a_queue_are_requeued() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for _ in 0..3 {
        enqueue(&app, Chore::Fail).await;
    }
    run_chores(&app).await;
    for count in [3, 0] {
        let answer = call_ok(&app, Method::POST, "/admin/queues/chores/requeue", &admin).await;
        assert_eq!(answer, json!({ "count": count }));
    }
    let queue = find_chores_queue(&app, &admin).await.unwrap();
    assert_eq!(
        (&queue["queued"], &queue["failed"], &queue["totals"]["requeued"]),
        (&json!(3), &json!(0), &json!(3))
    );
    assert_eq!(run_chores(&app).await.failed, 3);
}
