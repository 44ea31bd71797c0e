//! Letters on their way from the change that they tell of to the mailbox.

use diesel_async::AsyncPgConnection;
use futures_util::future::join_all;
use saas::{
    context::RequestContext,
    jobs::{self, HandOverLetters},
    models::user::{NewUser, Role},
    queue::{Origin, State},
    services::{self, outbox::Message, tx::Tx, users::Registration},
};
use serde_json::json;

use crate::support::{
    TestApp,
    app::PASSWORD,
    eventually,
    records::{column, keys},
};

const NO_REDIS: [&str; 2] = ["--redis-url=redis://127.0.0.1:1/", "--redis-timeout-ms=200"];

/// What waits, the oldest first.
async fn waiting(app: &TestApp) -> Vec<String> {
    let sql = "SELECT coalesce(letter -> 'notice' #>> '{}', letter ->> 'kind') FROM outbox ORDER BY id";
    column(&app.database, sql).await
}

/// Makes an account as a process does that dies right after the commit: its mail stays in the outbox.
async fn register(app: &TestApp, email: &str) {
    let (context, effects) = Default::default();
    let insert = async |conn: &mut AsyncPgConnection| {
        let new = NewUser {
            email,
            hashed_password: Some("x"),
            full_name: None,
            role: Role::User,
            email_verified_at: None,
        };
        let user_id = new.insert(conn).await?.id;
        Message::VerifyEmail { user_id }.send(&Tx::on(conn, &context, &effects)).await
    };
    app.app.db.transaction(insert).await.unwrap();
}

/// To whom mails went, in order of the addresses.
async fn recipients(app: &TestApp) -> Vec<String> {
    let mut to: Vec<_> = app.mails().await.into_iter().map(|mail| mail.to).collect();
    to.sort();
    to
}

#[tokio::test]
async fn smoke_without_redis_accounts_change_and_the_letters_wait() {
    let away = TestApp::with(&NO_REDIS).await;
    let admin = away.admin().await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let made = away.post("/auth/register", None, body).await;
    assert_eq!((made.status.as_u16(), &made.body["email"]), (201, &json!("ada@example.com")));
    let invited = away.post("/users", Some(&admin), json!({ "email": "bob@example.com" })).await;
    assert_eq!(invited.status, 201, "{}", invited.text);
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse battery" });
    assert_eq!(away.post("/users/me/password", Some(&admin), change).await.status, 204);
    let error = jobs::hand_over(&away.app, &RequestContext::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "Redis is unavailable");
    assert_eq!(waiting(&away).await, ["verify_email", "invite", "password_changed"]);

    let back = TestApp::on(away.database.clone(), &[]).await;
    assert_eq!(jobs::hand_over(&back.app, &RequestContext::default()).await.unwrap(), 3);
    assert!(waiting(&back).await.is_empty());
    let mails = back.mails().await;
    let sent: Vec<_> = mails.iter().map(|mail| (&*mail.to, &*mail.subject)).collect();
    let wanted = [
        ("ada@example.com", "Confirm your email address"),
        ("bob@example.com", "You are invited to saas"),
        (&*admin.email, "Your password was changed"),
    ];
    assert_eq!(sent, wanted);
    let verify = json!({ "token": mails[0].token() });
    assert_eq!(back.post("/auth/verify-email", None, verify).await.status, 204);
    let accept = json!({ "token": mails[1].token(), "password": PASSWORD });
    assert_eq!(back.post("/auth/accept-invite", None, accept).await.status, 204);
}

#[tokio::test]
async fn a_change_that_is_not_made_tells_nobody() {
    let app = TestApp::with(&NO_REDIS).await;
    register(&app, "ada@example.com").await;
    let again = Registration { email: "Ada@example.com".into(), password: PASSWORD.into(), full_name: None };
    let error = services::users::register(&app.app, &RequestContext::default(), again).await.err().unwrap();
    assert_eq!(error.to_string(), "Email already registered");
    assert_eq!(waiting(&app).await, ["verify_email"]);
}

#[tokio::test]
async fn smoke_a_request_hands_its_letters_over_by_itself() {
    let app = TestApp::start().await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(app.post("/auth/register", None, body).await.status, 201);
    eventually("the outbox is empty", || async { waiting(&app).await.is_empty().then_some(()) }).await;
    app.run_jobs().await;
    assert_eq!(recipients(&app).await, ["ada@example.com"]);
}

#[tokio::test]
async fn handing_over_at_once_sends_each_letter_once() {
    let app = TestApp::start().await;
    let emails: Vec<_> = (0..5).map(|n| format!("user{n}@example.com")).collect();
    for email in &emails {
        register(&app, email).await;
    }
    let twin = TestApp::on(app.database.clone(), &[&format!("--redis-key-prefix={}", app.prefix)]).await;
    let context = RequestContext::default();
    let apps = (0..3).flat_map(|_| [&app, &twin]);
    let handed = join_all(apps.map(|app| jobs::hand_over(&app.app, &context))).await;
    let handed: usize = handed.into_iter().map(Result::unwrap).sum();
    assert_eq!((handed, waiting(&app).await.len()), (5, 0));
    assert_eq!(recipients(&app).await, emails);
    assert_eq!(recipients(&app).await, emails, "nothing comes later");
}

#[tokio::test]
async fn a_letter_that_was_handed_over_but_not_removed_is_sent_once() {
    let app = TestApp::start().await;
    register(&app, "ada@example.com").await;
    app.sql("CREATE TABLE again AS SELECT * FROM outbox").await;
    assert_eq!(recipients(&app).await, ["ada@example.com"]);
    // As if the process had died between the two.
    app.sql("INSERT INTO outbox OVERRIDING SYSTEM VALUE SELECT * FROM again").await;
    assert_eq!(jobs::hand_over(&app.app, &RequestContext::default()).await.unwrap(), 1);
    assert_eq!(recipients(&app).await, ["ada@example.com"]);
}

#[tokio::test]
async fn a_database_made_anew_is_no_reason_to_hold_its_letters_back() {
    let (first, second) = (TestApp::start().await, TestApp::start().await);
    let first =
        TestApp::on(first.database.clone(), &[&format!("--redis-key-prefix={}", second.prefix)]).await;
    register(&first, "ada@example.com").await;
    register(&second, "bob@example.com").await;
    assert_eq!(column(&first.database, "SELECT id FROM outbox").await, ["1"]);
    assert_eq!(column(&second.database, "SELECT id FROM outbox").await, ["1"]);
    assert_eq!(recipients(&first).await, ["ada@example.com"]);
    assert_eq!(recipients(&second).await, ["bob@example.com"]);
}

#[tokio::test]
async fn a_letter_nobody_needs_any_more_is_not_sent() {
    let app = TestApp::start().await;
    for name in ["verified", "gone", "inactive", "pending"] {
        register(&app, &format!("{name}@example.com")).await;
    }
    let sql = "UPDATE users SET email_verified_at = now() WHERE email LIKE 'verified%';
               UPDATE users SET is_active = false WHERE email LIKE 'inactive%';
               DELETE FROM users WHERE email LIKE 'gone%'";
    app.sql(sql).await;
    assert_eq!(jobs::hand_over(&app.app, &RequestContext::default()).await.unwrap(), 4);
    assert_eq!(recipients(&app).await, ["pending@example.com"]);
    assert_eq!(column(&app.database, "SELECT count(*) FROM one_time_tokens").await, ["1"]);
}

#[tokio::test]
async fn the_job_of_every_minute_hands_over_what_was_left() {
    let app = TestApp::start().await;
    register(&app, "ada@example.com").await;
    app.app.queue.enqueue(&HandOverLetters {}, Origin::default()).await.unwrap();
    app.run_jobs().await;
    assert!(waiting(&app).await.is_empty());
    assert_eq!(recipients(&app).await, ["ada@example.com"]);
}

#[tokio::test]
async fn a_letter_of_an_unknown_kind_waits_and_holds_up_nobody() {
    let app = TestApp::start().await;
    let tomorrow =
        "INSERT INTO outbox (letter) SELECT '{\"kind\": \"of_tomorrow\"}' FROM generate_series(1, 150)";
    app.sql(tomorrow).await;
    register(&app, "ada@example.com").await;
    assert_eq!(jobs::hand_over(&app.app, &RequestContext::default()).await.unwrap(), 1);
    assert_eq!(recipients(&app).await, ["ada@example.com"]);
    assert_eq!(waiting(&app).await, ["of_tomorrow"; 150]);
}

#[tokio::test]
async fn what_a_failed_letter_leaves_has_no_secret() {
    let app = TestApp::with(&["--smtp-url=smtp://127.0.0.1:1"]).await;
    register(&app, "ada@example.com").await;
    let forgot = app.post("/auth/forgot-password", None, json!({ "email": "ada@example.com" })).await;
    assert_eq!(forgot.status, 202, "{}", forgot.text);
    jobs::hand_over(&app.app, &RequestContext::default()).await.unwrap();
    assert_eq!(app.run_jobs().await.failed, 2);
    let written = column(&app.database, "SELECT purpose FROM one_time_tokens ORDER BY purpose").await;
    assert_eq!(written, ["reset_password", "verify_email"], "links were made");

    let kept = keys(&app.prefix).await;
    assert!(kept.contains("Mail server is unavailable") && kept.contains("verify_email"), "{kept}");
    assert!(!kept.contains("token=") && !kept.contains("Hello"), "{kept}");
    // As long as a token, or its hash.
    let hexadecimal = kept.split(|c: char| !c.is_ascii_hexdigit());
    assert!(hexadecimal.map(str::len).all(|length| length < 64), "{kept}");
    let failed = app.app.queue.list("default", State::Scheduled, 0, 10).await.unwrap();
    assert_eq!(failed.iter().filter(|job| job.task == "send_letter").count(), 2, "they are tried again");
    assert!(failed.iter().all(|job| job.error.as_deref() == Some("The job failed")));
}
