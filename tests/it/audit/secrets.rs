//! Secrets are not stored in plain text.

use crate::support::{
    TestApp,
    account_scenario::{AccountScenario, assert_none_in},
    app::PASSWORD,
    records::{column, keys, tables},
};

/// Creates a trigger that copies the envelope of each row that is inserted into the outbox, because the relay deletes the row.
const COPY_MESSAGES: &str = "
    CREATE TABLE copied_messages (message TEXT NOT NULL);
    CREATE FUNCTION copy_message() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO copied_messages VALUES (NEW.envelope);
        RETURN NEW;
    END
    $$;
    CREATE TRIGGER copy_message AFTER INSERT ON job_outbox FOR EACH ROW EXECUTE FUNCTION copy_message();";

#[tokio::test]
async fn secrets_are_neither_in_the_database_nor_in_redis() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql(COPY_MESSAGES).await;
    let queued = std::sync::Mutex::new(String::new());
    let secrets = AccountScenario::run(&app.url, (&admin.email, PASSWORD), async |to: &str| {
        // The relay moves the new messages into the queue. Their mails are rendered later, by `mailed_token`.
        app.relay().await;
        let held = keys(&app.prefix).await;
        queued.lock().unwrap().push_str(&held);
        app.mailed_token(to).await
    })
    .await;
    app.mails().await;
    assert!(secrets.len() > 40, "{}", secrets.len());

    let trail = column(&app.database, "SELECT a::text FROM audit_log a").await;
    assert!(trail.len() > 20 && trail.iter().any(|entry| entry.contains("recovery_code.used")));
    assert_none_in(&secrets, "the audit trail", &trail.concat());
    for hash in column(&app.database, "SELECT hashed_password FROM users").await {
        assert!(hash.starts_with("$2b$") && !trail.iter().any(|entry| entry.contains(&hash)));
    }
    let messages = column(&app.database, "SELECT message FROM copied_messages").await;
    assert!(messages.len() > 8 && messages.iter().any(|message| message.contains("reset_password")));
    assert_none_in(&secrets, "the outbox", &messages.concat());
    assert_none_in(&secrets, "the database", &tables(&app.database).await);

    let queued = queued.into_inner().unwrap();
    assert!(queued.contains("send_email_message") && queued.contains(":throttle:"), "{queued}");
    assert_none_in(&secrets, "the queue", &queued);
    let kept = keys(&app.prefix).await;
    assert!(kept.contains(":done:"), "{kept}");
    assert_none_in(&secrets, "Redis", &kept);
}
