use std::collections::BTreeSet;

use reqwest::Method;
use saas::{
    jobs::SendEmail,
    queue::{Origin, Summary},
};
use serde_json::{Value, json};

use super::{Chore, call_ok, enqueue, enqueue_after, enqueue_in_an_hour, ids, run_chores};
use crate::support::{TestApp, app::fields};

#[tokio::test]
async fn jobs_are_listed_page_by_page() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut enqueued = Vec::new();
    for _ in 0..5 {
        enqueued.push(enqueue(&app, Chore::Fail).await);
    }
    let pages = async |status: &str| {
        let mut pages = Vec::new();
        for offset in [0, 2, 4, 6] {
            let path = format!("/admin/jobs?queue=chores&status={status}&offset={offset}&limit=2");
            let page = call_ok(&app, Method::GET, &path, &admin).await;
            let about = (&page["total"], &page["offset"], &page["limit"]);
            assert_eq!(about, (&json!(5), &json!(offset), &json!(2)), "{status}");
            pages.push(ids(&page));
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1, 0], "{status}");
        pages.concat()
    };
    assert_eq!(pages("queued").await, enqueued, "the next job comes first");
    run_chores(&app).await;
    let failed: BTreeSet<String> = pages("failed").await.into_iter().collect();
    assert_eq!(failed, BTreeSet::from_iter(enqueued));
}

#[tokio::test]
async fn scheduled_and_deferred_jobs_are_listed() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let scheduled = enqueue_in_an_hour(&app).await;
    let deferred = enqueue_after(&app, &scheduled).await;
    for (status, id) in [("scheduled", &scheduled), ("deferred", &deferred)] {
        let path = format!("/admin/jobs?queue=chores&status={status}");
        let page = call_ok(&app, Method::GET, &path, &admin).await;
        assert_eq!((ids(&page), &page["total"]), (vec![id.clone()], &json!(1)));
        assert_eq!(page["items"][0]["status"], status);
    }
    let job = call_ok(&app, Method::GET, &format!("/admin/jobs/{scheduled}"), &admin).await;
    assert!(job["due_at"].is_string() && job["started_at"].is_null() && job["ended_at"].is_null());
}

#[tokio::test]
async fn the_job_list_defaults_to_the_failed_jobs_of_the_default_queue() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mail = SendEmail { to: "x".into(), subject: "Hi".into(), body: "Hello".into(), permitted: true };
    let id = app.app.queue.enqueue(&mail, Origin::default()).await.unwrap();
    enqueue(&app, Chore::Fail).await;
    run_chores(&app).await;
    app.run_jobs().await;
    let page = call_ok(&app, Method::GET, "/admin/jobs", &admin).await;
    assert_eq!(ids(&page), [id]);
    assert_eq!((&page["total"], &page["offset"], &page["limit"]), (&json!(1), &json!(0), &json!(50)));
    assert_eq!(page["items"][0]["error"], "The address of the recipient is not valid");
}

#[tokio::test]
async fn every_invalid_parameter_of_the_job_list_is_reported() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (query, wrong) in [
        ("limit=0", vec![("query.limit", "greater_than_equal")]),
        ("limit=201", vec![("query.limit", "less_than_equal")]),
        ("limit=many", vec![("query.limit", "int_type")]),
        ("offset=-1", vec![("query.offset", "greater_than_equal")]),
        ("offset=1000001", vec![("query.offset", "less_than_equal")]),
        ("status=finished", vec![("query.status", "enum")]),
        (
            "status=x&offset=1.5&limit=0",
            vec![
                ("query.limit", "greater_than_equal"),
                ("query.offset", "int_type"),
                ("query.status", "enum"),
            ],
        ),
    ] {
        let answer = app.call(Method::GET, &format!("/admin/jobs?{query}"), &admin).await;
        assert_eq!(answer.invalid_fields(), fields(&wrong), "{query}");
    }
    call_ok(&app, Method::GET, "/admin/jobs?limit=200&offset=1000000", &admin).await;
}

#[tokio::test]
async fn smoke_a_job_is_shown_with_all_its_details() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let origin = Origin { owner: Some(admin.id), request_id: Some("request-1".into()), ..Origin::default() };
    let id = app.app.queue.enqueue(&Chore::Fail, origin).await.unwrap();
    run_chores(&app).await;
    let mut job = call_ok(&app, Method::GET, &format!("/admin/jobs/{id}"), &admin).await;
    assert!(job["enqueued_at"].take().is_string() && job["ended_at"].take().is_string());
    let expected = json!({
        "job_id": id,
        "status": "failed",
        "task": "chore",
        "queue": "chores",
        "owner": admin.id,
        "scope": null,
        "payload": "Fail",
        "group": format!("owner:{}", admin.id),
        "request_id": "request-1",
        "worker": null,
        "result": null,
        "error": "The job failed",
        "error_detail": "the bucket in /srv leaks",
        "progress": null,
        "attempts": 1,
        "enqueued_at": null,
        "due_at": null,
        "started_at": null,
        "ended_at": null,
    });
    assert_eq!(job, expected);

    let id = enqueue(&app, Chore::Succeed).await;
    run_chores(&app).await;
    let job = call_ok(&app, Method::GET, &format!("/admin/jobs/{id}"), &admin).await;
    assert_eq!(
        (&job["status"], &job["result"], &job["payload"], &job["owner"]),
        (&json!("finished"), &json!("done"), &Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn a_failed_job_is_requeued() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = enqueue(&app, Chore::Fail).await;
    let path = format!("/admin/jobs/{id}/requeue");
    let refused = || async {
        let answer = app.call(Method::POST, &path, &admin).await;
        answer.is_problem(409, "conflict", "Only failed jobs can be requeued");
    };
    refused().await;
    run_chores(&app).await;
    let answer = call_ok(&app, Method::POST, &path, &admin).await;
    assert_eq!(answer, json!({ "job_id": id, "status": "queued" }));
    let job = call_ok(&app, Method::GET, &format!("/admin/jobs/{id}"), &admin).await;
    assert_eq!(
        (&job["status"], &job["attempts"], &job["error"]),
        (&json!("queued"), &json!(0), &Value::Null)
    );
    refused().await;
    assert_eq!(run_chores(&app).await.failed, 1);
}

#[tokio::test]
async fn a_waiting_job_is_canceled_at_once() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for id in [enqueue(&app, Chore::Succeed).await, enqueue_in_an_hour(&app).await] {
        let path = format!("/admin/jobs/{id}");
        let answer = call_ok(&app, Method::DELETE, &path, &admin).await;
        assert_eq!(answer, json!({ "message": "Job canceled", "job_id": id, "status": "canceled" }));
        assert_eq!(call_ok(&app, Method::GET, &path, &admin).await["status"], "canceled");
        let again = app.call(Method::DELETE, &path, &admin).await;
        again.is_problem(409, "conflict", "Job has already ended");
    }
    assert_eq!(run_chores(&app).await, Summary::default());
    let failed = enqueue(&app, Chore::Fail).await;
    run_chores(&app).await;
    let answer = app.call(Method::DELETE, &format!("/admin/jobs/{failed}"), &admin).await;
    answer.is_problem(409, "conflict", "Job has already ended");
}

#[tokio::test]
async fn an_unknown_job_is_not_found() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for id in ["0".repeat(32), "x".into(), "*".into(), "%20".into()] {
        for (method, path) in [
            (Method::GET, format!("/admin/jobs/{id}")),
            (Method::DELETE, format!("/admin/jobs/{id}")),
            (Method::POST, format!("/admin/jobs/{id}/requeue")),
        ] {
            app.call(method, &path, &admin).await.is_problem(404, "not_found", "Job not found");
        }
    }
}
