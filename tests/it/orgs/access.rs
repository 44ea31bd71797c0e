//! Authorization in organizations: the matrix of roles and permissions, and callers whom all operations refuse.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ROLES, add, create, member, remove_member, send};
use crate::{
    openapi::list_operations,
    support::{TestApp, User, app::Answer},
};

/// An operation in an organization. `{org}` in its path is replaced by the id of the organization.
struct Operation {
    id: String,
    method: Method,
    path: String,
    takes_body: bool,
}

impl Operation {
    async fn call(&self, app: &TestApp, org: i64, user: &User) -> Answer {
        let path = self.path.replace("{org}", &org.to_string());
        let mut request = app.at_root(self.method.clone(), &path).bearer_auth(&user.token);
        if self.takes_body {
            request = request.json(&json!({}));
        }
        Answer::of(request).await
    }
}

/// Returns the operations of the API document whose path begins with an organization. Other parameters of the path have an
/// arbitrary valid value.
async fn read_operations(app: &TestApp) -> Vec<Operation> {
    let document = Answer::of(app.at_root(Method::GET, "/openapi.json")).await.body;
    let mut operations = Vec::new();
    for (path, method, operation) in list_operations(&document) {
        if !path.starts_with("/api/v1/orgs/{org}") {
            continue;
        }
        let mut filled = path.clone();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] == "path" && parameter["name"] != "org" {
                let value = if parameter["schema"]["type"] == "integer" {
                    "1"
                } else {
                    "0123456789abcdef0123456789abcdef"
                };
                filled = filled.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), value);
            }
        }
        operations.push(Operation {
            id: operation["operationId"].as_str().unwrap().to_owned(),
            method: method.to_uppercase().parse().unwrap(),
            path: filled,
            takes_body: operation["requestBody"].is_object(),
        });
    }
    assert!(operations.len() >= 11, "{}", operations.len());
    operations
}

/// Asserts that every operation refuses a user with this status and code, except the operations in `except`.
async fn assert_all_refuse(app: &TestApp, org: i64, user: &User, status: u16, code: &str, except: &[&str]) {
    for operation in read_operations(app).await {
        if except.contains(&&*operation.id) {
            continue;
        }
        let answer = operation.call(app, org, user).await;
        let found = (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default());
        assert_eq!(found, (status, code), "{}: {}", operation.id, answer.text);
    }
}

#[tokio::test]
async fn each_role_may_call_exactly_its_operations_of_an_organization() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let target = member(&app, id, "member").await;
    let other = format!("/members/{}", target.id);
    // Each entry: an operation, and the number of roles that may call it, counted from the owner down. The permission is
    // checked before the body. The bodies are invalid or change nothing.
    let operations: &[(Method, &str, Value, usize)] = &[
        (Method::GET, "", Value::Null, 4),
        (Method::GET, "/members", Value::Null, 4),
        (Method::PATCH, "", json!({ "name": "Acme" }), 2),
        (Method::PATCH, other.as_str(), json!({}), 2),
        (Method::DELETE, "/members/0", Value::Null, 2),
        (Method::GET, "/audit", Value::Null, 2),
        (Method::POST, "/transfer", json!({}), 1),
        (Method::POST, "/deletion", json!({}), 1),
        (Method::DELETE, "", json!({}), 1),
        (Method::POST, "/restore", Value::Null, 1),
    ];
    for (rank, role) in ROLES.iter().enumerate() {
        let user = if rank == 0 { owner.clone() } else { member(&app, id, role).await };
        for (method, path, body, allowed) in operations {
            let answer = send(&app, method.clone(), &format!("/orgs/{id}{path}"), &user, body.clone()).await;
            let name = format!("{role}: {method} {path}: {}", answer.text);
            match rank < *allowed {
                true => assert!(answer.status != 403 && answer.status.as_u16() < 500, "{name}"),
                false => assert_eq!(
                    (answer.status.as_u16(), &answer.body["code"]),
                    (403, &json!("forbidden")),
                    "{name}"
                ),
            }
        }
    }
}

#[tokio::test]
async fn smoke_an_organization_is_not_found_by_users_who_are_not_members() {
    let app = TestApp::start().await;
    let (owner, stranger) = (app.user().await, app.user().await);
    let id = create(&app, &owner, "Canary").await;
    create(&app, &stranger, "Mine").await;
    for org in [id, 0, i64::MAX] {
        assert_all_refuse(&app, org, &stranger, 404, "org_not_found", &[]).await;
    }
    let foreign = app.get(&format!("/orgs/{id}"), Some(&stranger)).await;
    let unknown = app.get("/orgs/0", Some(&stranger)).await;
    foreign.is_problem(404, "org_not_found", "Organization not found");
    assert_eq!(
        (&foreign.body["detail"], &foreign.body["title"]),
        (&unknown.body["detail"], &unknown.body["title"])
    );
    assert!(!app.get("/orgs", Some(&stranger)).await.text.contains("Canary"));
    app.get(&format!("/orgs/{id}"), None).await.is_some_problem(401, "not_authenticated");
}

#[tokio::test]
async fn an_admin_of_the_platform_who_is_not_a_member_is_refused_like_a_stranger() {
    let app = TestApp::start().await;
    let (owner, admin) = (app.user().await, app.admin().await);
    let id = create(&app, &owner, "Acme").await;
    assert_all_refuse(&app, id, &admin, 404, "org_not_found", &[]).await;
}

#[tokio::test]
async fn a_removed_member_is_refused_like_a_stranger() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let admin = member(&app, id, "admin").await;
    assert_eq!(app.get(&format!("/orgs/{id}"), Some(&admin)).await.status, 200);
    assert_eq!(remove_member(&app, id, &owner, &admin).await.status, 204);
    assert_all_refuse(&app, id, &admin, 404, "org_not_found", &[]).await;
}

#[tokio::test]
async fn a_suspended_member_is_refused_in_this_organization_only() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let admin = member(&app, id, "admin").await;
    let other = create(&app, &owner, "Beta").await;
    add(&app, other, &admin, "viewer").await;
    let suspend = async |suspended: bool| {
        let body = json!({ "suspended": suspended });
        assert_eq!(super::patch_member(&app, id, &owner, &admin, body).await.status, 200);
    };
    suspend(true).await;
    assert_all_refuse(&app, id, &admin, 403, "member_suspended", &[]).await;
    assert_eq!(app.get(&format!("/orgs/{other}"), Some(&admin)).await.status, 200);
    suspend(false).await;
    assert_eq!(app.get(&format!("/orgs/{id}"), Some(&admin)).await.status, 200);
}

#[tokio::test]
async fn a_suspended_organization_refuses_its_members() {
    let app = TestApp::start().await;
    let (owner, admin) = (app.user().await, app.admin().await);
    let id = create(&app, &owner, "Acme").await;
    let path = format!("/admin/orgs/{id}");
    assert_eq!(send(&app, Method::PATCH, &path, &admin, json!({ "suspended": true })).await.status, 200);
    assert_all_refuse(&app, id, &owner, 403, "org_suspended", &[]).await;
    assert_eq!(send(&app, Method::PATCH, &path, &admin, json!({ "suspended": false })).await.status, 200);
    assert_eq!(app.get(&format!("/orgs/{id}"), Some(&owner)).await.status, 200);
}

#[tokio::test]
async fn an_organization_that_is_due_for_deletion_refuses_all_but_its_restoration() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let admin = member(&app, id, "admin").await;
    assert_eq!(super::delete(&app, id, &owner).await.status, 202);
    assert_all_refuse(&app, id, &owner, 403, "org_deleting", &["restore_org"]).await;
    assert_all_refuse(&app, id, &admin, 403, "org_deleting", &["restore_org"]).await;
    app.call(Method::POST, &format!("/orgs/{id}/restore"), &admin).await.is_some_problem(403, "forbidden");
}
