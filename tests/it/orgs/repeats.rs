//! Repeated requests (`Idempotency-Key`) and conditional requests (`ETag`, `If-Match`) for organizations.

use reqwest::Method;
use serde_json::json;

use super::{assert_status, create, member, patch_member};
use crate::support::{TestApp, app::Answer, records::column};

#[tokio::test]
async fn a_request_that_is_repeated_with_its_idempotency_key_creates_one_organization() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let post = async |key: &str, name: &str| {
        let request = app.request(Method::POST, "/orgs").bearer_auth(&owner.token);
        Answer::of(request.header("idempotency-key", key).json(&json!({ "name": name }))).await
    };
    let first = post("k", "Acme").await;
    assert_status(&first, 201);
    let again = post("k", "Acme").await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.header("idempotency-replayed"), "true");
    post("k", "Other").await.is_some_problem(422, "idempotency_key_reused");
    assert_status(&post("l", "Acme").await, 201);
    let names = "SELECT name FROM organizations WHERE personal_of IS NULL";
    assert_eq!(column(&app.database, names).await, ["Acme", "Acme"]);
}

#[tokio::test]
async fn an_organization_is_changed_only_in_the_state_that_the_client_has_seen() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let bob = member(&app, id, "admin").await;
    let path = format!("/orgs/{id}");
    let read = async |known: &str| {
        let request = app.request(Method::GET, &path).bearer_auth(&bob.token);
        Answer::of(request.header("if-none-match", known)).await
    };
    let rename = async |state: &str, name: &str| {
        let request = app.request(Method::PATCH, &path).bearer_auth(&bob.token);
        Answer::of(request.header("if-match", state).json(&json!({ "name": name }))).await
    };
    let first = read("\"x\"").await.header("etag").to_owned();
    assert_eq!(read(&first).await.status, 304);
    let changed = rename(&first, "Beta").await;
    assert_eq!((changed.status.as_u16(), &changed.body["name"]), (200, &json!("Beta")));
    let second = changed.header("etag").to_owned();
    assert_eq!(read(&first).await.header("etag"), second, "the change returns the new tag");
    // With an old tag, a rename to the current name gets 412 too.
    for name in ["Lost", "Beta"] {
        rename(&first, name).await.is_some_problem(412, "precondition_failed");
    }
    // The role of the caller is part of the state, so another role has another tag.
    for role in ["viewer", "admin"] {
        assert_status(&patch_member(&app, id, &owner, &bob, json!({ "role": role })).await, 200);
        assert_eq!(read(&second).await.status.as_u16(), if role == "viewer" { 200 } else { 304 });
    }
    assert_status(&rename(&second, "Gamma").await, 200);
}
