//! Creating, listing, reading and changing organizations.

use futures_util::future::join_all;
use reqwest::Method;
use saas::services::{members::MAX_MEMBERSHIPS, permissions::Permission};
use serde_json::{Value, json};

use super::{add, assert_status, create, member, send};
use crate::support::{TestApp, User, app::fields, records::column};

#[tokio::test]
async fn smoke_one_request_lists_the_organizations_of_a_user_with_roles_and_permissions() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user().await, app.user().await);
    let made = app.post("/orgs", Some(&ada), json!({ "name": " Acme ", "slug": "acme-1" })).await;
    assert_status(&made, 201);
    let id = made.body["id"].as_i64().unwrap();
    assert_eq!(made.header("location"), format!("/api/v1/orgs/{id}"));
    assert_eq!((&made.body["name"], &made.body["slug"]), (&json!("Acme"), &json!("acme-1")));
    assert_eq!((&made.body["role"], &made.body["personal"]), (&json!("owner"), &json!(false)));
    let all: Vec<_> = Permission::ALL.iter().map(|permission| permission.as_str()).collect();
    assert_eq!(made.body["permissions"], json!(all));
    add(&app, id, &bob, "viewer").await;

    for (user, role, permissions) in
        [(&ada, "owner", json!(all)), (&bob, "viewer", json!(["member:read", "job:read", "product:read"]))]
    {
        let list = app.get("/orgs", Some(user)).await;
        assert_status(&list, 200);
        let [personal, acme] = &list.body["items"].as_array().unwrap()[..] else { panic!("{}", list.text) };
        assert_eq!((&personal["personal"], &personal["role"]), (&json!(true), &json!("owner")));
        assert_eq!(
            (&acme["id"], &acme["role"], &acme["permissions"]),
            (&json!(id), &json!(role), &permissions)
        );
        assert_eq!(app.get("/users/me/orgs", Some(user)).await.body, list.body);
        assert_eq!(app.get(&format!("/orgs/{id}"), Some(user)).await.body, *acme);
    }
}

#[tokio::test]
async fn every_invalid_field_of_an_organization_is_reported() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let id = create(&app, &user, "Acme").await;
    let long = "x".repeat(101);
    for (body, wrong) in [
        (json!({}), vec![("body.name", "missing")]),
        (json!({ "name": "" }), vec![("body.name", "string_too_short")]),
        (json!({ "name": "  " }), vec![("body.name", "value_error")]),
        (json!({ "name": "a\nb" }), vec![("body.name", "value_error")]),
        (json!({ "name": long }), vec![("body.name", "string_too_long")]),
        (json!({ "name": "A", "slug": "Acme" }), vec![("body.slug", "value_error")]),
        (json!({ "name": "A", "slug": "42" }), vec![("body.slug", "value_error")]),
        (json!({ "name": "A", "owner": 1 }), vec![("body.owner", "extra_forbidden")]),
        (
            json!({ "name": 1, "slug": "a b" }),
            vec![("body.name", "string_type"), ("body.slug", "value_error")],
        ),
    ] {
        assert_eq!(
            app.post("/orgs", Some(&user), body.clone()).await.invalid_fields(),
            fields(&wrong),
            "{body}"
        );
        if body != json!({}) {
            let change = send(&app, Method::PATCH, &format!("/orgs/{id}"), &user, body.clone()).await;
            assert_eq!(change.invalid_fields(), fields(&wrong), "{body}");
        }
    }
    let odd = app.get("/orgs/acme", Some(&user)).await;
    assert_eq!(odd.invalid_fields(), fields(&[("path.org", "int_type")]));
}

#[tokio::test]
async fn an_update_of_an_organization_keeps_absent_fields_and_null_removes_the_slug() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let path = format!("/orgs/{}", create(&app, &user, "Acme").await);
    for (body, name, slug) in [
        (json!({ "slug": "acme" }), "Acme", json!("acme")),
        (json!({ "name": "Beta" }), "Beta", json!("acme")),
        (json!({}), "Beta", json!("acme")),
        (json!({ "name": "Gamma", "slug": null }), "Gamma", Value::Null),
    ] {
        let answer = send(&app, Method::PATCH, &path, &user, body.clone()).await;
        assert_status(&answer, 200);
        assert_eq!((&answer.body["name"], &answer.body["slug"]), (&json!(name), &slug), "{body}");
        assert_eq!(app.get(&path, Some(&user)).await.body, answer.body, "{body}");
    }
}

#[tokio::test]
async fn a_slug_belongs_to_one_organization_also_for_concurrent_requests() {
    let app = TestApp::with(&["--max-organizations-per-user=20"]).await;
    let user = app.user().await;
    let body = json!({ "name": "Acme", "slug": "acme" });
    let made = join_all((0..8).map(|_| app.post("/orgs", Some(&user), body.clone()))).await;
    assert_eq!(made.iter().filter(|answer| answer.status == 201).count(), 1);
    for refused in made.iter().filter(|answer| answer.status != 201) {
        refused.is_some_problem(409, "slug_taken");
    }
    let other = create(&app, &user, "Other").await;
    let change = send(&app, Method::PATCH, &format!("/orgs/{other}"), &user, json!({ "slug": "acme" })).await;
    change.is_some_problem(409, "slug_taken");
}

#[tokio::test]
async fn the_number_of_own_organizations_is_limited_also_for_concurrent_requests() {
    let app = TestApp::with(&["--max-organizations-per-user=3"]).await;
    let user = app.user().await;
    // This request creates the personal organization, which does not count toward the limit.
    app.get("/orgs", Some(&user)).await;
    let made = join_all((0..8).map(|_| app.post("/orgs", Some(&user), json!({ "name": "Acme" })))).await;
    assert_eq!(made.iter().filter(|answer| answer.status == 201).count(), 3);
    for refused in made.iter().filter(|answer| answer.status != 201) {
        refused.is_problem(409, "org_limit_reached", "You own 3 organizations, and cannot create more");
    }
    // Organizations of other owners do not count either.
    let other = app.user().await;
    add(&app, made.iter().find_map(|answer| answer.body["id"].as_i64()).unwrap(), &other, "admin").await;
    for _ in 0..3 {
        create(&app, &other, "Beta").await;
    }
}

/// Authentication reads all memberships of a user, so their number is limited.
#[tokio::test]
async fn the_number_of_memberships_of_a_user_is_limited() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let sql = format!(
        "WITH made AS (
             INSERT INTO organizations (name) SELECT 'Org ' || n FROM generate_series(1, {MAX_MEMBERSHIPS}) n
             RETURNING id
         )
         INSERT INTO memberships (org_id, user_id, role) SELECT id, {}, 'member' FROM made",
        user.id
    );
    app.sql(&sql).await;
    let refused = app.post("/orgs", Some(&user), json!({ "name": "Acme" })).await;
    refused.is_some_problem(409, "membership_limit_reached");
    let kept = column(&app.database, "SELECT count(*) FROM organizations WHERE name = 'Acme'").await;
    assert_eq!(kept, ["0"], "the refused organization is rolled back");
    assert_eq!(
        app.get("/orgs", Some(&user)).await.body["items"].as_array().unwrap().len(),
        101,
        "and the personal one"
    );
}

#[tokio::test]
async fn the_list_of_organizations_has_the_permissions_that_are_effective_now() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let admin = member(&app, id, "admin").await;
    let read = async |user: &User| {
        let list = app.get("/orgs", Some(user)).await.body["items"].clone();
        let found = list.as_array().unwrap().iter().find(|org| org["id"] == id).unwrap().clone();
        (found["permissions"].as_array().unwrap().clone(), found)
    };
    assert_eq!(read(&admin).await.0.len(), Permission::ALL.len() - 3);
    app.sql("UPDATE memberships SET suspended_at = now() WHERE role = 'admin'").await;
    let (permissions, org) = read(&admin).await;
    assert_eq!((permissions, &org["membership_suspended"]), (vec![], &json!(true)));
    app.sql(&format!("UPDATE organizations SET suspended_at = now() WHERE id = {id}")).await;
    let (permissions, org) = read(&owner).await;
    assert_eq!((permissions, &org["suspended"]), (vec![], &json!(true)));
    let deleted = "suspended_at = NULL, deletion_due_at = now() + interval '1 day'";
    app.sql(&format!("UPDATE organizations SET {deleted} WHERE id = {id}")).await;
    let (permissions, org) = read(&owner).await;
    assert_eq!(permissions, ["org:restore"]);
    assert!(org["deletion_due_at"].is_string());
}
