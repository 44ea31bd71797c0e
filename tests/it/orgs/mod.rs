//! Organizations: permissions, and invariants that also hold for concurrent requests.

mod access;
mod accounts;
mod audit;
mod copies;
mod deletion;
mod list;
mod members;
mod personal;
mod platform;
mod races;
mod repeats;
mod transfer;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    records::column,
};

/// The roles, from the highest to the lowest.
const ROLES: [&str; 4] = ["owner", "admin", "member", "viewer"];

/// Sends a request with a JSON body, unless the body is null.
async fn send(app: &TestApp, method: Method, path: &str, user: &User, body: Value) -> Answer {
    let mut request = app.request(method, path).bearer_auth(&user.token);
    if !body.is_null() {
        request = request.json(&body);
    }
    Answer::of(request).await
}

/// Creates an organization, and returns its id.
async fn create(app: &TestApp, owner: &User, name: &str) -> i64 {
    let made = app.post("/orgs", Some(owner), json!({ "name": name })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body["id"].as_i64().unwrap()
}

/// Makes a user a member with this role.
async fn add(app: &TestApp, org: i64, user: &User, role: &str) {
    let id = user.id;
    app.sql(&format!("INSERT INTO memberships (org_id, user_id, role) VALUES ({org}, {id}, '{role}')")).await;
}

/// Creates a user, and makes the user a member with this role.
async fn member(app: &TestApp, org: i64, role: &str) -> User {
    let user = app.user().await;
    add(app, org, &user, role).await;
    user
}

async fn patch_member(app: &TestApp, org: i64, by: &User, of: &User, body: Value) -> Answer {
    send(app, Method::PATCH, &format!("/orgs/{org}/members/{}", of.id), by, body).await
}

async fn remove_member(app: &TestApp, org: i64, by: &User, of: &User) -> Answer {
    app.call(Method::DELETE, &format!("/orgs/{org}/members/{}", of.id), by).await
}

async fn leave(app: &TestApp, org: i64, user: &User) -> Answer {
    app.call(Method::DELETE, &format!("/orgs/{org}/members/me"), user).await
}

async fn transfer(app: &TestApp, org: i64, by: &User, to: &User) -> Answer {
    let body = json!({ "user_id": to.id, "password": PASSWORD });
    app.post(&format!("/orgs/{org}/transfer"), Some(by), body).await
}

/// Schedules the deletion of an organization.
async fn delete(app: &TestApp, org: i64, by: &User) -> Answer {
    app.post(&format!("/orgs/{org}/deletion"), Some(by), json!({ "password": PASSWORD })).await
}

async fn delete_account(app: &TestApp, user: &User) -> Answer {
    app.post("/users/me/deletion", Some(user), json!({ "password": PASSWORD })).await
}

/// Returns the members as `id role`, sorted by id. The text of a suspended member ends in `suspended`.
async fn list_members(app: &TestApp, org: i64) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' ', user_id, role, CASE WHEN suspended_at IS NOT NULL THEN 'suspended' END)
         FROM memberships WHERE org_id = {org} ORDER BY user_id"
    );
    column(&app.database, &sql).await
}

/// Returns the ids of the owners of an organization. An organization must have exactly one.
async fn owner_ids(app: &TestApp, org: i64) -> Vec<String> {
    column(&app.database, &format!("SELECT user_id FROM memberships WHERE org_id = {org} AND role = 'owner'"))
        .await
}

#[track_caller]
fn assert_status(answer: &Answer, status: u16) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
}
