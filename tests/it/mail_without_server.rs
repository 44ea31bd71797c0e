//! Mails in production while no SMTP server is configured.

use chrono::{Duration, Utc};
use reqwest::Method;
use saas::{
    jobs::{RelayOutbox, SYSTEM_QUEUE},
    queue::{JobStatus, Origin, State},
    services::{
        job_relay::sweep,
        outbox::{OutboxMessage, SendEmailMessage},
    },
};
use serde_json::json;

use crate::support::{
    TestApp,
    app::PASSWORD,
    process::{production_command, run, start_server},
    records::column,
    smtp::SmtpServer,
};

const PRODUCTION: &str = "--debug=false";

async fn register(app: &TestApp, email: &str) {
    let answer = app.post("/auth/register", None, json!({ "email": email, "password": PASSWORD })).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
}

/// Returns the kinds of the messages in the outbox, oldest first.
async fn list_waiting_kinds(app: &TestApp) -> Vec<String> {
    let sql = "SELECT envelope::json -> 'payload' -> 'message' ->> 'kind' FROM job_outbox ORDER BY id";
    column(&app.database, sql).await
}

/// Starts an application on the same database and key prefix, with a mail server.
async fn start_with_mail_server(app: &TestApp, smtp: &SmtpServer) -> TestApp {
    let (url, prefix) = (format!("--smtp-url={}", smtp.url), format!("--redis-key-prefix={}", app.prefix));
    TestApp::on(app.database.clone(), &[PRODUCTION, &url, &prefix]).await
}

#[tokio::test]
async fn smoke_mails_wait_in_the_outbox_until_a_server_is_configured() {
    let app = TestApp::with(&[PRODUCTION]).await;
    let emails = ["ada@example.com", "bob@example.com", "eve@example.com"];
    for email in emails {
        register(&app, email).await;
    }
    for _ in 0..2 {
        app.app.queue.enqueue(&RelayOutbox {}, Origin::default()).await.unwrap();
        app.run_jobs().await;
    }
    assert_eq!(list_waiting_kinds(&app).await, ["verify_email"; 3]);
    assert_eq!(column(&app.database, "SELECT count(*) FROM one_time_tokens").await, ["0"]);

    let smtp = SmtpServer::start().await;
    let app = start_with_mail_server(&app, &smtp).await;
    assert_eq!(sweep(&app.app).await.unwrap(), 3);
    let mut jobs = app.app.queue.list(SYSTEM_QUEUE, State::Queued, 0, 10).await.unwrap();
    jobs.retain(|job| job.task == "send_email_message");
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    let user = |job: &JobStatus| job.payload.as_ref().unwrap()["message"]["user_id"].as_i64();
    let users: Vec<_> = jobs.iter().map(user).collect();
    assert!(users.len() == 3 && users.is_sorted(), "the oldest is first: {users:?}");
    app.run_jobs().await;
    let mut to: Vec<_> = smtp.mails().into_iter().flat_map(|mail| mail.to).collect();
    to.sort();
    assert_eq!(to, emails);
    assert!(list_waiting_kinds(&app).await.is_empty());
}

#[tokio::test]
async fn a_worker_sends_waiting_mails_when_it_starts() {
    let app = TestApp::with(&[PRODUCTION]).await;
    register(&app, "ada@example.com").await;
    let worker = || production_command(&["worker", "--burst"], &app.database, &app.prefix);
    let without = run(worker().await).await.succeeded().stderr;
    assert!(without.contains("mails wait in the outbox"), "{without}");
    assert!(!without.contains("captured") && !without.contains("send_email_message"), "{without}");
    assert_eq!(list_waiting_kinds(&app).await, ["verify_email"]);

    let smtp = SmtpServer::start().await;
    let mut with = worker().await;
    with.env("SMTP_URL", &smtp.url);
    run(with).await.succeeded();
    assert_eq!(smtp.mails().len(), 1);
}

#[tokio::test]
async fn mails_that_are_too_old_are_dropped() {
    const ROWS: &str = r#"(VALUES
        ('{"kind": "reset_password", "email": "a@example.com"}', '20 minutes'),
        ('{"kind": "reset_password", "email": "a@example.com"}', '31 minutes'),
        ('{"kind": "reset_password", "email": "a@example.com"}', '3 days'),
        ('{"kind": "resend_verification", "email": "a@example.com"}', '23 hours'),
        ('{"kind": "resend_verification", "email": "a@example.com"}', '25 hours'),
        ('{"kind": "confirm_new_email", "user_id": 1, "email": "a@example.com"}', '25 hours'),
        ('{"kind": "verify_email", "user_id": 1}', '6 days'),
        ('{"kind": "verify_email", "user_id": 1}', '8 days'),
        ('{"kind": "invite", "user_id": 1}', '8 days'),
        ('{"kind": "notice", "to": "a@example.com", "name": null, "notice": "password_changed"}', '8 days')
    ) AS rows (letter, age)"#;
    // Release 0.1.0 writes messages to the table `outbox`.
    const OLD: [&str; 2] = [
        "INSERT INTO outbox (letter, created_at) SELECT letter::jsonb, now() - age::interval FROM",
        "SELECT letter ->> 'kind' FROM outbox ORDER BY id",
    ];
    const NEW: [&str; 2] = [
        "INSERT INTO job_outbox (id, queue, task, envelope, options, created_at)
         SELECT lpad(row_number() OVER ()::text, 32, '0')::uuid, 'system', 'send_email_message', json_build_object(
             'v', 1, 'task', 'send_email_message', 'queue', 'system', 'ttl', 0, 'at', 0,
             'payload', json_build_object('message', letter::json)
         )::text, '{}', now() - age::interval FROM",
        "SELECT envelope::json #>> '{payload,message,kind}' FROM job_outbox ORDER BY id",
    ];
    for [insert, select] in [OLD, NEW] {
        let app = TestApp::with(&[PRODUCTION]).await;
        app.sql(&format!("{insert} {ROWS}")).await;
        assert_eq!(sweep(&app.app).await.unwrap(), 0);
        let kinds = column(&app.database, select).await;
        assert_eq!(kinds, ["reset_password", "resend_verification", "verify_email"]);
        let again = run(production_command(&["worker", "--burst"], &app.database, &app.prefix).await).await;
        assert!(!again.succeeded().stderr.contains("dropped: they are too old"), "only once");
    }

    // A message can become too old while its job waits.
    let app = TestApp::start().await;
    let user = app.user().await;
    for hours in [0, 1] {
        let message = OutboxMessage::ResetPassword { email: user.email.clone() };
        let written_at = Some(Utc::now() - Duration::hours(hours));
        let job = SendEmailMessage { message, written_at };
        app.app.queue.enqueue(&job, Origin::default()).await.unwrap();
    }
    let done = app.run_jobs().await;
    assert_eq!((done.failed, done.canceled), (0, 1));
    assert_eq!(app.mails().await.len(), 1);
}

#[tokio::test]
async fn a_worker_without_a_mail_server_keeps_messages_and_fails_email_jobs() {
    let app = TestApp::with(&[PRODUCTION]).await;
    register(&app, "ada@example.com").await;
    let smtp = SmtpServer::start().await;
    let api = start_with_mail_server(&app, &smtp).await;
    let admin = api.admin().await;
    api.relay().await;
    let id = api.enqueue("/jobs/send-email?to=bob@example.com&subject=Hi&body=Hello", &admin).await;

    app.run_jobs().await;
    let later = app.app.queue.list(SYSTEM_QUEUE, State::Scheduled, 0, 10).await.unwrap();
    let later: Vec<_> = later.iter().filter(|job| job.task == "send_email_message").collect();
    assert_eq!(later.len(), 1, "the message waits, and no attempt counts");
    assert!(later[0].error.is_none(), "{:?}", later[0]);
    let status = api.status(&id, &admin).await;
    let error = status["error"].as_str().unwrap();
    assert!(status["status"] == "failed" && error.contains("No mail server is configured"), "{status}");
    assert!(smtp.mails().is_empty());
}

#[tokio::test]
async fn a_missing_mail_server_is_reported() {
    let app = TestApp::with(&[PRODUCTION]).await;
    register(&app, "ada@example.com").await;
    let ready = app.get("/health/ready", None).await;
    assert_eq!((ready.status.as_u16(), &ready.body["status"]), (200, &json!("healthy")), "{}", ready.text);
    assert_eq!((&ready.body["mail"], &ready.body["waiting_mails"]), (&json!("no server"), &json!(1)));
    let admin = app.admin().await;
    let path = "/jobs/send-email?to=bob@example.com&subject=Hi&body=Hello";
    let refused = app.call(Method::POST, path, &admin).await;
    refused.is_problem(503, "no_mail_server", "No mail server is configured, so no mail can be sent");

    let doctor = || production_command(&["doctor"], &app.database, &app.prefix);
    let found = run(doctor().await).await.succeeded().stdout;
    assert!(found.contains("warn  mail        no SMTP_URL: no mail is sent"), "{found}");
    assert!(found.contains("warn  outbox      mails that wait for a mail server: 1"), "{found}");
    assert!(!found.contains("safe for production"), "{found}");
    let mut with = doctor().await;
    with.env("SMTP_URL", "smtp://127.0.0.1:1025?tls=none");
    let found = run(with).await.succeeded().stdout;
    assert!(found.contains("safe for production") && found.contains("ok    outbox"), "{found}");

    let serve = production_command(&["serve", "--port", "0"], &app.database, &app.prefix).await;
    let (server, _) = start_server(serve).await;
    let worker = production_command(&["worker", "--burst"], &app.database, &app.prefix).await;
    for log in [server.output(), run(worker).await.succeeded().stderr] {
        let warning = log.lines().find(|line| line.contains("no mail is sent")).unwrap_or_default();
        assert!(warning.contains("\"warn\"") && warning.contains("SMTP_URL"), "{log}");
    }
}
