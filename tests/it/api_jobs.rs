use reqwest::Method;
use saas::{jobs, queue::Worker};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    TestApp, User,
    app::{Answer, fields, options},
    eventually,
    proxy::Proxy,
    servers::{servers, unique},
    smtp::SmtpServer,
};

impl TestApp {
    pub async fn enqueue(&self, path: &str, user: &User) -> String {
        let answer = self.call(Method::POST, path, user).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body["job_id"].as_str().unwrap().to_owned()
    }

    pub async fn status(&self, id: &str, user: &User) -> Value {
        let answer = self.get(&format!("/jobs/{id}/status"), Some(user)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    }
}

#[tokio::test]
async fn smoke_a_job_goes_from_queued_to_finished() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let answer = app.call(Method::POST, "/jobs/example?name=my-task&duration=0", &user).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body["task"], "example_task");
    assert_eq!(answer.body["parameters"], json!({ "name": "my-task", "duration": 0 }));
    assert!(answer.body["message"].is_string());
    let id = answer.body["job_id"].as_str().unwrap();

    let queued = app.status(id, &user).await;
    assert_eq!(
        (&queued["status"], &queued["queue"], &queued["task"]),
        (&json!("queued"), &json!("default"), &json!("example_task"))
    );
    assert_eq!(
        (&queued["job_id"], &queued["attempts"], &queued["result"]),
        (&json!(id), &json!(0), &Value::Null)
    );
    assert!(
        queued["enqueued_at"].is_string() && queued["started_at"].is_null() && queued["ended_at"].is_null()
    );

    assert_eq!(app.run_jobs().await.finished, 1);
    let finished = app.status(id, &user).await;
    assert_eq!(
        (&finished["status"], &finished["attempts"], &finished["error"]),
        (&json!("finished"), &json!(1), &Value::Null)
    );
    assert_eq!(finished["result"]["task_name"], "my-task");
    assert_eq!(finished["result"]["status"], "completed");
    assert!(finished["started_at"].is_string() && finished["ended_at"].is_string());
    for name in
        ["job_id", "status", "result", "error", "progress", "attempts", "queue", "task", "enqueued_at"]
    {
        assert!(finished.get(name).is_some(), "{name} is missing");
    }
}

/// A job that the API accepts must be one that a worker can read.
#[tokio::test]
async fn a_deeply_nested_document_is_refused_or_processed() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let (mut accepted, mut refused) = (0, 0);
    for depth in [1, 100, 121, 122, 123, 124, 125, 126, 127, 128, 1_000] {
        let body = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        let send = |body: &String| {
            let request = app.request(Method::POST, "/jobs/process-data").bearer_auth(&user.token);
            request.header("content-type", "application/json").body(body.clone())
        };
        let answer = Answer::of(send(&body)).await;
        if answer.status == 200 {
            accepted += 1;
            assert_eq!(app.run_jobs().await.finished, 1, "{depth}");
            let status = app.status(answer.body["job_id"].as_str().unwrap(), &user).await;
            assert_eq!(status["status"], "finished", "{depth}: {status}");
            // The record of a job that is canceled while it waits contains the payload too.
            let waiting = Answer::of(send(&body)).await.body["job_id"].as_str().unwrap().to_owned();
            app.call(Method::DELETE, &format!("/jobs/{waiting}"), &user).await;
            let canceled = app.get(&format!("/admin/jobs/{waiting}"), Some(&admin)).await;
            assert_eq!(canceled.body["status"], "canceled", "{depth}: {}", canceled.text);
        } else {
            refused += 1;
            answer.is_some_problem(400, "malformed");
        }
    }
    assert!(accepted >= 2 && refused >= 2, "{accepted} accepted, {refused} refused");
}

#[tokio::test]
async fn the_duration_of_the_example_job_defaults_to_five_seconds() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let answer = app.call(Method::POST, "/jobs/example?name=x", &user).await;
    assert_eq!(answer.body["parameters"]["duration"], 5);
    assert_eq!(app.call(Method::POST, "/jobs/example?name=x&duration=3600", &user).await.status, 200);
}

#[tokio::test]
async fn enqueuing_reports_every_invalid_parameter() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for (query, wrong) in [
        ("", vec![("query.name", "missing")]),
        (
            "?name=&duration=-1",
            vec![("query.duration", "greater_than_equal"), ("query.name", "string_too_short")],
        ),
        ("?duration=3601", vec![("query.duration", "less_than_equal"), ("query.name", "missing")]),
        ("?name=x&duration=soon", vec![("query.duration", "int_type")]),
        ("?name=x&duration=1.5", vec![("query.duration", "int_type")]),
        ("?name=x&duration=99999999999999999999", vec![("query.duration", "int_type")]),
    ] {
        let answer = app.call(Method::POST, &format!("/jobs/example{query}"), &user).await;
        assert_eq!(answer.invalid_fields(), fields(&wrong), "{query}");
    }
    let mail = app.call(Method::POST, "/jobs/send-email?to=invalid&subject=s&body=b", &user).await;
    assert_eq!(mail.invalid_fields(), fields(&[("query.to", "value_error")]));
    let mail = app.call(Method::POST, "/jobs/send-email", &user).await;
    let all = [("query.body", "missing"), ("query.subject", "missing"), ("query.to", "missing")];
    assert_eq!(mail.invalid_fields(), fields(&all));
}

#[tokio::test]
async fn jobs_require_authentication() {
    let app = TestApp::start().await;
    for path in
        ["/jobs/example?name=x", "/jobs/send-email?to=a@example.com&subject=s&body=b", "/jobs/process-data"]
    {
        app.post(path, None, json!({})).await.is_problem(401, "not_authenticated", "Not authenticated");
    }
    app.get("/jobs/x/status", None).await.is_some_problem(401, "not_authenticated");
}

#[tokio::test]
async fn a_job_is_visible_to_its_owner_and_admins_only() {
    let app = TestApp::start().await;
    let (owner, other, admin) = (app.user().await, app.user().await, app.admin().await);
    let id = app.enqueue("/jobs/example?name=x&duration=0", &owner).await;
    for round in ["queued", "finished"] {
        assert_eq!(app.status(&id, &owner).await["status"], round);
        assert_eq!(app.status(&id, &admin).await["status"], round);
        let path = format!("/jobs/{id}");
        app.get(&format!("{path}/status"), Some(&other)).await.is_problem(404, "not_found", "Job not found");
        app.call(Method::DELETE, &path, &other).await.is_problem(404, "not_found", "Job not found");
        app.run_jobs().await;
    }
    for unknown in ["0".repeat(32), "x".into(), "*".into(), "%20".into(), "a".repeat(5_000)] {
        app.get(&format!("/jobs/{unknown}/status"), Some(&owner)).await.is_problem(
            404,
            "not_found",
            "Job not found",
        );
    }
}

#[tokio::test]
async fn a_queued_job_is_canceled_at_once() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let id = app.enqueue("/jobs/example?name=x&duration=0", &user).await;
    let path = format!("/jobs/{id}");
    let answer = app.call(Method::DELETE, &path, &user).await;
    assert_eq!((answer.status.as_u16(), &answer.body["status"]), (200, &json!("canceled")));
    assert_eq!(app.status(&id, &user).await["status"], "canceled");
    assert_eq!(app.run_jobs().await.finished, 0);
    app.call(Method::DELETE, &path, &user).await.is_problem(409, "conflict", "Job has already ended");
}

#[tokio::test]
async fn a_running_job_is_canceled() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let id = app.enqueue("/jobs/example?name=x&duration=3600", &user).await;
    let worker = Worker::new(&app.app.queue, jobs::ALL, app.app.clone(), options(&["default"])).unwrap();
    let never = CancellationToken::new();
    let work = tokio::spawn(worker.run(never.clone(), never));
    let status = || async { app.status(&id, &user).await["status"].as_str().unwrap().to_owned() };
    eventually("the job starts", || async { (status().await == "started").then_some(()) }).await;
    let answer = app.call(Method::DELETE, &format!("/jobs/{id}"), &user).await;
    assert_eq!((answer.status.as_u16(), &answer.body["status"]), (200, &json!("started")));
    eventually("the job is canceled", || async { (status().await == "canceled").then_some(()) }).await;
    assert_eq!(work.await.unwrap().unwrap().canceled, 1);
}

#[tokio::test]
async fn the_job_process_data_returns_the_keys_and_counts_the_values() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let answer =
        app.post("/jobs/process-data", Some(&user), json!({ "a": [1, 2], "b": { "c": null } })).await;
    assert_eq!((answer.status.as_u16(), &answer.body["task"]), (200, &json!("process_data_task")));
    app.run_jobs().await;
    let status = app.status(answer.body["job_id"].as_str().unwrap(), &user).await;
    assert_eq!(status["result"], json!({ "status": "processed", "keys": ["a", "b"], "values": 3 }));
    let list = app.post("/jobs/process-data", Some(&user), json!([1])).await;
    assert_eq!(list.invalid_fields(), fields(&[("body", "object_type")]));
}

#[tokio::test]
async fn without_smtp_a_mail_is_captured_in_a_file() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let id = app
        .enqueue("/jobs/send-email?to=Bob@Example.com&subject=Gr%C3%BC%C3%9Fe&body=Hello%0AYou", &user)
        .await;
    app.run_jobs().await;
    let status = app.status(&id, &user).await;
    assert_eq!((&status["status"], &status["result"]["status"]), (&json!("finished"), &json!("captured")));
    let file = app.app.config.mail.mail_dir.join(format!("{id}.eml"));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("To: bob@example.com") && text.contains("Hello\r\nYou"), "{text}");
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

/// Clients of earlier releases send the fields in the query, some of them with an unrelated body or content
/// type.
#[tokio::test]
async fn an_email_is_accepted_in_the_body_or_in_the_query() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let (path, query) = ("/jobs/send-email", "/jobs/send-email?to=bob@example.com&subject=Hi&body=Hello");
    let email = json!({ "to": "Bob@Example.com", "subject": "Hi", "body": "Hello" });
    let mut ids = Vec::new();
    for (path, body) in [(path, email.clone()), (query, json!({})), (query, json!("x"))] {
        let answer = app.post(path, Some(&user), body).await;
        assert_eq!((answer.status.as_u16(), &answer.body["task"]), (200, &json!("send_email_task")));
        ids.push(answer.body["job_id"].as_str().unwrap().to_owned());
    }
    for kind in ["application/json", "application/x-www-form-urlencoded"] {
        let request = app.request(Method::POST, query).bearer_auth(&user.token).header("content-type", kind);
        assert_eq!(Answer::of(request).await.status, 200, "{kind}");
    }
    app.run_jobs().await;
    for id in ids {
        assert_eq!(app.status(&id, &user).await["result"]["to"], "bob@example.com");
    }

    let wrong = json!({ "to": "x", "subject": "", "body": null, "cc": "a@example.com" });
    let all = [
        ("body.body", "string_type"),
        ("body.cc", "extra_forbidden"),
        ("body.subject", "string_too_short"),
        ("body.to", "value_error"),
    ];
    assert_eq!(app.post(path, Some(&user), wrong).await.invalid_fields(), fields(&all));
    let mixed = app.post(&format!("{path}?subject=Hi"), Some(&user), email).await;
    assert_eq!(mixed.invalid_fields(), fields(&[("query.body", "missing"), ("query.to", "missing")]));
    let form = app.form(path, &[("to", "bob@example.com")]).bearer_auth(&user.token);
    Answer::of(form).await.is_some_problem(415, "unsupported_media_type");
}

/// The body of an email may have 40,000 characters, in any JSON encoding of a character.
#[tokio::test]
async fn the_longest_email_is_accepted() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let send = |text: String| {
        let body = format!(r#"{{"to":"bob@example.com","subject":"Hi","body":"{text}"}}"#);
        let request = app.request(Method::POST, "/jobs/send-email").bearer_auth(&user.token);
        Answer::of(request.header("content-type", "application/json").body(body))
    };
    for character in ["x", "\u{1f600}", r"\ud83d\ude00", r"\u0007"] {
        let answer = send(character.repeat(40_000)).await;
        assert_eq!(answer.status, 200, "{character}: {}", answer.text);
    }
    let long = send("x".repeat(40_001)).await;
    assert_eq!(long.invalid_fields(), fields(&[("body.body", "string_too_long")]));
    let query = format!("/jobs/send-email?to=bob@example.com&subject=Hi&body={}", "x".repeat(30_000));
    assert_eq!(app.call(Method::POST, &query, &user).await.status, 200);
}

#[tokio::test]
async fn with_smtp_only_admins_send_mails_to_others() {
    let smtp = SmtpServer::start().await;
    let app = TestApp::with(&[&format!("--smtp-url={}", smtp.url)]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    let path = |to: &str| format!("/jobs/send-email?to={to}&subject=Hi&body=Hello");
    let refused = app.call(Method::POST, &path("bob@example.com"), &user).await;
    refused.is_problem(403, "forbidden", "Not enough permissions");
    let set_unverified = format!("UPDATE users SET email_verified_at = NULL WHERE id = {}", user.id);
    app.sql(&set_unverified).await;
    app.call(Method::POST, &path(&user.email), &user).await.is_some_problem(403, "email_not_verified");
    app.sql(&set_unverified.replace("NULL", "now()")).await;
    let own = app.enqueue(&path(&user.email), &user).await;
    app.enqueue(&path("bob@example.com"), &admin).await;
    app.run_jobs().await;
    assert_eq!(app.status(&own, &user).await["result"]["status"], "sent");
    let mut to: Vec<_> = smtp.mails().into_iter().flat_map(|mail| mail.to).collect();
    to.sort();
    assert_eq!(to, ["bob@example.com".to_owned(), user.email]);
}

#[tokio::test]
async fn a_worker_with_smtp_refuses_mails_of_users_to_others() {
    let smtp = SmtpServer::start().await;
    let api = TestApp::start().await;
    let user = api.user().await;
    let id = api.enqueue("/jobs/send-email?to=bob@example.com&subject=Hi&body=Hello", &user).await;
    let prefix = format!("--redis-key-prefix={}", api.prefix);
    let worker = TestApp::on(api.database.clone(), &[&format!("--smtp-url={}", smtp.url), &prefix]).await;
    worker.run_jobs().await;
    assert_eq!(api.status(&id, &user).await["status"], "failed");
    assert!(smtp.mails().is_empty());
}

#[tokio::test]
async fn the_owner_of_a_job_does_not_see_internal_details_of_its_error() {
    let app = TestApp::with(&["--smtp-url=smtp://127.0.0.1:9"]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    let path = format!("/jobs/send-email?to={}&subject=Hi&body=Hello&nonce={}", user.email, unique());
    let id = app.enqueue(&path, &user).await;
    assert_eq!(app.run_jobs().await.failed, 1);
    let seen = app.status(&id, &user).await;
    assert_eq!(
        (&seen["status"], &seen["attempts"], &seen["error"]),
        (&json!("scheduled"), &json!(1), &json!("The job failed"))
    );
    let detail = app.status(&id, &admin).await["error"].as_str().unwrap().to_owned();
    assert!(detail.contains("Mail server is unavailable"), "{detail}");
    let canceled = app.call(Method::DELETE, &format!("/jobs/{id}"), &user).await;
    assert_eq!(canceled.body["status"], "canceled");
}

#[tokio::test]
async fn a_payload_is_read_from_redis_only_to_show_it() {
    const PAYLOAD_BYTES: u64 = 60_000;
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    let app = TestApp::with(&[&format!("--redis-url={url}")]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    let document = json!({ "text": "x".repeat(PAYLOAD_BYTES as usize) });
    let enqueued = app.post("/jobs/process-data", Some(&user), document).await;
    let id = enqueued.body["job_id"].as_str().unwrap();
    let (own, any) = (format!("/jobs/{id}"), format!("/admin/jobs/{id}"));
    let (status, requeue) = (format!("{own}/status"), format!("{any}/requeue"));
    for (method, path, caller, code, shows_payload) in [
        (Method::GET, &status, &user, 200, false),
        (Method::GET, &status, &admin, 200, false),
        (Method::GET, &any, &admin, 200, true),
        (Method::POST, &requeue, &admin, 409, false),
        (Method::DELETE, &own, &user, 200, false),
        (Method::GET, &status, &user, 200, false),
        (Method::GET, &any, &admin, 200, true),
        (Method::DELETE, &any, &admin, 409, false),
    ] {
        let before = proxy.bytes_answered();
        let answer = app.call(method.clone(), path, caller).await;
        let bytes = proxy.bytes_answered() - before;
        assert_eq!(answer.status, code, "{method} {path}: {}", answer.text);
        assert_eq!(bytes > PAYLOAD_BYTES, shows_payload, "{method} {path}: {bytes} bytes");
        assert!(!(PAYLOAD_BYTES / 10..=PAYLOAD_BYTES).contains(&bytes), "{method} {path}: {bytes} bytes");
    }
}
