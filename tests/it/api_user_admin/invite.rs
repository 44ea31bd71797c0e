//! Invitations of users by admins.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::patch;
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, fields},
    records::column,
};

const BOB: &str = "bob@example.com";

/// Invites Bob and returns his id.
async fn invite(app: &TestApp, admin: &User) -> i64 {
    let made = app.post("/users", Some(admin), json!({ "email": BOB, "full_name": "Bob" })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body["id"].as_i64().unwrap()
}

async fn accept(app: &TestApp, token: &str, more: Value) -> Answer {
    let mut body = json!({ "token": token, "password": PASSWORD });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    app.post("/auth/accept-invite", None, body).await
}

#[tokio::test]
async fn smoke_an_invited_user_can_sign_in_after_accepting() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let body = json!({ "email": " Bob@Example.com ", "full_name": "Bob", "role": "admin" });
    let made = app.post("/users", Some(&admin), body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.header("location"), format!("/api/v1/users/{}", made.body["id"]));
    let fields = ["email", "full_name", "role", "is_active", "email_verified"].map(|name| &made.body[name]);
    assert_eq!(fields, [&json!(BOB), &json!("Bob"), &json!("admin"), &json!(true), &json!(false)]);
    let token = app.mailed_token(BOB).await;
    let mails = app.mails().await;
    let sent: BTreeSet<_> = mails.iter().map(|mail| (&*mail.to, &*mail.subject)).collect();
    let wanted = [(BOB, "You are invited to saas"), (&*admin.email, "There is a new administrator")];
    assert_eq!(sent, BTreeSet::from(wanted));
    let invitation = mails.iter().find(|mail| mail.to == BOB).unwrap();
    assert!(invitation.text.contains("/accept-invite#token="), "{}", invitation.text);

    assert_eq!(accept(&app, &token, json!({ "full_name": "Robert" })).await.status, 204);
    let bob = User::signed_in(0, BOB, &app.login(BOB, PASSWORD).await);
    let me = app.get("/users/me", Some(&bob)).await.body;
    let fields = ["id", "full_name", "role", "email_verified"].map(|name| &me[name]);
    assert_eq!(fields, [&made.body["id"], &json!("Robert"), &json!("admin"), &json!(true)]);
    assert_eq!(app.get("/users", Some(&bob)).await.status, 200);
}

#[tokio::test]
async fn an_invitation_is_valid_once_and_a_forged_token_is_refused() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    invite(&app, &admin).await;
    let token = app.mailed_token(BOB).await;
    for wrong in ["", "x", &"0".repeat(64), &token.to_uppercase(), &format!("{token} ")] {
        accept(&app, wrong, json!({})).await.is_some_problem(400, "invalid_link");
    }
    for path in ["/auth/verify-email", "/auth/confirm-email"] {
        app.post(path, None, json!({ "token": token })).await.is_some_problem(400, "invalid_link");
    }
    let answers = join_all((0..5).map(|_| accept(&app, &token, json!({})))).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 400, 400, 400, 400]);
    let bob = User::signed_in(0, BOB, &app.login(BOB, PASSWORD).await);
    assert_eq!(app.get("/users/me", Some(&bob)).await.body["full_name"], "Bob", "the name is kept");
    accept(&app, &token, json!({ "password": "another horse battery" }))
        .await
        .is_some_problem(400, "invalid_link");
}

#[tokio::test]
async fn an_invitation_expires_after_seven_days() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    invite(&app, &admin).await;
    let token = app.mailed_token(BOB).await;
    let expires =
        |when: &str| format!("UPDATE one_time_tokens SET expires_at = created_at + interval '{when}'");
    let left = "SELECT round(extract(epoch FROM expires_at - created_at) / 3600) FROM one_time_tokens";
    assert_eq!(column(&app.database, left).await, ["168"]);
    app.sql(&expires("-1 second")).await;
    accept(&app, &token, json!({})).await.is_some_problem(400, "invalid_link");
    app.sql(&expires("1 hour")).await;
    assert_eq!(accept(&app, &token, json!({})).await.status, 204);
}

#[tokio::test]
async fn a_pending_invitation_allows_no_login_and_stays_valid() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    invite(&app, &admin).await;
    let token = app.mailed_token(BOB).await;
    for path in ["/auth/forgot-password", "/auth/verify-email/resend"] {
        assert_eq!(app.post(path, None, json!({ "email": BOB })).await.status, 202);
    }
    app.mails().await;
    for password in ["", PASSWORD, "x"] {
        app.login(BOB, password).await.is_some_problem(401, "bad_credentials");
    }
    let register = json!({ "email": BOB, "password": PASSWORD });
    app.post("/auth/register", None, register).await.is_some_problem(400, "email_taken");
    assert_eq!(accept(&app, &token, json!({})).await.status, 204);
    assert_eq!(app.login(BOB, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn an_invitation_can_be_sent_again_until_it_is_accepted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = invite(&app, &admin).await;
    let first = app.mailed_token(BOB).await;
    let path = format!("/users/{id}/invite");
    assert_eq!(app.post(&path, Some(&admin), json!({})).await.status, 202);
    let second = app.mailed_token(BOB).await;
    assert_ne!(first, second);
    assert_eq!(accept(&app, &second, json!({})).await.status, 204);
    accept(&app, &first, json!({})).await.is_some_problem(400, "invalid_link");
    let taken = app.post(&path, Some(&admin), json!({})).await;
    taken.is_problem(409, "conflict", "The invitation has already been accepted");
    assert_eq!(app.mails().await.len(), 2);
}

#[tokio::test]
async fn the_invitation_of_a_deactivated_user_is_not_sent_again() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let id = invite(&app, &admin).await;
    assert_eq!(app.mails().await.len(), 1);
    let invited = "SELECT id FROM audit_log WHERE action = 'user.invited'";
    for (is_active, status, mails) in [(false, 409, 1), (true, 202, 2)] {
        let changed = patch(&app, &admin, id, json!({ "is_active": is_active })).await;
        assert_eq!(changed.status, 200, "{}", changed.text);
        let again = app.post(&format!("/users/{id}/invite"), Some(&admin), json!({})).await;
        assert_eq!(again.status, status, "{}", again.text);
        assert_eq!(column(&app.database, invited).await.len(), mails);
        assert_eq!(app.mails().await.len(), mails);
    }
}

#[tokio::test]
async fn a_registered_address_cannot_be_invited() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let taken = app.post("/users", Some(&admin), json!({ "email": user.email.to_uppercase() })).await;
    taken.is_problem(400, "email_taken", "Email already registered");
    let invites = || app.post("/users", Some(&admin), json!({ "email": BOB }));
    let answers = join_all((0..5).map(|_| invites())).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 400, 400, 400, 400]);
    assert_eq!(app.mails().await.len(), 1);
}

#[tokio::test]
async fn every_invalid_field_of_an_invitation_is_reported() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for (body, wrong) in [
        (json!({}), vec![("body.email", "missing")]),
        (
            json!({ "email": "x", "role": "owner", "full_name": 5 }),
            vec![("body.email", "value_error"), ("body.full_name", "string_type"), ("body.role", "enum")],
        ),
        (json!({ "email": BOB, "password": PASSWORD }), vec![("body.password", "extra_forbidden")]),
    ] {
        let answer = app.post("/users", Some(&admin), body).await;
        assert_eq!(answer.invalid_fields(), fields(&wrong));
    }
    invite(&app, &admin).await;
    let token = app.mailed_token(BOB).await;
    let guessed = accept(&app, &token, json!({ "password": "12345678", "role": "admin" })).await;
    let wrong = [("body.password", "value_error"), ("body.role", "extra_forbidden")];
    assert_eq!(guessed.invalid_fields(), fields(&wrong));
    assert_eq!(accept(&app, &token, json!({})).await.status, 204, "the link is still valid");
}

#[tokio::test]
async fn an_invitation_or_a_reset_refuses_the_email_address_as_the_password() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    invite(&app, &admin).await;
    let invitation = app.mailed_token(BOB).await;
    let guessed = accept(&app, &invitation, json!({ "password": BOB })).await;
    assert_eq!(guessed.invalid_fields(), fields(&[("body.password", "value_error")]));
    assert_eq!(accept(&app, &invitation, json!({})).await.status, 204, "the link is still valid");

    app.post("/auth/forgot-password", None, json!({ "email": user.email })).await;
    let reset = json!({ "token": app.mailed_token(&user.email).await, "password": user.email });
    let guessed = app.post("/auth/reset-password", None, reset).await;
    assert_eq!(guessed.invalid_fields(), fields(&[("body.password", "value_error")]));
}
