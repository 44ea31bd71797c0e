//! No secret comes to rest where it does not belong.

use saas::{context::RequestContext, services::outbox_relay::hand_over};

use crate::support::{
    TestApp,
    app::PASSWORD,
    records::{column, keys, tables},
    story::{Story, assert_none_in},
};

/// Keeps what was ever in the outbox.
const KEEP_LETTERS: &str = "
    CREATE TABLE letters_seen (letter TEXT NOT NULL);
    CREATE FUNCTION see_letter() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO letters_seen VALUES (NEW.letter::text);
        RETURN NEW;
    END
    $$;
    CREATE TRIGGER see_letter AFTER INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION see_letter();";

#[tokio::test]
async fn no_secret_is_in_the_database_or_in_redis() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql(KEEP_LETTERS).await;
    let queued = std::sync::Mutex::new(String::new());
    let secrets = Story::tell(&app.url, (&admin.email, PASSWORD), async |to: &str| {
        // With every letter in the queue, before one is written.
        hand_over(&app.app, &RequestContext::default()).await.unwrap();
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
    let letters = column(&app.database, "SELECT letter FROM letters_seen").await;
    assert!(letters.len() > 8 && letters.iter().any(|letter| letter.contains("reset_password")));
    assert_none_in(&secrets, "the outbox", &letters.concat());
    assert_none_in(&secrets, "the database", &tables(&app.database).await);

    let queued = queued.into_inner().unwrap();
    assert!(queued.contains("send_email_message") && queued.contains(":throttle:"), "{queued}");
    assert_none_in(&secrets, "the queue", &queued);
    let kept = keys(&app.prefix).await;
    assert!(kept.contains(":done:"), "{kept}");
    assert_none_in(&secrets, "Redis", &kept);
}
