//! Operations of admins on the accounts of users.

mod invite;
mod last_admin;
mod list;
mod promotion;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, fields},
    authenticator::{challenge, enable_two_factor},
};

async fn patch(app: &TestApp, admin: &User, id: i64, body: Value) -> Answer {
    let request = app.request(Method::PATCH, &format!("/users/{id}")).bearer_auth(&admin.token);
    Answer::of(request.json(&body)).await
}

async fn delete(app: &TestApp, admin: &User, id: i64) -> Answer {
    app.call(Method::DELETE, &format!("/users/{id}"), admin).await
}

/// Asserts that the access token and the refresh token of the user are refused.
async fn assert_signed_out(app: &TestApp, user: &User) {
    app.get("/users/me", Some(user)).await.is_some_problem(401, "invalid_token");
    let refresh = json!({ "refresh_token": user.refresh_token });
    app.post("/auth/refresh", None, refresh).await.is_some_problem(401, "invalid_token");
}

#[tokio::test]
async fn an_admin_reads_a_user_in_the_same_format_as_the_user() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let shown = app.get(&format!("/users/{}", user.id), Some(&admin)).await;
    assert_eq!((shown.status.as_u16(), &shown.body["email"]), (200, &json!(user.email)));
    assert_eq!(shown.body, app.get("/users/me", Some(&user)).await.body);
    assert!(!shown.text.contains("password"), "{}", shown.text);
}

#[tokio::test]
async fn an_unknown_user_is_not_found() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for id in [0, -1, admin.id + 1_000, i64::MAX] {
        let own = format!("/users/{id}");
        for (method, path) in [
            (Method::GET, own.clone()),
            (Method::DELETE, own.clone()),
            (Method::POST, format!("{own}/invite")),
            (Method::DELETE, format!("{own}/sessions")),
            (Method::DELETE, format!("{own}/two-factor")),
        ] {
            app.call(method, &path, &admin).await.is_problem(404, "not_found", "User not found");
        }
        for change in [json!({ "full_name": "x" }), json!({ "role": "user" }), json!({ "is_active": false })]
        {
            patch(&app, &admin, id, change).await.is_problem(404, "not_found", "User not found");
        }
    }
    let wrong = app.get("/users/abc", Some(&admin)).await;
    assert_eq!(wrong.invalid_fields(), fields(&[("path.id", "int_type")]));
}

#[tokio::test]
async fn smoke_a_user_update_changes_only_the_given_fields() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let mut expected = app.get("/users/me", Some(&user)).await.body;
    let cases = [
        (json!({ "full_name": "Ada Lovelace" }), json!({ "full_name": "Ada Lovelace" })),
        (json!({ "role": "user" }), json!({})),
        (json!({}), json!({})),
        (json!({ "full_name": null }), json!({ "full_name": null })),
        (json!({ "full_name": "Ada", "role": "user" }), json!({ "full_name": "Ada", "role": "user" })),
    ];
    for (body, changed) in cases {
        let answer = patch(&app, &admin, user.id, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        expected.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        expected["updated_at"] = answer.body["updated_at"].clone();
        assert_eq!(answer.body, expected);
        assert_eq!(app.get("/users/me", Some(&user)).await.body, expected, "the session stays valid");
    }
}

#[tokio::test]
async fn a_role_change_is_effective_at_once() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    app.get("/users", Some(&user)).await.is_some_problem(403, "forbidden");
    patch(&app, &admin, user.id, json!({ "role": "admin" })).await;
    let user = User::signed_in(user.id, &user.email, &app.login(&user.email, PASSWORD).await);
    assert_eq!(app.get("/users", Some(&user)).await.status, 200);
    patch(&app, &user, admin.id, json!({ "role": "user" })).await;
    app.get("/users", Some(&admin)).await.is_some_problem(403, "forbidden");
}

#[tokio::test]
async fn every_invalid_field_of_a_user_update_is_reported() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let before = app.get("/users/me", Some(&user)).await.body;
    for (body, wrong) in [
        (
            json!({ "email": "new@example.com", "id": 5, "full_name": "x" }),
            vec![("body.email", "extra_forbidden"), ("body.id", "extra_forbidden")],
        ),
        (
            json!({ "role": "owner", "is_active": "no", "full_name": 5 }),
            vec![("body.full_name", "string_type"), ("body.is_active", "bool_type"), ("body.role", "enum")],
        ),
        (
            json!({ "role": null, "is_active": null }),
            vec![("body.is_active", "bool_type"), ("body.role", "string_type")],
        ),
        (json!({ "full_name": "x".repeat(256) }), vec![("body.full_name", "string_too_long")]),
        (json!({ "full_name": "a\u{0}b" }), vec![("body.full_name", "value_error")]),
        (json!([]), vec![("body", "object_type")]),
    ] {
        let answer = patch(&app, &admin, user.id, body).await;
        assert_eq!(answer.invalid_fields(), fields(&wrong));
    }
    assert_eq!(app.get("/users/me", Some(&user)).await.body, before);
}

#[tokio::test]
async fn a_deactivated_user_is_refused_until_activated_and_signed_in_again() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let answer = patch(&app, &admin, user.id, json!({ "is_active": false })).await;
    assert_eq!((answer.status.as_u16(), &answer.body["is_active"]), (200, &json!(false)));
    app.get("/users/me", Some(&user)).await.is_problem(403, "inactive_user", "Inactive user");
    let refresh = json!({ "refresh_token": user.refresh_token });
    app.post("/auth/refresh", None, refresh).await.is_some_problem(401, "invalid_token");
    app.login(&user.email, PASSWORD).await.is_some_problem(401, "bad_credentials");

    patch(&app, &admin, user.id, json!({ "is_active": true })).await;
    assert_signed_out(&app, &user).await;
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn a_deactivation_invalidates_earlier_links() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    app.post("/auth/forgot-password", None, json!({ "email": user.email })).await;
    let reset = json!({ "token": app.mailed_token(&user.email).await, "password": "another horse battery" });
    for is_active in [false, true] {
        patch(&app, &admin, user.id, json!({ "is_active": is_active })).await;
        let refused = app.post("/auth/reset-password", None, reset.clone()).await;
        refused.is_some_problem(400, "invalid_link");
    }
}

#[tokio::test]
async fn a_deleted_user_is_refused_at_once() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    assert_eq!(delete(&app, &admin, user.id).await.status, 204);
    assert_signed_out(&app, &user).await;
    app.login(&user.email, PASSWORD).await.is_some_problem(401, "bad_credentials");
    app.get(&format!("/users/{}", user.id), Some(&admin)).await.is_some_problem(404, "not_found");
    delete(&app, &admin, user.id).await.is_some_problem(404, "not_found");
    let mails = app.mails().await;
    let sent: Vec<_> = mails.iter().map(|mail| (&*mail.to, &*mail.subject)).collect();
    assert_eq!(sent, [(&*user.email, "Your account was deleted")]);
    let again = json!({ "email": user.email, "password": PASSWORD });
    let again = app.post("/auth/register", None, again).await;
    assert_eq!(again.status, 201, "the address is available again: {}", again.text);
    assert_ne!(again.body["id"], user.id);
}

#[tokio::test]
async fn an_admin_revokes_all_sessions_of_a_user() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let elsewhere = User::signed_in(user.id, &user.email, &app.login(&user.email, PASSWORD).await);
    let path = format!("/users/{}/sessions", user.id);
    for _ in 0..2 {
        assert_eq!(app.call(Method::DELETE, &path, &admin).await.status, 204);
        assert_signed_out(&app, &user).await;
        assert_signed_out(&app, &elsewhere).await;
    }
    assert_eq!(app.get("/users/me", Some(&admin)).await.status, 200);
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn an_admin_turns_off_a_lost_second_factor() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let path = format!("/users/{}/two-factor", user.id);
    app.call(Method::DELETE, &path, &admin).await.is_some_problem(404, "not_found");
    assert_eq!(app.get("/users/me", Some(&user)).await.status, 200, "the session stays valid");
    enable_two_factor(&app, &user).await;
    let waiting = challenge(&app, &user).await;
    assert_eq!(app.call(Method::DELETE, &path, &admin).await.status, 204);
    assert_signed_out(&app, &user).await;
    let code = json!({ "challenge_token": waiting, "code": "123456" });
    app.post("/auth/login/two-factor", None, code).await.is_some_problem(400, "invalid_code");
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    let mails = app.mails().await;
    assert_eq!(mails.last().unwrap().subject, "Two-factor sign-in was switched off");
    app.call(Method::DELETE, &path, &admin).await.is_some_problem(404, "not_found");
}

#[tokio::test]
async fn a_user_who_is_not_an_admin_may_not_manage_users() {
    let app = TestApp::start().await;
    let (user, other) = (app.user().await, app.user().await);
    for id in [user.id, other.id] {
        let own = format!("/users/{id}");
        for (method, path) in [
            (Method::GET, "/users".to_owned()),
            (Method::GET, own.clone()),
            (Method::DELETE, own.clone()),
            (Method::POST, format!("{own}/invite")),
            (Method::DELETE, format!("{own}/sessions")),
            (Method::DELETE, format!("{own}/two-factor")),
        ] {
            app.call(method, &path, &user).await.is_problem(403, "forbidden", "Not enough permissions");
        }
        patch(&app, &user, id, json!({ "role": "admin" })).await.is_some_problem(403, "forbidden");
    }
    let invite = json!({ "email": "new@example.com", "role": "admin" });
    app.post("/users", Some(&user), invite).await.is_some_problem(403, "forbidden");
    assert_eq!(app.get("/users/me", Some(&other)).await.body["role"], "user");
}
