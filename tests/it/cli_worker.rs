//! `saas worker` as a process, next to the API.

use reqwest::Method;

use crate::support::{
    TestApp,
    app::Answer,
    eventually,
    process::{Running, production, run},
};

impl TestApp {
    async fn worker(&self, args: &[&str]) -> std::process::Command {
        production(&[&["worker"], args].concat(), &self.database, &self.prefix).await
    }

    async fn state(&self, id: &str, user: &crate::support::User) -> String {
        let status = self.get(&format!("/jobs/{id}/status"), Some(user)).await;
        status.body["status"].as_str().unwrap().to_owned()
    }

    async fn example(&self, seconds: u32, user: &crate::support::User) -> String {
        let path = format!("/jobs/example?name=x&duration={seconds}");
        self.call(Method::POST, &path, user).await.body["job_id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn smoke_burst_runs_all_jobs_and_exits() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let ids = [app.example(0, &user).await, app.example(0, &user).await];
    let ended = run(app.worker(&["--burst"]).await).await.succeeded();
    for id in &ids {
        assert_eq!(app.state(id, &user).await, "finished");
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
        let ended = run(app.worker(&["--burst"]).await).await.succeeded();
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
    let id = app.example(3_600, &user).await;
    let args = ["--lease-seconds", "3"];
    let mut first = Running::start(app.worker(&args).await);
    eventually("it runs", || async { (app.state(&id, &user).await == "started").then_some(()) }).await;
    let mut second = Running::start(app.worker(&args).await);
    second.says("worker started").await;
    first.signal("KILL");
    first.end().await;
    second.says("recovered jobs").await;
    eventually("the second runs it", || async {
        let status = app.get(&format!("/jobs/{id}/status"), Some(&user)).await.body;
        (status["status"] == "started" && status["attempts"].as_u64() >= Some(2)).then_some(())
    })
    .await;
    app.call(Method::DELETE, &format!("/jobs/{id}"), &user).await;
    eventually("it is canceled", || async { (app.state(&id, &user).await == "canceled").then_some(()) })
        .await;
    second.signal("TERM");
    assert_eq!(second.end().await.code(), Some(0));
}

#[tokio::test]
async fn sigterm_returns_unfinished_jobs_to_the_queue() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for signals in [1, 2] {
        let id = app.example(3_600, &user).await;
        let grace = if signals == 1 { "0" } else { "3600" };
        let mut worker = Running::start(app.worker(&["--shutdown-grace-seconds", grace]).await);
        eventually("it runs", || async { (app.state(&id, &user).await == "started").then_some(()) }).await;
        worker.signal("TERM");
        if signals == 2 {
            worker.says("worker stopping").await;
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
    let mut command = app.worker(&[]).await;
    command.env("REDIS_URL", "redis://127.0.0.1:9/0");
    let mut worker = Running::start(command);
    worker.says("cannot reach Redis, retrying").await;
    assert!(!worker.has_ended());
    worker.signal("TERM");
    assert_eq!(worker.end().await.code(), Some(0));
}
