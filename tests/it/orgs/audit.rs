//! The audit trail of an organization.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_status, create, delete, leave, member, patch_member, remove_member, send, transfer};
use crate::support::{TestApp, User};

/// Returns the entries of a page of an organization's audit trail, the oldest first.
async fn trail(app: &TestApp, org: i64, user: &User, query: &str) -> Vec<Value> {
    let page = app.get(&format!("/orgs/{org}/audit?{query}"), Some(user)).await;
    assert_status(&page, 200);
    page.body["items"].as_array().unwrap().iter().rev().cloned().collect()
}

#[tokio::test]
async fn smoke_each_change_of_an_organization_writes_an_audit_entry() {
    let app = TestApp::start().await;
    let (owner, platform) = (app.user().await, app.admin().await);
    let id = create(&app, &owner, "Acme").await;
    // Entries of another organization are not part of the trail.
    create(&app, &owner, "Beta").await;
    let (bob, eve) = (member(&app, id, "member").await, member(&app, id, "viewer").await);
    let ok = async |method: Method, path: String, user: &User, body: Value| {
        let answer = send(&app, method, &path, user, body).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
    };
    ok(Method::PATCH, format!("/orgs/{id}"), &owner, json!({ "slug": "acme" })).await;
    ok(Method::PATCH, format!("/orgs/{id}"), &owner, json!({ "slug": "acme" })).await;
    assert_status(
        &patch_member(&app, id, &owner, &bob, json!({ "role": "admin", "suspended": true })).await,
        200,
    );
    assert_status(&patch_member(&app, id, &owner, &bob, json!({ "suspended": true })).await, 200);
    assert_status(&patch_member(&app, id, &owner, &bob, json!({ "suspended": false })).await, 200);
    assert_status(&transfer(&app, id, &owner, &bob).await, 200);
    assert_status(&remove_member(&app, id, &owner, &eve).await, 204);
    for suspended in [true, false] {
        ok(Method::PATCH, format!("/admin/orgs/{id}"), &platform, json!({ "suspended": suspended })).await;
    }
    assert_status(&delete(&app, id, &bob).await, 202);
    ok(Method::POST, format!("/orgs/{id}/restore"), &bob, Value::Null).await;
    assert_status(&leave(&app, id, &owner).await, 204);
    // A refused request writes no entry.
    leave(&app, id, &bob).await.is_some_problem(409, "last_owner");

    let found = trail(&app, id, &bob, "").await;
    let due =
        found.iter().find(|entry| entry["action"] == "org.deletion_scheduled").unwrap()["after"].clone();
    assert!(due["deletion_due_at"].is_string());
    let (org, none) = (id.to_string(), Value::Null);
    let fields = |slug: Value| json!({ "name": "Acme", "slug": slug, "personal": false });
    let member = |role: &str, suspended: bool| json!({ "role": role, "suspended": suspended });
    let (bob_id, eve_id, owner_id) = (bob.id.to_string(), eve.id.to_string(), owner.id.to_string());
    let expected = [
        ("org.created", owner.id, &org, none.clone(), fields(Value::Null)),
        ("org.updated", owner.id, &org, fields(Value::Null), fields(json!("acme"))),
        ("member.updated", owner.id, &bob_id, member("member", false), member("admin", true)),
        ("member.updated", owner.id, &bob_id, member("admin", true), member("admin", false)),
        ("org.transferred", owner.id, &org, json!({ "owner_id": owner.id }), json!({ "owner_id": bob.id })),
        ("member.removed", owner.id, &eve_id, member("viewer", false), none.clone()),
        ("org.suspended", platform.id, &org, none.clone(), none.clone()),
        ("org.unsuspended", platform.id, &org, none.clone(), none.clone()),
        ("org.deletion_scheduled", bob.id, &org, none.clone(), due),
        ("org.deletion_cancelled", bob.id, &org, none.clone(), none.clone()),
        ("member.left", owner.id, &owner_id, member("admin", false), none),
    ];
    let actions: Vec<_> = found.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, expected.each_ref().map(|(action, ..)| *action));
    for (entry, (action, actor, target, before, after)) in found.iter().zip(&expected) {
        assert_eq!((&entry["actor_id"], &entry["target_id"]), (&json!(actor), &json!(target)), "{action}");
        assert_eq!((&entry["before"], &entry["after"]), (before, after), "{action}");
        let kind = if action.starts_with("member") { "member" } else { "organization" };
        assert_eq!(entry["target_type"], kind, "{action}");
        for hidden in ["address", "request_id", "client_request_id"] {
            assert!(entry.get(hidden).is_none(), "{entry}");
        }
    }
    // The trail of the platform has the same entries, with the addresses of the clients.
    let all = app.get("/audit?action=member.updated", Some(&platform)).await.body;
    assert_eq!(
        (all["items"].as_array().unwrap().len(), &all["items"][0]["address"]),
        (2, &json!("127.0.0.1"))
    );
}

#[tokio::test]
async fn the_audit_trail_of_an_organization_has_filters_and_pages() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let bob = member(&app, id, "admin").await;
    for role in ["viewer", "member", "admin"] {
        assert_status(&patch_member(&app, id, &owner, &bob, json!({ "role": role })).await, 200);
    }
    let slug = json!({ "slug": "acme" });
    assert_status(&send(&app, Method::PATCH, &format!("/orgs/{id}"), &bob, slug).await, 200);
    for (query, number) in [
        (String::new(), 5),
        ("action=member.updated".into(), 3),
        (format!("actor_id={}", bob.id), 1),
        (format!("actor_id={}&action=org.created", bob.id), 0),
        ("limit=2".into(), 2),
    ] {
        assert_eq!(trail(&app, id, &bob, &query).await.len(), number, "{query}");
    }
    let (mut seen, mut query) = (0, "limit=2".to_owned());
    loop {
        let page = app.get(&format!("/orgs/{id}/audit?{query}"), Some(&bob)).await.body;
        seen += page["items"].as_array().unwrap().len();
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("limit=2&cursor={cursor}");
    }
    assert_eq!(seen, 5);
}
