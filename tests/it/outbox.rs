//! Messages to users, from the transaction that writes them until the mail is sent, and the messages of release 0.1.0.

use diesel_async::AsyncPgConnection;
use futures_util::future::join_all;
use saas::{
    context::RequestContext,
    db::Tx,
    jobs::{RelayOutbox, SYSTEM_QUEUE, SendLetter},
    mail::Notice,
    models::user::{NewUser, Role},
    queue::{Origin, State},
    services::{self, job_relay::sweep, outbox::OutboxMessage, users::Registration},
};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    TestApp,
    app::PASSWORD,
    eventually, mail,
    process::{production_command, run},
    records::{column, keys},
};

const UNREACHABLE_REDIS: [&str; 2] = ["--redis-url=redis://127.0.0.1:1/", "--redis-timeout-ms=200"];

/// Returns the kinds of the messages that wait, oldest first.
async fn list_waiting_kinds(app: &TestApp) -> Vec<String> {
    let sql = "SELECT coalesce(message -> 'notice' #>> '{}', message ->> 'kind')
        FROM (SELECT id, envelope::json #> '{payload,message}' AS message FROM job_outbox) AS messages ORDER BY id";
    column(&app.database, sql).await
}

/// Returns the kinds of the messages that release 0.1.0 has left, oldest first.
async fn list_old_kinds(app: &TestApp) -> Vec<String> {
    column(&app.database, "SELECT letter ->> 'kind' FROM outbox ORDER BY id").await
}

/// Moves the waiting messages into the table of release 0.1.0, as if that release had written them.
const MOVE_TO_OLD_OUTBOX: &str = "
    INSERT INTO outbox (letter) SELECT envelope::jsonb #> '{payload,message}' FROM job_outbox ORDER BY id;
    DELETE FROM job_outbox";

/// Creates an account like a process that crashes right after the commit: the message stays in the outbox.
async fn register_without_relay(app: &TestApp, email: &str) {
    let (context, effects) = Default::default();
    let insert = async |conn: &mut AsyncPgConnection| {
        let new = NewUser {
            email,
            hashed_password: Some("x"),
            full_name: None,
            role: Role::User,
            email_verified_at: None,
        };
        let tx = &Tx::on(conn, &context, &effects);
        let user_id = new.insert(tx).await?.id;
        OutboxMessage::VerifyEmail { user_id }.send(tx).await
    };
    app.app.db.transaction(insert).await.unwrap();
}

/// Writes a message like a process that crashes right after the commit.
async fn send_without_relay(app: &TestApp, message: &OutboxMessage) {
    let (context, effects) = Default::default();
    let write = async |conn: &mut AsyncPgConnection| {
        let tx = &Tx::on(conn, &context, &effects);
        message.send(tx).await
    };
    app.app.db.transaction(write).await.unwrap();
}

/// Sends the waiting mails, and returns the recipients of all mails, sorted.
async fn list_recipients(app: &TestApp) -> Vec<String> {
    let mut to: Vec<_> = app.mails().await.into_iter().map(|mail| mail.to).collect();
    to.sort();
    to
}

#[tokio::test]
async fn smoke_without_redis_accounts_change_and_messages_wait() {
    let away = TestApp::with(&UNREACHABLE_REDIS).await;
    let admin = away.admin().await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    let made = away.post("/auth/register", None, body).await;
    assert_eq!((made.status.as_u16(), &made.body["email"]), (201, &json!("ada@example.com")));
    let invited = away.post("/users", Some(&admin), json!({ "email": "bob@example.com" })).await;
    assert_eq!(invited.status, 201, "{}", invited.text);
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse battery" });
    assert_eq!(away.post("/users/me/password", Some(&admin), change).await.status, 204);
    let error = sweep(&away.app).await.unwrap_err();
    assert_eq!(error.to_string(), "Redis is unavailable");
    assert_eq!(list_waiting_kinds(&away).await, ["verify_email", "invite", "password_changed"]);

    let app = TestApp::on(away.database.clone(), &[]).await;
    assert_eq!(sweep(&app.app).await.unwrap(), 3);
    assert!(list_waiting_kinds(&app).await.is_empty());
    let mails = app.mails().await;
    let sent: Vec<_> = mails.iter().map(|mail| (&*mail.to, &*mail.subject)).collect();
    let wanted = [
        ("ada@example.com", "Confirm your email address"),
        ("bob@example.com", "You are invited to saas"),
        (&*admin.email, "Your password was changed"),
    ];
    assert_eq!(sent, wanted);
    let verify = json!({ "token": mails[0].token() });
    assert_eq!(app.post("/auth/verify-email", None, verify).await.status, 204);
    let accept = json!({ "token": mails[1].token(), "password": PASSWORD });
    assert_eq!(app.post("/auth/accept-invite", None, accept).await.status, 204);
}

#[tokio::test]
async fn a_failed_change_sends_no_message() {
    let app = TestApp::with(&UNREACHABLE_REDIS).await;
    register_without_relay(&app, "ada@example.com").await;
    let again = Registration { email: "Ada@example.com".into(), password: PASSWORD.into(), full_name: None };
    let error = services::users::register(&app.app, &RequestContext::default(), again).await.err().unwrap();
    assert_eq!(error.to_string(), "Email already registered");
    assert_eq!(list_waiting_kinds(&app).await, ["verify_email"]);
}

#[tokio::test]
async fn smoke_a_request_enqueues_its_messages() {
    let app = TestApp::start().await;
    let body = json!({ "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(app.post("/auth/register", None, body).await.status, 201);
    eventually("no message waits", || async { list_waiting_kinds(&app).await.is_empty().then_some(()) })
        .await;
    app.run_jobs().await;
    assert_eq!(list_recipients(&app).await, ["ada@example.com"]);
}

#[tokio::test]
async fn concurrent_sweeps_send_each_message_once() {
    for in_old_outbox in [false, true] {
        let app = TestApp::start().await;
        let emails: Vec<_> = (0..5).map(|n| format!("user{n}@example.com")).collect();
        for email in &emails {
            register_without_relay(&app, email).await;
        }
        if in_old_outbox {
            app.sql(MOVE_TO_OLD_OUTBOX).await;
        }
        let twin = TestApp::on(app.database.clone(), &[&format!("--redis-key-prefix={}", app.prefix)]).await;
        let apps = (0..3).flat_map(|_| [&app, &twin]);
        let enqueued = join_all(apps.map(|app| sweep(&app.app))).await;
        let enqueued: usize = enqueued.into_iter().map(Result::unwrap).sum();
        assert_eq!((enqueued, list_waiting_kinds(&app).await.len()), (5, 0));
        assert!(list_old_kinds(&app).await.is_empty());
        assert_eq!(list_recipients(&app).await, emails);
        assert_eq!(list_recipients(&app).await, emails, "no mail is sent later");
    }
}

#[tokio::test]
async fn a_message_that_was_enqueued_but_not_deleted_is_sent_once() {
    for (setup, table) in [("", "job_outbox"), (MOVE_TO_OLD_OUTBOX, "outbox")] {
        let app = TestApp::start().await;
        register_without_relay(&app, "ada@example.com").await;
        app.sql(&format!("{setup}; CREATE TABLE again AS SELECT * FROM {table}")).await;
        assert_eq!(list_recipients(&app).await, ["ada@example.com"]);
        // The state after a process has enqueued the job and crashed before it deleted the row.
        app.sql(&format!("INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM again")).await;
        assert_eq!(sweep(&app.app).await.unwrap(), 1);
        assert_eq!(list_recipients(&app).await, ["ada@example.com"], "{table}");
    }
}

#[tokio::test]
async fn a_recreated_database_with_the_same_ids_sends_its_messages() {
    let (first, second) = (TestApp::start().await, TestApp::start().await);
    let first =
        TestApp::on(first.database.clone(), &[&format!("--redis-key-prefix={}", second.prefix)]).await;
    register_without_relay(&first, "ada@example.com").await;
    register_without_relay(&second, "bob@example.com").await;
    first.sql(MOVE_TO_OLD_OUTBOX).await;
    second.sql(MOVE_TO_OLD_OUTBOX).await;
    assert_eq!(column(&first.database, "SELECT id FROM outbox").await, ["1"]);
    assert_eq!(column(&second.database, "SELECT id FROM outbox").await, ["1"]);
    assert_eq!(list_recipients(&first).await, ["ada@example.com"]);
    assert_eq!(list_recipients(&second).await, ["bob@example.com"]);
}

#[tokio::test]
async fn a_message_that_is_no_longer_needed_is_not_sent() {
    let app = TestApp::start().await;
    for name in ["verified", "gone", "inactive", "pending"] {
        register_without_relay(&app, &format!("{name}@example.com")).await;
    }
    let sql = "UPDATE users SET email_verified_at = now() WHERE email LIKE 'verified%';
               UPDATE users SET is_active = false WHERE email LIKE 'inactive%';
               DELETE FROM users WHERE email LIKE 'gone%'";
    app.sql(sql).await;
    assert_eq!(sweep(&app.app).await.unwrap(), 4);
    assert_eq!(list_recipients(&app).await, ["pending@example.com"]);
    assert_eq!(column(&app.database, "SELECT count(*) FROM one_time_tokens").await, ["1"]);
}

#[tokio::test]
async fn the_relay_job_enqueues_messages_that_a_crash_has_left() {
    let app = TestApp::start().await;
    register_without_relay(&app, "ada@example.com").await;
    app.app.queue.enqueue(&RelayOutbox {}, Origin::default()).await.unwrap();
    app.run_jobs().await;
    assert!(list_waiting_kinds(&app).await.is_empty());
    assert_eq!(list_recipients(&app).await, ["ada@example.com"]);
}

#[tokio::test]
async fn a_message_of_an_unknown_kind_waits_and_does_not_block_others() {
    let app = TestApp::start().await;
    let unknown = "INSERT INTO outbox (letter) SELECT '{\"kind\": \"unknown\"}' FROM generate_series(1, 150)";
    app.sql(unknown).await;
    app.sql(&unknown_messages("lpad(n::text, 32, '0')::uuid", "now()", 150)).await;
    register_without_relay(&app, "ada@example.com").await;
    assert_eq!(sweep(&app.app).await.unwrap(), 1);
    app.run_jobs().await;
    assert_eq!(mail::read_captured(&app.app.config.mail.mail_dir)[0].to, "ada@example.com");
    assert_eq!(list_old_kinds(&app).await, ["unknown"; 150]);
    assert_eq!(list_waiting_kinds(&app).await, ["unknown"; 150]);
}

/// Returns a statement that inserts `count` messages of an unknown kind. `id` and `created_at` are SQL expressions, which
/// may contain `n`, the number of the message.
fn unknown_messages(id: &str, created_at: &str, count: u32) -> String {
    let envelope = r#"{"v":1,"task":"send_email_message","queue":"system","ttl":0,"at":0,"payload":{"message":{"kind":"unknown"}}}"#;
    format!(
        "INSERT INTO job_outbox (id, queue, task, envelope, options, created_at)
         SELECT {id}, 'system', 'send_email_message', '{envelope}', '{{}}', {created_at} FROM generate_series(1, {count}) n"
    )
}

#[tokio::test]
async fn an_unreadable_message_is_set_aside_after_a_day_with_one_error() {
    let app = TestApp::start().await;
    let rows = "INSERT INTO outbox (letter, created_at) VALUES
        ('{\"kind\": \"old\"}', now() - interval '25 hours'), ('{\"kind\": \"new\"}', now() - interval '23 hours')";
    app.sql(rows).await;
    app.sql(&unknown_messages("gen_random_uuid()", "now() - n * interval '23 hours'", 2)).await;
    // Counts an error about a message of release 0.1.0 as 1, and an error about a job of the outbox as 10.
    let mut errors = 0;
    for _ in 0..2 {
        app.app.queue.enqueue(&RelayOutbox {}, Origin::default()).await.unwrap();
        let worker = production_command(&["worker", "--burst"], &app.database, &app.prefix).await;
        let log = run(worker).await.succeeded().stderr;
        errors += log.matches("it is set aside").count()
            + 10 * log.matches("a job of the outbox is set aside").count();
    }
    assert_eq!(errors, 11, "one of each table");
    let set_aside = "SELECT letter ->> 'kind' FROM outbox WHERE set_aside_at IS NOT NULL";
    assert_eq!(column(&app.database, set_aside).await, ["old"]);
    assert_eq!(list_old_kinds(&app).await, ["old", "new"], "nothing is lost");
    let ages = "SELECT created_at < now() - interval '1 day' FROM job_outbox WHERE set_aside_at IS NOT NULL";
    assert_eq!(column(&app.database, ages).await, ["t"]);
    assert_eq!(list_waiting_kinds(&app).await.len(), 2, "nothing is lost");

    // An operator makes the message of release 0.1.0 readable and puts it back. The next sweep enqueues it.
    let put_back =
        "UPDATE outbox SET set_aside_at = NULL, letter = '{\"kind\": \"verify_email\", \"user_id\": 1}'
        WHERE set_aside_at IS NOT NULL";
    app.sql(put_back).await;
    assert_eq!(sweep(&app.app).await.unwrap(), 1);
}

#[tokio::test]
async fn jobs_with_the_old_task_name_send_their_mail() {
    let app = TestApp::start().await;
    register_without_relay(&app, "ada@example.com").await;
    app.sql("DELETE FROM job_outbox").await;
    let old: SendLetter =
        serde_json::from_value(json!({ "message": { "kind": "verify_email", "user_id": 1 } })).unwrap();
    app.app.queue.enqueue(&old, Origin::default()).await.unwrap();
    assert_eq!(list_recipients(&app).await, ["ada@example.com"]);
}

#[tokio::test]
async fn workers_of_0_1_0_get_no_message_that_they_cannot_read() {
    let app = TestApp::start().await;
    let notice = |notice| OutboxMessage::Notice { to: "ada@example.com".into(), name: None, notice };
    let removed = || notice(Notice::MemberRemoved { organization: "Acme".into() });
    for (message, task) in [
        (OutboxMessage::VerifyEmail { user_id: 1 }, "send_email_message"),
        (notice(Notice::PasswordChanged), "send_email_message"),
        (OutboxMessage::OrgInvitation { invitation_id: 1, link_id: Uuid::nil() }, "send_email_message_2"),
        (removed(), "send_email_message_2"),
    ] {
        send_without_relay(&app, &message).await;
        let written = column(&app.database, "SELECT envelope::json ->> 'task' FROM job_outbox").await;
        assert_eq!(written, [task], "{message:?}");
        app.sql("DELETE FROM job_outbox").await;
    }
    send_without_relay(&app, &removed()).await;
    assert_eq!(list_recipients(&app).await, ["ada@example.com"]);
}

#[tokio::test]
async fn a_failed_message_leaves_no_secret() {
    let app = TestApp::with(&["--smtp-url=smtp://127.0.0.1:1"]).await;
    register_without_relay(&app, "ada@example.com").await;
    let forgot = app.post("/auth/forgot-password", None, json!({ "email": "ada@example.com" })).await;
    assert_eq!(forgot.status, 202, "{}", forgot.text);
    app.relay().await;
    assert_eq!(app.run_jobs().await.failed, 2);
    let written = column(&app.database, "SELECT purpose FROM one_time_tokens ORDER BY purpose").await;
    assert_eq!(written, ["reset_password", "verify_email"], "both tokens were created");

    let kept = keys(&app.prefix).await;
    assert!(kept.contains("Mail server is unavailable") && kept.contains("verify_email"), "{kept}");
    assert!(!kept.contains("token=") && !kept.contains("Hello"), "{kept}");
    // Tokens and their hashes have 64 hexadecimal digits.
    let hexadecimal = kept.split(|c: char| !c.is_ascii_hexdigit());
    assert!(hexadecimal.map(str::len).all(|length| length < 64), "{kept}");
    let failed = app.app.queue.list(SYSTEM_QUEUE, State::Scheduled, 0, 10).await.unwrap();
    assert_eq!(failed.iter().filter(|job| job.task == "send_email_message").count(), 2, "both are retried");
    assert!(failed.iter().all(|job| job.error.as_deref() == Some("The job failed")));
}
