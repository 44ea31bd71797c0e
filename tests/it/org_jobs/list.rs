//! The list of the jobs of an organization.

use reqwest::Method;
use saas::services::housekeeping;
use serde_json::{Value, json};

use super::ids;
use crate::support::{TestApp, app::Answer};

#[tokio::test]
async fn the_list_of_org_jobs_has_pages_a_filter_and_the_status_of_each_job() {
    let app = TestApp::start().await;
    let org = app.empty_org("one").await;
    let mut jobs = Vec::new();
    for n in 0..5 {
        jobs.push(app.enqueue_import(&org, &org.owner, &[&format!("new-{n}")]).await);
    }
    jobs.reverse();
    let first = app.list_org_jobs(&org, "?limit=2", &org.owner).await;
    assert_eq!(ids(&first), jobs[..2]);
    let next = |page: &Answer| format!("?limit=2&cursor={}", page.body["next_cursor"].as_str().unwrap());
    let second = app.list_org_jobs(&org, &next(&first), &org.owner).await;
    let third = app.list_org_jobs(&org, &next(&second), &org.owner).await;
    assert_eq!((ids(&second), ids(&third)), (jobs[2..4].iter().map(|id| &**id).collect(), vec![&*jobs[4]]));
    assert_eq!(third.body["next_cursor"], Value::Null);
    app.sql(&format!("UPDATE org_jobs SET task = 'another' WHERE id = '{}'", jobs[3])).await;
    assert_eq!(ids(&app.list_org_jobs(&org, "?task=another", &org.owner).await), [&jobs[3]]);
    assert_eq!(ids(&app.list_org_jobs(&org, "?task=nothing", &org.owner).await), [""; 0]);

    app.run_jobs().await;
    // `old` is a job that ended long ago: only its row in `org_jobs` is left. `new` is a job that was just committed, and is
    // still in the outbox.
    let old = "01890000000070008000000000000000";
    let new = "ffffffffffff7000800000000000000f";
    let row =
        |id: &str| format!("INSERT INTO org_jobs (org_id, id, task) VALUES ({}, '{id}', 'old');", org.id);
    let envelope = r#"{"v":1,"task":"old","queue":"default","ttl":1,"at":1,"payload":{}}"#;
    app.sql(&format!(
        "{}{} INSERT INTO job_outbox (id, queue, task, envelope, options, claimed_until)
             VALUES ('{new}', 'default', 'old', '{envelope}', '{{}}', now() + interval '1 hour')",
        row(old),
        row(new)
    ))
    .await;
    let list = app.list_org_jobs(&org, "", &org.owner).await;
    let states: Vec<_> =
        list.body["items"].as_array().unwrap().iter().map(|job| job["status"].clone()).collect();
    let finished = json!("finished");
    assert_eq!(
        states,
        [&json!("queued"), &finished, &finished, &finished, &finished, &finished, &Value::Null]
            .map(Value::clone)
    );
    assert!(list.body["items"][1]["ended_at"].is_string() && list.body["items"][6]["ended_at"].is_null());
    app.call_org_job(Method::GET, &org, old, &org.owner).await.is_some_problem(404, "not_found");

    // Housekeeping deletes rows that are older than 30 days.
    app.sql("UPDATE org_jobs SET created_at = now() - interval '31 days' WHERE task = 'old'").await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().org_jobs, 2);
    assert_eq!(ids(&app.list_org_jobs(&org, "", &org.owner).await), jobs);
}

#[tokio::test]
async fn without_redis_the_list_of_jobs_is_unavailable() {
    let app = TestApp::start().await;
    let org = app.empty_org("one").await;
    let flags = ["--redis-url=redis://127.0.0.1:1/0", "--redis-timeout-ms=200"];
    let away = TestApp::on(app.database.clone(), &flags).await;
    app.enqueue_import(&org, &org.owner, &["new-1"]).await;
    away.list_org_jobs(&org, "", &org.owner).await.is_some_problem(503, "unavailable");
}
