//! Cached copies of keys. A change by this process is effective at once, and a change by another process within
//! `IDENTITY_CACHE_MS`.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Key, LONG_CACHE, SCOPES, create_key, create_org, is, member, read, rotate, send};
use crate::support::{TestApp, app::PASSWORD, eventually};

#[tokio::test]
async fn a_cached_key_is_used_until_this_process_changes_it() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let cached = async || {
        let key = create_key(&app, org, &owner, &SCOPES).await;
        assert_eq!(read(&app, &key).await, is(200, ""));
        key
    };
    let change = async |method: Method, path: &str, body: Value| {
        let answer = send(&app, method, path, &owner.token, body).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
    };

    let key = cached().await;
    app.database.sql("UPDATE api_keys SET revoked_at = now()").await;
    assert_eq!(read(&app, &key).await, is(200, ""), "no query reads the key");

    let key = cached().await;
    change(Method::PATCH, &key.path(), json!({ "scopes": ["job:read"] })).await;
    assert_eq!(read(&app, &key).await, is(403, "scope_missing"));

    let key = cached().await;
    change(Method::DELETE, &key.path(), Value::Null).await;
    assert_eq!(read(&app, &key).await, is(401, "invalid_token"));

    let key = cached().await;
    let rotated = rotate(&app, &key, &owner, json!({ "overlap_hours": 0 })).await;
    assert_eq!(read(&app, &key).await, is(401, "invalid_token"));
    assert_eq!(read(&app, &Key::of(org, &rotated)).await, is(200, ""));

    let key = cached().await;
    change(Method::POST, "/secret-scanning/revoke", json!({ "keys": [key.secret] })).await;
    assert_eq!(read(&app, &key).await, is(401, "invalid_token"));

    // A change of the creator's membership or account also discards the copy.
    let admin = member(&app, org, "admin").await;
    let key = create_key(&app, org, &admin, &SCOPES).await;
    assert_eq!(read(&app, &key).await, is(200, ""));
    let path = format!("/orgs/{org}/members/{}", admin.id);
    change(Method::PATCH, &path, json!({ "suspended": true })).await;
    assert_eq!(read(&app, &key).await, is(403, "member_suspended"));
    change(Method::PATCH, &path, json!({ "suspended": false })).await;
    assert_eq!(read(&app, &key).await, is(200, ""));
    send(&app, Method::DELETE, "/users/me", &admin.token, json!({ "password": PASSWORD })).await;
    assert_eq!(read(&app, &key).await, is(403, "inactive_user"));
}

#[tokio::test]
async fn a_revocation_by_another_replica_is_effective_when_the_cached_key_expires() {
    let app = TestApp::start().await;
    let replica = TestApp::on(app.database.clone(), &[]).await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &SCOPES).await;
    assert_eq!((read(&app, &key).await, read(&replica, &key).await), (is(200, ""), is(200, "")));
    assert_eq!(app.call(Method::DELETE, &key.path(), &owner).await.status, 204);
    assert_eq!(read(&app, &key).await, is(401, "invalid_token"));
    eventually("the other replica refuses the key", || async {
        (read(&replica, &key).await == is(401, "invalid_token")).then_some(())
    })
    .await;
}
