//! Cached copies of memberships. A change of a membership is effective at once in its own process, and in other processes when
//! their copies expire. A change in an organization checks the membership in its transaction.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{add, assert_status, create, leave, member, patch_member, remove_member, send, transfer};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    eventually,
    servers::TestDatabase,
};

/// Caches memberships for a minute, so that no copy expires during a test.
const LONG_CACHE: &str = "--identity-cache-ms=60000";

async fn read(app: &TestApp, org: i64, user: &User) -> u16 {
    app.get(&format!("/orgs/{org}/members"), Some(user)).await.status.as_u16()
}

#[tokio::test]
async fn smoke_a_change_of_a_membership_is_effective_at_once_in_its_own_process() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let (owner, platform) = (app.user().await, app.admin().await);
    let id = create(&app, &owner, "Acme").await;
    assert_eq!(read(&app, id, &owner).await, 200, "the creator is a member at once");
    let bob = member(&app, id, "admin").await;
    let audit = async || app.get(&format!("/orgs/{id}/audit"), Some(&bob)).await.status.as_u16();
    assert_eq!((read(&app, id, &bob).await, audit().await), (200, 200));
    for (body, members, trail) in [
        (json!({ "role": "viewer" }), 200, 403),
        (json!({ "suspended": true }), 403, 403),
        (json!({ "suspended": false, "role": "admin" }), 200, 200),
    ] {
        assert_status(&patch_member(&app, id, &owner, &bob, body.clone()).await, 200);
        assert_eq!((read(&app, id, &bob).await, audit().await), (members, trail), "{body}");
    }
    for (suspended, status) in [(true, 403), (false, 200)] {
        let path = format!("/admin/orgs/{id}");
        assert_status(
            &send(&app, Method::PATCH, &path, &platform, json!({ "suspended": suspended })).await,
            200,
        );
        assert_eq!(read(&app, id, &bob).await, status);
    }
    assert_status(&transfer(&app, id, &owner, &bob).await, 200);
    assert_status(&patch_member(&app, id, &bob, &owner, json!({ "role": "viewer" })).await, 200);
    assert_status(&remove_member(&app, id, &bob, &owner).await, 204);
    assert_eq!(read(&app, id, &owner).await, 404);
    let eve = member(&app, id, "viewer").await;
    assert_eq!(read(&app, id, &eve).await, 200);
    assert_status(&leave(&app, id, &eve).await, 204);
    assert_eq!(read(&app, id, &eve).await, 404);
}

#[tokio::test]
async fn a_change_of_a_membership_is_effective_in_other_processes_when_their_copies_expire() {
    let database = Arc::new(TestDatabase::migrated().await);
    let here = TestApp::on(database.clone(), &[]).await;
    let there = TestApp::on(database, &[]).await;
    let owner = here.user().await;
    let id = create(&here, &owner, "Acme").await;
    let bob = member(&here, id, "viewer").await;
    eventually("the other process knows the member", || async {
        (read(&there, id, &bob).await == 200).then_some(())
    })
    .await;
    assert_status(&remove_member(&here, id, &owner, &bob).await, 204);
    eventually("the other process refuses the member", || async {
        (read(&there, id, &bob).await == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_read_uses_the_cached_membership_until_it_expires() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let bob = member(&app, id, "viewer").await;
    assert_eq!(read(&app, id, &bob).await, 200);
    app.database.sql(&format!("DELETE FROM memberships WHERE user_id = {}", bob.id)).await;
    assert_eq!(read(&app, id, &bob).await, 200);
    app.app.identities.invalidate_all();
    assert_eq!(read(&app, id, &bob).await, 404);
}

/// The copy does not expire during the test, so only the transaction of the change can refuse the request.
#[tokio::test]
async fn every_change_in_an_organization_checks_the_membership_in_its_transaction() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let product = json!({ "sku": "TEA-1", "name": "Tea", "price": 1, "currency": "EUR" });
    let password = json!({ "password": PASSWORD });
    let changes: &[(Method, &str, Value)] = &[
        (Method::PATCH, "", json!({ "name": "Changed" })),
        (Method::POST, "/transfer", json!({ "user_id": 0, "password": PASSWORD })),
        (Method::POST, "/deletion", password.clone()),
        (Method::DELETE, "", password),
        (Method::POST, "/restore", Value::Null),
        (Method::PATCH, "/members/{other}", json!({ "role": "admin" })),
        (Method::DELETE, "/members/{other}", Value::Null),
        (Method::DELETE, "/members/me", Value::Null),
        (Method::POST, "/products", product.clone()),
        (Method::PATCH, "/products/1", json!({ "price": 2 })),
        (Method::DELETE, "/products/1", Value::Null),
        (Method::POST, "/products/import", json!({ "products": [product] })),
    ];
    let revocations: &[(&str, u16, &str)] = &[
        ("DELETE FROM memberships WHERE user_id = {id}", 404, "org_not_found"),
        (
            "UPDATE memberships SET role = 'admin', suspended_at = now() WHERE user_id = {id}",
            403,
            "member_suspended",
        ),
        ("UPDATE organizations SET suspended_at = now() WHERE id = {org}", 403, "org_suspended"),
        ("DELETE FROM organizations WHERE id = {org}", 404, "org_not_found"),
        ("UPDATE memberships SET role = 'viewer' WHERE user_id = {id}", 403, "forbidden"),
        ("UPDATE users SET is_active = false WHERE id = {id}", 403, "inactive_user"),
        ("UPDATE sessions SET revoked_at = now() WHERE user_id = {id}", 401, "invalid_token"),
    ];
    let other = app.user().await;
    for (method, path, body) in changes {
        for (sql, status, code) in revocations {
            // A viewer may leave too, so a lower role does not forbid this operation.
            if *code == "forbidden" && *path == "/members/me" {
                continue;
            }
            let owner = app.user().await;
            let org = create(&app, &owner, "Acme").await;
            add(&app, org, &other, "viewer").await;
            assert_eq!(read(&app, org, &owner).await, 200);
            let sql = sql.replace("{id}", &owner.id.to_string()).replace("{org}", &org.to_string());
            app.database.sql(&sql).await;
            let path = path.replace("{other}", &other.id.to_string());
            let answer =
                send(&app, method.clone(), &format!("/orgs/{org}{path}"), &owner, body.clone()).await;
            let found = (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default());
            assert_eq!(found, (*status, *code), "{method} {path} after {sql}: {}", answer.text);
        }
    }
}

/// The copy of the other process does not expire during the test, so only its transactions can refuse the requests.
#[tokio::test]
async fn a_removed_member_gets_no_stored_response_at_another_process() {
    let database = Arc::new(TestDatabase::migrated().await);
    let here = TestApp::on(database.clone(), &[]).await;
    let there = TestApp::on(database, &[LONG_CACHE]).await;
    let owner = here.user().await;
    let org = create(&here, &owner, "Acme").await;
    let admin = member(&here, org, "admin").await;
    let post = async |path: &str, body: &Value| {
        let request = there.request(Method::POST, &format!("/orgs/{org}{path}")).bearer_auth(&admin.token);
        Answer::of(request.header("idempotency-key", "k").json(body)).await
    };
    let invitation = json!({ "email": "bob@example.com", "role": "member" });
    let id = post("/invitations", &invitation).await.body["id"].as_i64().unwrap();
    let product = json!({ "sku": "TEA-1", "name": "Tea", "price": 1, "currency": "EUR" });
    let requests = [
        ("/invitations".to_owned(), invitation),
        (format!("/invitations/{id}/resend"), Value::Null),
        ("/products".to_owned(), product.clone()),
        ("/products/import".to_owned(), json!({ "products": [product] })),
    ];
    for (path, body) in &requests {
        let first = post(path, body).await;
        assert!(first.status.is_success(), "{path}: {}", first.text);
        let again = post(path, body).await;
        assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &first.text), "{path}");
    }
    assert_status(&remove_member(&here, org, &owner, &admin).await, 204);
    assert_eq!(read(&there, org, &admin).await, 200, "the other process has the old membership");
    for (path, body) in &requests {
        post(path, body).await.is_some_problem(404, "org_not_found");
    }
}
