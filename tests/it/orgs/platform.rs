//! Operations of platform admins on organizations: list and suspend.

use reqwest::Method;
use serde_json::{Value, json};

use super::{assert_status, create, member, send};
use crate::support::{TestApp, app::fields};

#[tokio::test]
async fn smoke_an_admin_of_the_platform_lists_and_suspends_organizations() {
    let app = TestApp::with(&["--personal-organizations=false"]).await;
    let (owner, admin) = (app.user().await, app.admin().await);
    let (acme, beta) = (create(&app, &owner, "Acme Łódź").await, create(&app, &owner, "100% Beta").await);
    member(&app, acme, "viewer").await;
    app.sql(&format!("UPDATE organizations SET slug = 'acme' WHERE id = {acme}")).await;
    let list = async |query: &str| {
        let page = app.get(&format!("/admin/orgs?{query}"), Some(&admin)).await;
        assert_status(&page, 200);
        (page.body["items"].clone(), page.body["next_cursor"].clone())
    };
    let (items, next) = list("").await;
    assert_eq!(next, Value::Null);
    let mut first = items[1].clone();
    for name in ["created_at", "updated_at"] {
        assert!(first[name].take().is_string());
    }
    let expected = json!({
        "id": acme, "name": "Acme Łódź", "slug": "acme", "personal_of": null, "owner_id": owner.id, "members": 2,
        "suspended_at": null, "deletion_due_at": null, "created_at": null, "updated_at": null,
    });
    assert_eq!(first, expected);
    let suspend = async |id: i64, suspended: Value| {
        send(&app, Method::PATCH, &format!("/admin/orgs/{id}"), &admin, json!({ "suspended": suspended }))
            .await
    };
    for _ in ["suspends it", "changes nothing"] {
        let done = suspend(beta, json!(true)).await;
        assert_status(&done, 200);
        assert!(done.body["suspended_at"].is_string() && done.body["id"] == beta);
    }
    for (query, ids) in [
        ("", vec![beta, acme]),
        ("search=%C5%81%C3%93D", vec![acme]),
        ("search=ACME", vec![acme]),
        ("search=%25", vec![beta]),
        ("search=_", vec![]),
        ("suspended=true", vec![beta]),
        ("suspended=false", vec![acme]),
    ] {
        let found: Vec<_> =
            list(query).await.0.as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
        assert_eq!(found, ids, "{query}");
    }
    let (page, next) = list("limit=1").await;
    assert_eq!((&page[0]["id"], page.as_array().unwrap().len()), (&json!(beta), 1));
    let (page, next) = list(&format!("limit=1&cursor={}", next.as_str().unwrap())).await;
    assert_eq!((&page[0]["id"], next), (&json!(acme), Value::Null));

    suspend(0, json!(true)).await.is_problem(404, "org_not_found", "Organization not found");
    assert_eq!(suspend(beta, Value::Null).await.invalid_fields(), fields(&[("body.suspended", "bool_type")]));
    assert_eq!(suspend(beta, json!(false)).await.body["suspended_at"], Value::Null);
    let trail = app.get("/audit?limit=10", Some(&admin)).await.body;
    let actions: Vec<_> = trail["items"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(
        actions[..2],
        [&json!("org.unsuspended"), &json!("org.suspended")],
        "each change has one entry"
    );
}

#[tokio::test]
async fn users_who_are_not_admins_may_not_list_or_suspend_organizations() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    app.get("/admin/orgs", Some(&owner)).await.is_some_problem(403, "forbidden");
    let path = format!("/admin/orgs/{id}");
    send(&app, Method::PATCH, &path, &owner, json!({ "suspended": true }))
        .await
        .is_some_problem(403, "forbidden");
}
