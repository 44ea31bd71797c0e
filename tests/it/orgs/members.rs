//! The members of an organization: list, roles, suspension and departure.

use reqwest::Method;
use serde_json::{Value, json};

use super::{add, assert_status, create, leave, list_members, member, patch_member, remove_member};
use crate::support::{TestApp, User, app::fields};

#[tokio::test]
async fn an_admin_may_change_members_up_to_the_role_admin_and_never_the_owner() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let (admin, other, viewer) =
        (member(&app, id, "admin").await, member(&app, id, "admin").await, member(&app, id, "viewer").await);
    let before = list_members(&app, id).await;
    let refused: &[(&User, &User, Value, u16, &str)] = &[
        (&admin, &owner, json!({ "role": "viewer" }), 403, "role_too_high"),
        (&admin, &owner, json!({ "suspended": true }), 403, "role_too_high"),
        (&admin, &viewer, json!({ "role": "owner" }), 403, "role_too_high"),
        (&admin, &admin, json!({ "role": "owner" }), 403, "role_too_high"),
        (&owner, &viewer, json!({ "role": "owner" }), 403, "role_too_high"),
        (&owner, &owner, json!({ "role": "admin" }), 409, "last_owner"),
        (&owner, &owner, json!({ "suspended": true }), 409, "last_owner"),
        (&viewer, &viewer, json!({ "role": "admin" }), 403, "forbidden"),
    ];
    for (by, of, body, status, code) in refused {
        patch_member(&app, id, by, of, body.clone()).await.is_some_problem(*status, code);
    }
    for (by, of, status, code) in [
        (&admin, &owner, 403, "role_too_high"),
        (&owner, &owner, 409, "last_owner"),
        (&viewer, &admin, 403, "forbidden"),
    ] {
        remove_member(&app, id, by, of).await.is_some_problem(status, code);
    }
    assert_eq!(list_members(&app, id).await, before);

    for (of, role) in [(&viewer, "admin"), (&viewer, "member"), (&other, "member"), (&admin, "viewer")] {
        let answer = patch_member(&app, id, &admin, of, json!({ "role": role })).await;
        assert_status(&answer, 200);
        assert_eq!((&answer.body["role"], &answer.body["user_id"]), (&json!(role), &json!(of.id)));
    }
    patch_member(&app, id, &admin, &other, json!({ "role": "admin" }))
        .await
        .is_some_problem(403, "forbidden");
}

#[tokio::test]
async fn only_members_of_the_organization_can_be_changed() {
    let app = TestApp::start().await;
    let (owner, stranger) = (app.user().await, app.user().await);
    let id = create(&app, &owner, "Acme").await;
    let elsewhere = create(&app, &stranger, "Beta").await;
    let unknown = User { id: 0, ..stranger.clone() };
    for of in [&stranger, &unknown] {
        patch_member(&app, id, &owner, of, json!({ "role": "viewer" })).await.is_problem(
            404,
            "not_found",
            "Member not found",
        );
        remove_member(&app, id, &owner, of).await.is_problem(404, "not_found", "Member not found");
    }
    assert_eq!(list_members(&app, elsewhere).await, [format!("{} owner", stranger.id)]);
    let wrong = patch_member(&app, id, &owner, &stranger, json!({ "role": "boss", "suspended": "no" })).await;
    assert_eq!(wrong.invalid_fields(), fields(&[("body.role", "enum"), ("body.suspended", "bool_type")]));
}

#[tokio::test]
async fn a_suspension_keeps_the_role_of_the_member() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let bob = member(&app, id, "member").await;
    for (body, role, state) in [
        (json!({ "suspended": true }), "member", "suspended"),
        (json!({ "role": "admin" }), "admin", "suspended"),
        (json!({}), "admin", "suspended"),
        (json!({ "suspended": false, "role": "viewer" }), "viewer", "active"),
    ] {
        let answer = patch_member(&app, id, &owner, &bob, body.clone()).await;
        assert_status(&answer, 200);
        assert_eq!((&answer.body["role"], &answer.body["state"]), (&json!(role), &json!(state)), "{body}");
        assert_eq!(answer.body["suspended_at"].is_string(), state == "suspended", "{body}");
    }
}

#[tokio::test]
async fn a_member_may_leave_and_the_owner_may_not() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    for role in ["admin", "member", "viewer"] {
        let user = member(&app, id, role).await;
        assert_eq!(leave(&app, id, &user).await.status, 204, "{role}");
        leave(&app, id, &user).await.is_some_problem(404, "org_not_found");
    }
    leave(&app, id, &owner).await.is_problem(
        409,
        "last_owner",
        "You are the owner of Acme: transfer it first",
    );
    // An admin may also leave by the operation that removes a member, with the id of the own account.
    let admin = member(&app, id, "admin").await;
    assert_eq!(remove_member(&app, id, &admin, &admin).await.status, 204);
    assert_eq!(list_members(&app, id).await, [format!("{} owner", owner.id)]);
    assert!(app.mails().await.is_empty(), "a member who leaves gets no mail");
}

#[tokio::test]
async fn a_removed_member_gets_a_mail() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme & Sons").await;
    let (bob, eve) = (member(&app, id, "member").await, member(&app, id, "member").await);
    app.sql(&format!("UPDATE users SET email_verified_at = NULL WHERE id = {}", eve.id)).await;
    for user in [&bob, &eve] {
        assert_eq!(remove_member(&app, id, &owner, user).await.status, 204);
    }
    let mails = app.mails().await;
    assert_eq!(mails.len(), 2);
    assert!(mails.iter().all(|mail| mail.subject == "You were removed from an organization"));
    let text = |user: &User| &mails.iter().find(|mail| mail.to == user.email).unwrap().text;
    assert!(text(&bob).contains("no longer a member of Acme & Sons"), "{}", text(&bob));
    assert!(!text(&eve).contains("Acme"), "the address is not verified: {}", text(&eve));
}

#[tokio::test]
async fn the_member_list_has_filters_a_search_and_pages() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let id = create(&app, &owner, "Acme").await;
    let mut all = vec![owner.id];
    for role in ["admin", "member", "member", "viewer"] {
        all.push(member(&app, id, role).await.id);
    }
    let other = app.user().await;
    add(&app, create(&app, &other, "Beta").await, &owner, "viewer").await;
    app.sql(&format!("UPDATE users SET full_name = 'Łukasz Żak' WHERE id = {}", all[2])).await;
    app.sql(&format!("UPDATE memberships SET suspended_at = now() WHERE user_id = {}", all[3])).await;
    let path = format!("/orgs/{id}/members");
    let list = async |query: &str| {
        let page = app.get(&format!("{path}?{query}"), Some(&owner)).await;
        assert_status(&page, 200);
        let items = page.body["items"].as_array().unwrap().iter();
        (
            items.map(|item| item["user_id"].as_i64().unwrap()).collect::<Vec<_>>(),
            page.body["next_cursor"].clone(),
        )
    };
    for (query, found) in [
        ("", vec![0, 1, 2, 3, 4]),
        ("role=member", vec![2, 3]),
        ("state=suspended", vec![3]),
        ("state=active&role=member", vec![2]),
        ("search=%C5%81UKASZ", vec![2]),
        ("search=%25", vec![]),
        ("search=example.com", vec![0, 1, 2, 3, 4]),
        ("limit=5", vec![0, 1, 2, 3, 4]),
    ] {
        let found: Vec<_> = found.into_iter().map(|at: usize| all[at]).collect();
        assert_eq!(list(query).await, (found, Value::Null), "{query}");
    }
    let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
    let mut cursors = Vec::new();
    loop {
        let (ids, next) = list(&query).await;
        seen.extend(ids);
        let Some(cursor) = next.as_str() else { break };
        query = format!("limit=2&cursor={cursor}");
        cursors.push(cursor.to_owned());
    }
    assert_eq!((seen, cursors.len()), (all, 2));
    // The limit may change between pages; the filters and the list may not.
    assert_eq!(list(&format!("limit=50&cursor={}", cursors[0])).await.0.len(), 3);
    for query in [
        format!("members?role=member&cursor={}", cursors[0]),
        format!("audit?cursor={}", cursors[0]),
        "members?cursor=x".into(),
    ] {
        let answer = app.get(&format!("/orgs/{id}/{query}"), Some(&owner)).await;
        assert_eq!(answer.invalid_fields(), fields(&[("query.cursor", "value_error")]), "{query}");
    }
    let unknown = app.get(&format!("{path}?rolle=admin"), Some(&owner)).await;
    assert_eq!(unknown.invalid_fields(), fields(&[("query.rolle", "extra_forbidden")]));
    let wrong = app.get(&format!("{path}?limit=0&state=gone"), Some(&owner)).await;
    let expected = [("query.limit", "greater_than_equal"), ("query.state", "enum")];
    assert_eq!(wrong.invalid_fields(), fields(&expected));
    let removed = app.call(Method::DELETE, &format!("{path}/me"), &owner).await;
    removed.is_some_problem(409, "last_owner");
}
