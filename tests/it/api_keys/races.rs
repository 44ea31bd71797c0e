//! Keys that are used, revoked and rotated at the same time. In some tests, a transaction of the test stays open until the
//! requests wait for it.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use super::{Key, LONG_CACHE, SCOPES, add_product, create_key, create_org, is, outcome, read, rotate};
use crate::support::{TestApp, eventually, records::column};

/// Begins a transaction, and runs statements in it. The caller must end the transaction with the returned client.
async fn hold(app: &TestApp, sql: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&app.database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
    client
}

/// Waits until this number of requests wait for a lock in the database.
async fn wait_for_blocked_requests(app: &TestApp, requests: usize) {
    let waiting = "SELECT pid FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the requests wait for a lock", || async {
        (column(&app.database, waiting).await.len() == requests).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_revocation_waits_for_a_change_that_already_uses_the_key() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &SCOPES).await;
    // `change` has checked the key when it waits for this uncommitted product with the same SKU.
    let insert = "INSERT INTO products (org_id, sku, name, price, currency) VALUES";
    let blocker = hold(&app, &format!("{insert} ({org}, 'T-1', 'Tea', 1, 'EUR')")).await;
    let change = add_product(&app, org, &key.secret, "T-1");
    let revoke = async {
        wait_for_blocked_requests(&app, 1).await;
        app.call(Method::DELETE, &key.path(), &owner).await
    };
    let unblock = async {
        wait_for_blocked_requests(&app, 2).await;
        blocker.batch_execute("ROLLBACK").await.unwrap();
    };
    let (changed, revoked, ()) = tokio::join!(change, revoke, unblock);
    assert_eq!((outcome(&changed), outcome(&revoked)), (is(201, ""), is(204, "")));
    assert_eq!(outcome(&add_product(&app, org, &key.secret, "T-2").await), is(401, "invalid_token"));
}

#[tokio::test]
async fn a_change_with_an_outdated_cached_key_is_refused() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    for (change, expected) in [
        ("revoked_at = now()", is(401, "invalid_token")),
        ("expires_at = now()", is(401, "invalid_token")),
        // A rotation without an overlap, and two rotations.
        (
            "previous_hash = hash, previous_expires_at = now(), hash = sha256(gen_random_uuid()::text::bytea)",
            is(401, "invalid_token"),
        ),
        ("hash = sha256(gen_random_uuid()::text::bytea)", is(401, "invalid_token")),
        ("scopes = 'product:read'", is(403, "scope_missing")),
    ] {
        let key = create_key(&app, org, &owner, &SCOPES).await;
        assert_eq!(read(&app, &key).await, is(200, ""));
        let update = format!("UPDATE api_keys SET {change} WHERE id = {}", key.id);
        let writer = hold(&app, &update).await;
        let commit = async {
            wait_for_blocked_requests(&app, 1).await;
            writer.batch_execute("COMMIT").await.unwrap();
        };
        let (changed, ()) = tokio::join!(add_product(&app, org, &key.secret, "T-1"), commit);
        assert_eq!(outcome(&changed), expected, "{change}");
    }
    assert_eq!(column(&app.database, "SELECT count(*) FROM products").await, ["0"]);
}

#[tokio::test]
async fn concurrent_rotations_leave_two_valid_secrets() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let first = create_key(&app, org, &owner, &SCOPES).await;
    let rotations = join_all((0..5).map(|_| rotate(&app, &first, &owner, json!({})))).await;
    let rotated = rotations.iter().map(|answer| Key::of(org, answer));
    let all: Vec<_> = rotated.chain([first.clone()]).collect();
    let outcomes = join_all(all.iter().map(|key| read(&app, key))).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == is(200, "")).count(), 2, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == is(401, "invalid_token")).count(), 4);
    assert_eq!(outcomes[5], is(401, "invalid_token"));
}

#[tokio::test]
async fn a_key_is_usable_without_a_gap_while_it_is_rotated() {
    let app = TestApp::with(&["--identity-cache-ms=0"]).await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let mut key = create_key(&app, org, &owner, &SCOPES).await;
    for _ in 0..5 {
        let uses = join_all((0..4).map(|_| read(&app, &key)));
        let (rotated, uses) = tokio::join!(rotate(&app, &key, &owner, json!({})), uses);
        assert!(uses.iter().all(|outcome| *outcome == is(200, "")), "{uses:?}");
        key = Key::of(org, &rotated);
    }
}

#[tokio::test]
async fn concurrent_reports_of_a_leak_revoke_and_notify_once() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let key = create_key(&app, org, &owner, &SCOPES).await;
    let body = json!({ "keys": [key.secret] });
    let reports = join_all((0..5).map(|_| app.post("/secret-scanning/revoke", None, body.clone()))).await;
    assert!(reports.iter().all(|answer| answer.status == 204));
    let entries = "SELECT count(*) FROM audit_log WHERE action = 'api_key.revoked'";
    assert_eq!(column(&app.database, entries).await, ["1"]);
    let mails = app.mails().await;
    assert_eq!(mails.iter().filter(|mail| mail.subject == "A leaked API key was revoked").count(), 1);
}
