//! The mails about keys.

use saas::services::api_key_notices::announce_expiries;
use serde_json::json;

use super::{SCOPES, create_key, create_org, member, post_key, rotate};
use crate::support::TestApp;

/// Returns the recipients of the mails with this subject, sorted, and the text of the last of these mails.
async fn mails(app: &TestApp, subject: &str) -> (Vec<String>, String) {
    let mails: Vec<_> = app.mails().await.into_iter().filter(|mail| mail.subject == subject).collect();
    let mut recipients: Vec<_> = mails.iter().map(|mail| mail.to.clone()).collect();
    recipients.sort();
    (recipients, mails.last().map(|mail| mail.text.clone()).unwrap_or_default())
}

fn sorted(emails: &[&str]) -> Vec<String> {
    let mut emails: Vec<_> = emails.iter().map(|email| (*email).to_owned()).collect();
    emails.sort();
    emails
}

#[tokio::test]
async fn the_creator_and_the_owner_are_notified_of_a_new_key() {
    const SUBJECT: &str = "An API key was created";
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let (admin, other) = (member(&app, org, "admin").await, member(&app, org, "admin").await);
    let key =
        post_key(&app, org, &admin, json!({ "name": "Nightly", "scopes": SCOPES, "never_expires": true }))
            .await;
    let (recipients, text) = mails(&app, SUBJECT).await;
    assert_eq!(recipients, sorted(&[&owner.email, &admin.email]));
    for part in ["Nightly", "Acme", &admin.email, "does not expire"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains(key.body["secret"].as_str().unwrap()) && !recipients.contains(&other.email));
    create_key(&app, org, &owner, &SCOPES).await;
    let (recipients, text) = mails(&app, SUBJECT).await;
    assert_eq!(recipients, sorted(&[&owner.email, &owner.email, &admin.email]), "the owner gets one mail");
    assert!(text.contains("expires on"), "{text}");
}

/// An unverified address may belong to a stranger.
#[tokio::test]
async fn an_unverified_address_gets_few_notices_of_new_keys() {
    const SUBJECT: &str = "An API key was created";
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    app.sql(&format!("UPDATE users SET email_verified_at = NULL WHERE id = {}", owner.id)).await;
    for _ in 0..12 {
        create_key(&app, org, &owner, &SCOPES).await;
    }
    let (recipients, _) = mails(&app, SUBJECT).await;
    assert!((1..12).contains(&recipients.len()), "{recipients:?}");
}

#[tokio::test]
async fn the_expiry_of_a_key_is_announced_once_in_its_last_seven_days() {
    const SUBJECT: &str = "An API key expires soon";
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let admin = member(&app, org, "admin").await;
    let mut announced = Vec::new();
    for (change, is_due) in [
        ("expires_at = now() + interval '7 days'", true),
        ("expires_at = now() + interval '1 minute'", true),
        ("expires_at = now() + interval '7 days 1 hour'", false),
        ("expires_at = now()", false),
        ("expires_at = NULL, lifetime_days = NULL", false),
        ("expires_at = now() + interval '5 days', lifetime_days = 7", false),
        ("expires_at = now() + interval '5 days', revoked_at = now()", false),
        ("expires_at = now() + interval '5 days', expiry_notified_at = now()", false),
    ] {
        let key = create_key(&app, org, &admin, &SCOPES).await;
        app.sql(&format!("UPDATE api_keys SET {change} WHERE id = {}", key.id)).await;
        if is_due {
            announced.push(key);
        }
    }
    assert_eq!(announce_expiries(&app.app).await.unwrap(), announced.len());
    let (recipients, text) = mails(&app, SUBJECT).await;
    assert_eq!(recipients, sorted(&[&owner.email, &owner.email, &admin.email, &admin.email]));
    assert!(text.contains("CI") && text.contains("Acme"), "{text}");
    assert_eq!(announce_expiries(&app.app).await.unwrap(), 0);

    // After a rotation, the new expiry is announced too.
    assert_eq!(rotate(&app, &announced[0], &admin, json!({ "expires_in_days": 8 })).await.status, 200);
    assert_eq!(announce_expiries(&app.app).await.unwrap(), 0);
    app.sql(&format!(
        "UPDATE api_keys SET expires_at = now() + interval '6 days' WHERE id = {}",
        announced[0].id
    ))
    .await;
    assert_eq!(announce_expiries(&app.app).await.unwrap(), 1);
}

#[tokio::test]
async fn the_expiry_of_each_of_many_keys_is_announced_once() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let insert = format!(
        "INSERT INTO api_keys (org_id, created_by, name, scopes, hash, hint, lifetime_days, expires_at)
         SELECT {org}, {}, 'x', 'job:read', sha256(n::text::bytea), 'x', 90, now() + interval '6 days'
         FROM generate_series(1, 120) n",
        owner.id
    );
    app.sql(&insert).await;
    // Two concurrent runs together announce each key only once.
    let (one, other) = tokio::join!(announce_expiries(&app.app), announce_expiries(&app.app));
    assert_eq!(one.unwrap() + other.unwrap(), 120);
    assert_eq!(mails(&app, "An API key expires soon").await.0.len(), 120);
}
