//! Key rotation: the key gets a new secret, and the old secret stays valid during an overlap.

use chrono::{DateTime, Duration, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Key, SCOPES, create_key, create_org, is, read, rotate};
use crate::support::{TestApp, records::column};

/// Asserts that the time in `field` is `expected` after the rotation, within a minute.
#[track_caller]
fn assert_after_rotation(key: &Value, field: &str, expected: Duration) {
    let time = |field: &str| {
        let text = key[field].as_str().unwrap_or_else(|| panic!("no {field} in {key}"));
        text.parse::<DateTime<Utc>>().unwrap()
    };
    let difference = time(field) - time("rotated_at") - expected;
    assert!(difference.abs() < Duration::minutes(1), "{field}: {key}");
}

#[tokio::test]
async fn smoke_both_secrets_are_valid_during_the_overlap() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let old = create_key(&app, org, &owner, &SCOPES).await;
    app.sql("UPDATE api_keys SET expires_at = now() + interval '2 days', expiry_notified_at = now()").await;
    let rotated = rotate(&app, &old, &owner, json!({})).await;
    let new = Key::of(org, &rotated);
    assert!(new.id == old.id && new.secret != old.secret);
    let key = &rotated.body["key"];
    assert_after_rotation(key, "previous_expires_at", Duration::hours(24));
    // The key gets its original lifetime again.
    assert_after_rotation(key, "expires_at", Duration::days(90));
    assert_eq!(column(&app.database, "SELECT expiry_notified_at IS NULL FROM api_keys").await, ["t"]);
    assert_eq!((read(&app, &old).await, read(&app, &new).await), (is(200, ""), is(200, "")));

    app.sql("UPDATE api_keys SET previous_expires_at = now()").await;
    assert_eq!((read(&app, &old).await, read(&app, &new).await), (is(401, "invalid_token"), is(200, "")));
}

#[tokio::test]
async fn the_overlap_is_as_long_as_chosen_but_ends_by_the_old_expiry_of_the_key() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    for (hours, left, expected) in [
        (json!(1), "9 days", Duration::hours(1)),
        (json!(24), "9 days", Duration::hours(24)),
        (json!(24), "3 hours", Duration::hours(3)),
        (json!(0), "9 days", Duration::zero()),
    ] {
        let old = create_key(&app, org, &owner, &SCOPES).await;
        app.sql(&format!("UPDATE api_keys SET expires_at = now() + interval '{left}' WHERE id = {}", old.id))
            .await;
        let rotated =
            rotate(&app, &old, &owner, json!({ "overlap_hours": hours, "expires_in_days": 30 })).await;
        let key = &rotated.body["key"];
        assert_after_rotation(key, "previous_expires_at", expected);
        assert_after_rotation(key, "expires_at", Duration::days(30));
        let expected = if hours == 0 { is(401, "invalid_token") } else { is(200, "") };
        assert_eq!(read(&app, &old).await, expected);
    }
}

#[tokio::test]
async fn at_most_two_secrets_of_a_key_are_valid() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let first = create_key(&app, org, &owner, &SCOPES).await;
    let second = Key::of(org, &rotate(&app, &first, &owner, json!({})).await);
    let third = Key::of(org, &rotate(&app, &second, &owner, json!({})).await);
    let valid = [read(&app, &first).await, read(&app, &second).await, read(&app, &third).await];
    assert_eq!(valid, [is(401, "invalid_token"), is(200, ""), is(200, "")]);
    assert_eq!(app.call(Method::DELETE, &third.path(), &owner).await.status, 204);
    for key in [&second, &third] {
        assert_eq!(read(&app, key).await, is(401, "invalid_token"));
    }
}
