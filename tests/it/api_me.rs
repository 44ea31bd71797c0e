//! Operations of users on their own account.

use reqwest::Method;
use saas::services::housekeeping;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, fields},
    records::column,
};

const NEW_PASSWORD: &str = "battery staple";

async fn patch(app: &TestApp, user: &User, body: Value) -> Answer {
    Answer::of(app.request(Method::PATCH, "/users/me").bearer_auth(&user.token).json(&body)).await
}

async fn change_password(app: &TestApp, user: &User, current: &str, new: &str) -> Answer {
    let body = json!({ "current_password": current, "new_password": new });
    app.post("/users/me/password", Some(user), body).await
}

async fn change_email(app: &TestApp, user: &User, email: &str, password: &str) -> Answer {
    app.post("/users/me/email", Some(user), json!({ "email": email, "password": password })).await
}

async fn confirm_email(app: &TestApp, token: &str) -> Answer {
    app.post("/auth/confirm-email", None, json!({ "token": token })).await
}

async fn delete_account(app: &TestApp, user: &User, password: &str) -> Answer {
    app.post("/users/me/deletion", Some(user), json!({ "password": password })).await
}

/// Returns the recipient and the subject of each mail that was sent.
async fn list_sent(app: &TestApp) -> Vec<(String, String)> {
    app.mails().await.into_iter().map(|mail| (mail.to, mail.subject)).collect()
}

fn mail(to: &str, subject: &str) -> (String, String) {
    (to.into(), subject.into())
}

#[tokio::test]
async fn smoke_a_user_changes_their_name() {
    let app = TestApp::start().await;
    let (user, other) = (app.user().await, app.user().await);
    for (body, name) in [
        (json!({}), json!(null)),
        (json!({ "full_name": "Ada Lovelace" }), json!("Ada Lovelace")),
        (json!({}), json!("Ada Lovelace")),
        (json!({ "full_name": "x".repeat(255) }), json!("x".repeat(255))),
        (json!({ "full_name": null }), json!(null)),
    ] {
        let answer = patch(&app, &user, body).await;
        assert_eq!((answer.status.as_u16(), &answer.body["full_name"]), (200, &name));
        assert_eq!(app.get("/users/me", Some(&user)).await.body, answer.body);
    }
    assert_eq!(app.get("/users/me", Some(&other)).await.body["full_name"], Value::Null);
    let trail = "SELECT format('%s %s', left(before->>'full_name', 3), left(after->>'full_name', 3))
                 FROM audit_log WHERE action = 'user.updated' AND actor_id::text = target_id ORDER BY id";
    assert_eq!(column(&app.database, trail).await, [" Ada", "Ada xxx", "xxx "]);
}

#[tokio::test]
async fn a_user_can_change_only_the_full_name_by_patch() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for (body, wrong) in [
        (json!({ "full_name": "x".repeat(256) }), ("body.full_name", "string_too_long")),
        (json!({ "full_name": "a\u{0}b" }), ("body.full_name", "value_error")),
        (json!({ "full_name": 5 }), ("body.full_name", "string_type")),
        (json!({ "full_name": "Ada", "role": "admin" }), ("body.role", "extra_forbidden")),
        (json!({ "full_name": "Ada", "email": "a@example.com" }), ("body.email", "extra_forbidden")),
        (json!({ "full_name": "Ada", "is_active": false }), ("body.is_active", "extra_forbidden")),
    ] {
        assert_eq!(patch(&app, &user, body).await.invalid_fields(), fields(&[wrong]));
    }
    assert_eq!(app.get("/users/me", Some(&user)).await.body["full_name"], Value::Null);
}

#[tokio::test]
async fn smoke_a_password_change_revokes_the_other_sessions() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let elsewhere = app.signed_in_again(&user).await;
    let to_reset = app.reset_token(&user.email).await;
    let wrong = change_password(&app, &user, "wrong password", NEW_PASSWORD).await;
    wrong.is_problem(400, "wrong_password", "Incorrect password");
    assert!(app.is_signed_in(&elsewhere).await);

    assert_eq!(change_password(&app, &user, PASSWORD, NEW_PASSWORD).await.status, 204);
    app.assert_signed_out(&elsewhere).await;
    assert!(app.is_signed_in(&user).await);
    assert_eq!(app.refresh(&user.refresh_token).await.status, 200);
    app.reset_password(&to_reset, "another horse").await.is_some_problem(400, "invalid_link");
    app.login(&user.email, PASSWORD).await.is_some_problem(401, "bad_credentials");
    assert_eq!(app.login(&user.email, NEW_PASSWORD).await.status, 200);
    assert_eq!(list_sent(&app).await.last(), Some(&mail(&user.email, "Your password was changed")));
}

#[tokio::test]
async fn a_password_change_invalidates_the_link_of_an_address_change() {
    let app = TestApp::start().await;
    let user = app.user().await;
    // An attacker who knows the password requests the change, so the user changes the password.
    assert_eq!(change_email(&app, &user, "thief@example.com", PASSWORD).await.status, 202);
    let token = app.mailed_token("thief@example.com").await;
    assert_eq!(change_password(&app, &user, PASSWORD, NEW_PASSWORD).await.status, 204);
    confirm_email(&app, &token).await.is_some_problem(400, "invalid_link");
    assert_eq!(app.get("/users/me", Some(&user)).await.body["email"], user.email);
}

#[tokio::test]
async fn a_weak_new_password_is_refused() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for new in ["iloveyou", "short", &user.email, &"x".repeat(73)] {
        let refused = change_password(&app, &user, PASSWORD, new).await;
        assert_eq!(refused.invalid_fields(), fields(&[("body.new_password", "value_error")]), "{new}");
    }
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn smoke_a_mailed_link_confirms_a_new_email_address() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql("UPDATE users SET email_verified_at = NULL").await;
    let wrong = change_email(&app, &user, "new@example.com", "wrong password").await;
    wrong.is_problem(400, "wrong_password", "Incorrect password");
    let same = change_email(&app, &user, &user.email.to_uppercase(), PASSWORD).await;
    assert_eq!(same.invalid_fields(), fields(&[("body.email", "value_error")]));
    assert!(list_sent(&app).await.is_empty());

    let to_reset = app.reset_token(&user.email).await;
    assert_eq!(change_email(&app, &user, " New@Example.com", PASSWORD).await.status, 202);
    let token = app.mailed_token("new@example.com").await;
    let mails = list_sent(&app).await;
    assert!(mails.contains(&mail("new@example.com", "Confirm your new email address")), "{mails:?}");
    assert!(mails.contains(&mail(&user.email, "Your email address is about to change")), "{mails:?}");
    let me = app.get("/users/me", Some(&user)).await.body;
    assert_eq!((&me["email"], &me["email_verified"]), (&json!(user.email), &json!(false)));

    assert_eq!(confirm_email(&app, &token).await.status, 204);
    let me = app.get("/users/me", Some(&user)).await.body;
    assert_eq!((&me["email"], &me["email_verified"]), (&json!("new@example.com"), &json!(true)));
    confirm_email(&app, &token).await.is_some_problem(400, "invalid_link");
    app.reset_password(&to_reset, NEW_PASSWORD).await.is_some_problem(400, "invalid_link");
    app.login(&user.email, PASSWORD).await.is_some_problem(401, "bad_credentials");
    assert_eq!(app.login("new@example.com", PASSWORD).await.status, 200);
    assert_eq!(list_sent(&app).await.last(), Some(&mail(&user.email, "Your email address was changed")));
}

#[tokio::test]
async fn an_address_registered_meanwhile_cannot_be_confirmed() {
    let app = TestApp::start().await;
    let user = app.user().await;
    assert_eq!(change_email(&app, &user, "new@example.com", PASSWORD).await.status, 202);
    let token = app.mailed_token("new@example.com").await;
    let faster = app.user().await;
    app.sql(&format!("UPDATE users SET email = 'new@example.com' WHERE id = {}", faster.id)).await;
    confirm_email(&app, &token).await.is_problem(400, "email_taken", "Email already registered");
    assert_eq!(app.get("/users/me", Some(&user)).await.body["email"], user.email);
}

#[tokio::test]
async fn an_address_change_does_not_reveal_that_the_address_is_registered() {
    let app = TestApp::start().await;
    let (user, owner) = (app.user().await, app.user().await);
    assert_eq!(change_email(&app, &user, &owner.email, PASSWORD).await.status, 202);
    assert_eq!(list_sent(&app).await, [mail(&user.email, "Your email address is about to change")]);
}

#[tokio::test]
async fn address_changes_to_one_mailbox_are_rate_limited() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let ask = async || change_email(&app, &user, "stranger@example.com", PASSWORD).await;
    let links = async || list_sent(&app).await.iter().filter(|(to, _)| to == "stranger@example.com").count();
    for count in 1..=3 {
        assert_eq!((ask().await.status.as_u16(), links().await), (202, count));
    }
    assert_eq!(app.move_waits(600).await, 1, "the limit of the mailbox is reached");
    ask().await.is_some_problem(429, "too_many_attempts");
    assert_eq!(links().await, 3);
}

#[tokio::test]
async fn only_the_last_requested_address_can_be_confirmed() {
    let app = TestApp::start().await;
    let user = app.user().await;
    assert_eq!(change_email(&app, &user, "first@example.com", PASSWORD).await.status, 202);
    let first = app.mailed_token("first@example.com").await;
    assert_eq!(change_email(&app, &user, "second@example.com", PASSWORD).await.status, 202);
    assert_eq!(change_email(&app, &user, "third@example.com", PASSWORD).await.status, 202);
    // The job of the second mail runs only now, when the third address is the requested one. The job then sends no mail, or a
    // mail with an invalid link.
    let mails = app.mails().await;
    let second = mails.iter().find(|mail| mail.to == "second@example.com");
    for token in [Some(first), second.map(|mail| mail.token())].into_iter().flatten() {
        confirm_email(&app, &token).await.is_some_problem(400, "invalid_link");
    }
    let third = app.mailed_token("third@example.com").await;
    assert_eq!(confirm_email(&app, &third).await.status, 204);
    assert_eq!(app.get("/users/me", Some(&user)).await.body["email"], "third@example.com");
}

#[tokio::test]
async fn smoke_signing_in_cancels_the_deletion_of_the_account() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let elsewhere = app.signed_in_again(&user).await;
    let wrong = delete_account(&app, &user, "wrong password").await;
    wrong.is_problem(400, "wrong_password", "Incorrect password");
    assert!(app.is_signed_in(&user).await);

    let answer = delete_account(&app, &user, PASSWORD).await;
    assert_eq!(answer.status, 202);
    let due = answer.body["deletion_due_at"].as_str().unwrap();
    let days = format!("SELECT round(extract(epoch FROM '{due}'::timestamptz - now()) / 86400)");
    assert_eq!(column(&app.database, &days).await, ["14"]);
    app.assert_signed_out(&user).await;
    app.assert_signed_out(&elsewhere).await;
    assert_eq!(list_sent(&app).await, [mail(&user.email, "Your account will be deleted")]);
    assert_eq!(housekeeping::run(&app.app).await.unwrap().users, 0, "not yet");

    let back = app.signed_in_again(&user).await;
    assert_eq!(app.get("/users/me", Some(&back)).await.body["deletion_due_at"], Value::Null);
    app.sql("UPDATE users SET deletion_due_at = deletion_due_at - interval '15 days'").await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().users, 0);
    assert!(app.is_signed_in(&back).await);
}

#[tokio::test]
async fn smoke_the_account_is_erased_after_the_grace_period() {
    let app = TestApp::start().await;
    let (user, other) = (app.user().await, app.user().await);
    assert_eq!(delete_account(&app, &user, PASSWORD).await.status, 202);
    app.reset_token(&user.email).await;
    let id = user.id;
    let more = format!(
        "INSERT INTO two_factor (user_id, secret) VALUES ({id}, 'x');
         INSERT INTO recovery_codes (user_id, hash) VALUES ({id}, decode(repeat('00', 32), 'hex'))"
    );
    app.sql(&more).await;
    let tables = ["users", "sessions", "refresh_tokens", "one_time_tokens", "two_factor", "recovery_codes"];
    let counts = tables.map(|table| format!("(SELECT count(*) FROM {table})")).join(", ");
    let counts = format!("SELECT concat_ws(' ', {counts})");
    assert_eq!(column(&app.database, &counts).await, ["2 2 2 1 1 1"]);

    app.sql("UPDATE users SET deletion_due_at = deletion_due_at - interval '15 days'").await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().users, 1);
    assert_eq!(column(&app.database, &counts).await, ["1 1 1 0 0 0"]);
    assert!(app.is_signed_in(&other).await);
    app.login(&user.email, PASSWORD).await.is_some_problem(401, "bad_credentials");
    assert_eq!(list_sent(&app).await.last(), Some(&mail(&user.email, "Your account was deleted")));
    let trail = format!("SELECT action FROM audit_log WHERE target_id = '{id}' ORDER BY id");
    assert_eq!(
        column(&app.database, &trail).await,
        ["session.opened", "user.deletion_scheduled", "user.deleted"]
    );
    let again = json!({ "email": user.email, "password": PASSWORD });
    assert_eq!(app.post("/auth/register", None, again).await.status, 201, "the address is available again");
}

#[tokio::test]
async fn the_last_admin_cannot_be_deleted() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let last = delete_account(&app, &admin, PASSWORD).await;
    last.is_problem(409, "last_admin", "This is the last active admin; add another one first");
    assert!(app.is_signed_in(&admin).await);
    let other = app.admin().await;
    assert_eq!(delete_account(&app, &admin, PASSWORD).await.status, 202);
    delete_account(&app, &other, PASSWORD).await.is_some_problem(409, "last_admin");
}
