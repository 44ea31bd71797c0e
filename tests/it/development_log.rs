//! The log of `saas dev`, and the log of a worker at the level `debug`.

use reqwest::Method;
use saas::{jobs::RelayOutbox, queue::Origin};
use serde_json::{Value, json};

use crate::support::{
    TestApp,
    process::{Running, TempDir, production_command, run, saas},
};

fn request_id(response: &reqwest::Response) -> String {
    response.headers()["x-request-id"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn dev_logs_the_reason_of_a_refusal_and_no_successful_periodic_requests() {
    let dir = TempDir::new();
    let mut command = saas(&["dev", "--port", "0", "--bcrypt-cost", "4"]);
    command.current_dir(dir.path());
    let mut product = Running::start(command);
    let api = product.wait_for_output("API       ").await;
    product.wait_for_output("worker started").await;
    let root = api.strip_suffix("/api/v1").unwrap();
    let client = reqwest::Client::new();
    let get = |path: &str| client.get(format!("{root}{path}")).send();

    assert_eq!(get("/dev/mail").await.unwrap().status(), 200);
    assert_eq!(get("/api/v1/health").await.unwrap().status(), 200);
    let read = request_id(&get("/docs").await.unwrap());
    let refused = client.post(format!("{api}/auth/register")).json(&json!({})).send().await.unwrap();
    let refused = request_id(&refused);
    get("/dev/mail/unknown").await.unwrap();
    get("/nothing/here?token=hunter2").await.unwrap();

    let line = product.wait_for_output("POST /api/v1/auth/register 422 validation_error ").await;
    for expected in ["body.email", "body.password", &*refused] {
        assert!(line.contains(expected), "{expected} is not in {line}");
    }
    product.wait_for_output("GET /dev/mail/{id} 404 not_found ").await;
    product.wait_for_output("GET /nothing/here 404 not_found ").await;
    let line = product.wait_for_output("GET /docs 200 ").await;
    assert!(!line.contains(&read) && line.contains(&read[28..]), "{line}");
    let output = product.output();
    assert!(!output.contains("GET /api/v1/health"), "{output}");
    assert!(!output.contains("hunter2"), "{output}");
    assert_eq!(output.matches("GET /dev/mail").count(), 1, "{output}");
    product.signal("TERM");
    assert_eq!(product.end().await.code(), Some(0));
}

#[tokio::test]
async fn the_level_debug_shows_sql_statements_and_jobs_without_work() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
    app.app.queue.enqueue(&RelayOutbox {}, Origin::default()).await.unwrap();
    let mut command = production_command(&["worker", "--burst"], &app.database, &app.prefix).await;
    command.env("LOG_LEVEL", "debug");
    let ended = run(command).await.succeeded();
    let lines: Vec<Value> = ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let level_of = |task: &str, message: &str| {
        let is_it = |line: &&Value| {
            line["task"] == task && line["message"].as_str().is_some_and(|text| text.starts_with(message))
        };
        lines.iter().find(is_it).unwrap_or_else(|| panic!("{task}: {message}"))["level"].clone()
    };
    assert_eq!(level_of("example_task", "job started"), "debug");
    assert_eq!(level_of("example_task", "job finished"), "info");
    assert_eq!(level_of("hand_over_letters", "job finished"), "debug");
    let statements: Vec<_> = lines.iter().filter_map(|line| line["sql"].as_str()).collect();
    assert!(statements.iter().any(|sql| sql.contains("SELECT") && sql.contains("outbox")), "{statements:?}");
    assert!(!statements.iter().any(|sql| sql.contains("binds")), "{statements:?}");
}
