//! The changes that write an audit entry, and the content of the entry.

use reqwest::Method;
use serde_json::{Value, json};

use super::{count_rows, patch, read_trail};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    authenticator::enable_two_factor,
};

const NEW_PASSWORD: &str = "another horse battery";

/// Asserts the action, the actor, and the fields `before` and `after` of each entry. Also asserts that each entry is about a
/// user, and has the address of a local client and a request id.
#[track_caller]
fn assert_entries(trail: &[Value], expected: &[(&str, Option<i64>, Value, Value)]) {
    let actions: Vec<_> = trail.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, expected.iter().map(|(action, ..)| *action).collect::<Vec<_>>());
    for (entry, (action, actor, before, after)) in trail.iter().zip(expected) {
        assert_eq!(entry["actor_id"].as_i64(), *actor, "{action}");
        assert_eq!((&entry["before"], &entry["after"]), (before, after), "{action}");
        assert_eq!((&entry["target_type"], &entry["address"]), (&json!("user"), &json!("127.0.0.1")));
        assert!(entry["request_id"].is_string(), "{action}");
    }
}

async fn sign_in(app: &TestApp, id: i64, email: &str, password: &str) -> User {
    User::signed_in(id, email, &app.login(email, password).await)
}

async fn session_id(app: &TestApp, user: &User) -> Value {
    let sessions = app.get("/users/me/sessions", Some(user)).await.body;
    let current = sessions.as_array().unwrap().iter().find(|session| session["current"] == true).unwrap();
    current["id"].clone()
}

async fn send_ok(app: &TestApp, method: Method, path: &str, user: Option<&User>, body: Value) {
    let mut request = app.request(method, path);
    if let Some(user) = user {
        request = request.bearer_auth(&user.token);
    }
    let answer = Answer::of(request.json(&body)).await;
    assert!(answer.status.is_success(), "{path}: {}", answer.text);
}

fn session_opened(session: &Value, second_factor: bool) -> Value {
    json!({ "session_id": session, "second_factor": second_factor })
}

#[tokio::test]
async fn every_change_of_an_account_by_its_user_is_recorded() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let (old, new) = ("ada@example.com", "lovelace@example.com");
    let post = |path: &'static str, body: Value| send_ok(&app, Method::POST, path, None, body);
    let registered = app.post("/auth/register", None, json!({ "email": old, "password": PASSWORD })).await;
    let id = registered.body["id"].as_i64().unwrap();
    post("/auth/verify-email", json!({ "token": app.mailed_token(old).await })).await;
    let ada = sign_in(&app, id, old, PASSWORD).await;
    let first = session_id(&app, &ada).await;
    send_ok(&app, Method::PATCH, "/users/me", Some(&ada), json!({ "full_name": "Ada" })).await;
    let change = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    send_ok(&app, Method::POST, "/users/me/password", Some(&ada), change).await;
    post("/auth/forgot-password", json!({ "email": old })).await;
    post("/auth/reset-password", json!({ "token": app.mailed_token(old).await, "password": PASSWORD })).await;
    let ada = sign_in(&app, id, old, PASSWORD).await;
    let second = session_id(&app, &ada).await;
    let change = json!({ "email": new, "password": PASSWORD });
    send_ok(&app, Method::POST, "/users/me/email", Some(&ada), change).await;
    post("/auth/confirm-email", json!({ "token": app.mailed_token(new).await })).await;
    let delete = app.request(Method::DELETE, "/users/me").bearer_auth(&ada.token);
    let due = Answer::of(delete.json(&json!({ "password": PASSWORD }))).await.body["deletion_due_at"].clone();
    let ada = sign_in(&app, id, new, PASSWORD).await;
    let third = session_id(&app, &ada).await;

    let trail = read_trail(&app, &admin, id).await;
    let scheduled = trail.iter().find(|entry| entry["action"] == "user.deletion_scheduled").unwrap();
    // The response and the trail format the time zone differently. The first 19 characters are the date and the time.
    let kept = scheduled["after"]["deletion_due_at"].as_str().unwrap();
    assert_eq!(kept[..19], due.as_str().unwrap()[..19]);
    let (kept, none, me) = (json!({ "deletion_due_at": kept }), Value::Null, Some(id));
    let fields = json!({
        "email": old, "full_name": null, "role": "user", "is_active": true, "email_verified": false,
    });
    let expected = [
        ("user.registered", me, none.clone(), fields),
        ("email.verified", me, json!({ "email_verified": false }), json!({ "email_verified": true })),
        ("session.opened", me, none.clone(), session_opened(&first, false)),
        ("user.updated", me, json!({ "full_name": null }), json!({ "full_name": "Ada" })),
        ("password.changed", me, none.clone(), none.clone()),
        ("password.reset", me, json!({}), json!({})),
        ("session.opened", me, none.clone(), session_opened(&second, false)),
        ("email.change_requested", me, none.clone(), json!({ "email": new })),
        ("email.changed", me, json!({ "email": old }), json!({ "email": new })),
        ("user.deletion_scheduled", me, none.clone(), kept),
        ("user.deletion_cancelled", me, none.clone(), none.clone()),
        ("session.opened", me, none, session_opened(&third, false)),
    ];
    assert_entries(&trail, &expected);
}

#[tokio::test]
async fn a_password_reset_records_the_verification_and_the_canceled_deletion() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let state = "email_verified_at = NULL, deletion_due_at = now() + interval '1 day'";
    app.sql(&format!("UPDATE users SET {state} WHERE id = {}", user.id)).await;
    app.post("/auth/forgot-password", None, json!({ "email": user.email })).await;
    let reset = json!({ "token": app.mailed_token(&user.email).await, "password": NEW_PASSWORD });
    send_ok(&app, Method::POST, "/auth/reset-password", None, reset).await;
    let trail = read_trail(&app, &admin, user.id).await;
    let me = Some(user.id);
    let expected = [
        ("password.reset", me, json!({ "email_verified": false }), json!({ "email_verified": true })),
        ("user.deletion_cancelled", me, Value::Null, Value::Null),
    ];
    assert_entries(&trail[trail.len() - 2..], &expected);
}

#[tokio::test]
async fn changes_of_sessions_and_of_the_second_factor_are_recorded() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let before = read_trail(&app, &admin, user.id).await.len();
    let (id, email) = (user.id, &*user.email);
    let again = || sign_in(&app, id, email, PASSWORD);
    let other = again().await;
    let second = session_id(&app, &other).await;
    let path = format!("/users/me/sessions/{}", second.as_str().unwrap());
    send_ok(&app, Method::DELETE, &path, Some(&user), json!({})).await;
    send_ok(&app, Method::POST, "/auth/logout-all", Some(&user), json!({})).await;
    let user = again().await;
    let third = session_id(&app, &user).await;
    let authenticator = enable_two_factor(&app, &user).await;
    let code = json!({ "code": authenticator.code() });
    send_ok(&app, Method::POST, "/users/me/two-factor/recovery-codes", Some(&user), code).await;
    let next = json!({ "password": PASSWORD, "code": authenticator.next_code() });
    send_ok(&app, Method::DELETE, "/users/me/two-factor", Some(&user), next).await;
    let authenticator = enable_two_factor(&app, &user).await;
    let login = app.login(email, PASSWORD).await;
    let answer = json!({
        "challenge_token": login.body["challenge_token"], "code": authenticator.recovery_codes[0],
    });
    let login = app.post("/auth/login/two-factor", None, answer).await;
    let user = User::signed_in(id, email, &login);
    let fourth = session_id(&app, &user).await;
    let spent = json!({ "refresh_token": user.refresh_token });
    send_ok(&app, Method::POST, "/auth/refresh", None, spent.clone()).await;
    app.sql("UPDATE refresh_tokens SET spent_at = spent_at - interval '1 minute'").await;
    app.post("/auth/refresh", None, spent).await.is_some_problem(401, "invalid_token");

    let (none, me) = (Value::Null, Some(id));
    let plain = |action| (action, me, none.clone(), none.clone());
    let ended = |session: &Value| json!({ "session_id": session });
    let expected = [
        ("session.opened", me, none.clone(), session_opened(&second, false)),
        ("session.revoked", me, none.clone(), ended(&second)),
        plain("sessions.revoked"),
        ("session.opened", me, none.clone(), session_opened(&third, false)),
        plain("two_factor.enabled"),
        plain("recovery_codes.replaced"),
        plain("two_factor.disabled"),
        plain("two_factor.enabled"),
        plain("recovery_code.used"),
        ("session.opened", me, none.clone(), session_opened(&fourth, true)),
        // The entry has no actor, because the server cannot know who replayed the token.
        ("session.replayed", None, none.clone(), ended(&fourth)),
    ];
    assert_entries(&read_trail(&app, &admin, id).await[before..], &expected);
}

#[tokio::test]
async fn a_logout_is_recorded_in_the_audit_trail() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let session = session_id(&app, &user).await;
    send_ok(&app, Method::POST, "/auth/logout", Some(&user), json!({})).await;
    let trail = read_trail(&app, &admin, user.id).await;
    let after = json!({ "session_id": session });
    assert_entries(&trail[trail.len() - 1..], &[("session.revoked", Some(user.id), Value::Null, after)]);
}

#[tokio::test]
async fn every_change_by_an_admin_is_recorded() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let by_admin = async |method, path: String| send_ok(&app, method, &path, Some(&admin), json!({})).await;
    let email = "bob@example.com";
    let invited = app.post("/users", Some(&admin), json!({ "email": email, "role": "admin" })).await;
    let id = invited.body["id"].as_i64().unwrap();
    by_admin(Method::POST, format!("/users/{id}/invite")).await;
    let accept = json!({
        "token": app.mailed_token(email).await, "password": PASSWORD, "full_name": "Bob",
    });
    send_ok(&app, Method::POST, "/auth/accept-invite", None, accept).await;
    let bob = sign_in(&app, id, email, PASSWORD).await;
    let session = session_id(&app, &bob).await;
    enable_two_factor(&app, &bob).await;
    by_admin(Method::DELETE, format!("/users/{id}/two-factor")).await;
    by_admin(Method::DELETE, format!("/users/{id}/sessions")).await;
    let change = json!({ "is_active": false, "full_name": null, "role": "user" });
    assert_eq!(patch(&app, &admin, id, change).await.status, 200);
    by_admin(Method::DELETE, format!("/users/{id}")).await;

    let fields = |name: Value, role: &str, is_active: bool, verified: bool| {
        json!({
            "email": email, "full_name": name, "role": role, "is_active": is_active, "email_verified": verified,
        })
    };
    let (none, bob, admin_id) = (Value::Null, Some(id), Some(admin.id));
    let expected = [
        ("user.invited", admin_id, none.clone(), fields(Value::Null, "admin", true, false)),
        ("user.invited", admin_id, none.clone(), none.clone()),
        (
            "invite.accepted",
            bob,
            json!({ "full_name": null, "email_verified": false }),
            json!({ "full_name": "Bob", "email_verified": true }),
        ),
        ("session.opened", bob, none.clone(), session_opened(&session, false)),
        ("two_factor.enabled", bob, none.clone(), none.clone()),
        ("two_factor.disabled", admin_id, none.clone(), none.clone()),
        ("sessions.revoked", admin_id, none.clone(), none.clone()),
        (
            "user.updated",
            admin_id,
            json!({ "is_active": true, "full_name": "Bob", "role": "admin" }),
            json!({ "is_active": false, "full_name": null, "role": "user" }),
        ),
        ("user.deleted", admin_id, fields(Value::Null, "user", false, true), none),
    ];
    assert_entries(&read_trail(&app, &admin, id).await, &expected);
}

#[tokio::test]
async fn a_user_update_that_changes_nothing_writes_no_audit_entry() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let before = count_rows(&app, "audit_log").await;
    for (body, status) in [(json!({}), 200), (json!({ "role": null }), 422)] {
        assert_eq!(patch(&app, &admin, user.id, body).await.status, status);
    }
    send_ok(&app, Method::PATCH, "/users/me", Some(&user), json!({})).await;
    assert_eq!(app.get("/users", Some(&admin)).await.status, 200);
    assert_eq!(count_rows(&app, "audit_log").await, before);
}
