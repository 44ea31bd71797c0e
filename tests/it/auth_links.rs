//! Links in mails: email verification and password reset.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, fields},
    mail::CapturedMail,
    records::column,
};

const NEW_PASSWORD: &str = "battery staple";

impl TestApp {
    /// Requests a link to reset the password, and returns its token.
    pub async fn reset_token(&self, email: &str) -> String {
        assert_eq!(self.post("/auth/forgot-password", None, json!({ "email": email })).await.status, 202);
        self.mailed_token(email).await
    }

    pub async fn reset_password(&self, token: &str, password: &str) -> Answer {
        self.post("/auth/reset-password", None, json!({ "token": token, "password": password })).await
    }
}

/// Registers a user and signs in. The address is not verified.
async fn register(app: &TestApp, email: &str) -> User {
    let made = app.post("/auth/register", None, json!({ "email": email, "password": PASSWORD })).await;
    assert_eq!(made.status, 201);
    User::signed_in(made.body["id"].as_i64().unwrap(), email, &app.login(email, PASSWORD).await)
}

async fn verify(app: &TestApp, token: &str) -> Answer {
    app.post("/auth/verify-email", None, json!({ "token": token })).await
}

#[track_caller]
fn assert_invalid_link(answer: &Answer) {
    answer.is_problem(400, "invalid_link", "This link is invalid or has expired; request a new one");
}

fn subjects(mails: &[CapturedMail]) -> Vec<&str> {
    mails.iter().map(|mail| mail.subject.as_str()).collect()
}

#[tokio::test]
async fn smoke_a_link_verifies_the_address_once() {
    let app = TestApp::start().await;
    let user = register(&app, "ada@example.com").await;
    assert_eq!(app.get("/users/me", Some(&user)).await.body["email_verified"], false);
    assert_eq!(subjects(&app.mails().await), ["Confirm your email address"]);
    let token = app.mailed_token(&user.email).await;
    let opened = app.get(&format!("/auth/verify-email?token={token}"), None).await;
    opened.is_some_problem(405, "method_not_allowed");
    assert_eq!(verify(&app, &token).await.status, 204);
    assert_eq!(app.get("/users/me", Some(&user)).await.body["email_verified"], true);
    assert_invalid_link(&verify(&app, &token).await);
    for nonsense in ["", "nonsense", &"0".repeat(64)] {
        assert_invalid_link(&verify(&app, nonsense).await);
    }
}

#[tokio::test]
async fn a_verification_link_expires_after_24_hours() {
    let app = TestApp::start().await;
    let user = register(&app, "ada@example.com").await;
    let token = app.mailed_token(&user.email).await;
    app.sql("UPDATE one_time_tokens SET expires_at = expires_at - interval '24 hours'").await;
    assert_invalid_link(&verify(&app, &token).await);
    app.sql("UPDATE one_time_tokens SET expires_at = expires_at + interval '10 minutes'").await;
    assert_eq!(verify(&app, &token).await.status, 204);
}

#[tokio::test]
async fn requesting_a_link_does_not_reveal_registered_addresses() {
    let app = TestApp::start().await;
    let verified = app.user().await;
    let user = register(&app, "ada@example.com").await;
    let first = app.mailed_token(&user.email).await;
    for path in ["/auth/verify-email/resend", "/auth/forgot-password"] {
        let ask = async |email: &str| app.post(path, None, json!({ "email": email })).await;
        let answers =
            [ask(" Ada@Example.com").await, ask("unknown@example.com").await, ask(&verified.email).await];
        for answer in &answers {
            assert_eq!((answer.status.as_u16(), &answer.body), (202, &answers[0].body));
            assert!(answer.body["message"].is_string());
        }
        let wrong = ask("no address").await;
        assert_eq!(wrong.invalid_fields(), fields(&[("body.email", "value_error")]));
    }
    let mails = app.mails().await;
    let mut sent: Vec<_> = mails.iter().map(|mail| (mail.to.as_str(), mail.subject.as_str())).collect();
    sent.sort();
    let (ada, confirm, reset) = ("ada@example.com", "Confirm your email address", "Reset your password");
    assert_eq!(sent, [(ada, confirm), (ada, confirm), (ada, reset), (verified.email.as_str(), reset)]);
    // A new verification link does not invalidate the earlier links. The use of one link invalidates the others.
    let again = mails.iter().rfind(|mail| mail.to == ada && mail.subject == confirm).unwrap().token();
    assert_ne!(first, again);
    assert_eq!(verify(&app, &again).await.status, 204);
    assert_invalid_link(&verify(&app, &first).await);
}

#[tokio::test]
async fn smoke_a_forgotten_password_is_reset() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let elsewhere = app.signed_in_again(&user).await;
    let token = app.reset_token(&user.email).await;
    assert!(app.is_signed_in(&user).await, "requesting a link revokes no session");
    assert_eq!(app.reset_password(&token, NEW_PASSWORD).await.status, 204);
    app.assert_signed_out(&user).await;
    app.assert_signed_out(&elsewhere).await;
    app.login(&user.email, PASSWORD).await.is_some_problem(401, "bad_credentials");
    assert_eq!(app.login(&user.email, NEW_PASSWORD).await.status, 200);
    assert_invalid_link(&app.reset_password(&token, PASSWORD).await);
    let mails = app.mails().await;
    assert_eq!(subjects(&mails), ["Reset your password", "Your password was reset"]);
    assert!(mails.iter().all(|mail| mail.to == user.email));
}

#[tokio::test]
async fn only_one_of_two_concurrent_uses_of_a_link_succeeds() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let token = app.reset_token(&user.email).await;
    let passwords = [NEW_PASSWORD, "another horse"];
    let answers = join_all(passwords.map(|password| app.reset_password(&token, password))).await;
    for (answer, password) in answers.iter().zip(passwords) {
        let login = app.login(&user.email, password).await;
        match answer.status.as_u16() {
            204 => assert_eq!(login.status, 200),
            _ => {
                assert_invalid_link(answer);
                login.is_some_problem(401, "bad_credentials");
            }
        }
    }
    assert_eq!(answers.iter().filter(|answer| answer.status == 204).count(), 1);
}

#[tokio::test]
async fn only_one_of_several_links_used_concurrently_succeeds() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for _ in 0..3 {
        app.post("/auth/forgot-password", None, json!({ "email": user.email })).await;
    }
    let tokens: Vec<_> = app.mails().await.iter().map(CapturedMail::token).collect();
    assert_eq!(tokens.len(), 3);
    let answers = join_all(tokens.iter().map(|token| app.reset_password(token, NEW_PASSWORD))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 204).count(), 1);
    for refused in answers.iter().filter(|answer| answer.status != 204) {
        assert_invalid_link(refused);
    }
}

#[tokio::test]
async fn a_reset_link_expires_after_30_minutes() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let token = app.reset_token(&user.email).await;
    app.sql("UPDATE one_time_tokens SET expires_at = expires_at - interval '30 minutes'").await;
    assert_invalid_link(&app.reset_password(&token, NEW_PASSWORD).await);
    app.sql("UPDATE one_time_tokens SET expires_at = expires_at + interval '5 minutes'").await;
    assert_eq!(app.reset_password(&token, NEW_PASSWORD).await.status, 204);
}

#[tokio::test]
async fn a_reset_verifies_the_address_and_invalidates_all_other_links() {
    let app = TestApp::start().await;
    let user = register(&app, "ada@example.com").await;
    let to_verify = app.mailed_token(&user.email).await;
    let change = json!({ "email": "new@example.com", "password": PASSWORD });
    assert_eq!(app.post("/users/me/email", Some(&user), change).await.status, 202);
    let to_change = app.mailed_token("new@example.com").await;
    let (first, second) = (app.reset_token(&user.email).await, app.reset_token(&user.email).await);
    assert_eq!(app.reset_password(&second, NEW_PASSWORD).await.status, 204);
    assert_invalid_link(&app.reset_password(&first, PASSWORD).await);
    assert_invalid_link(&verify(&app, &to_verify).await);
    assert_invalid_link(&app.post("/auth/confirm-email", None, json!({ "token": to_change })).await);
    let again = User::signed_in(user.id, &user.email, &app.login(&user.email, NEW_PASSWORD).await);
    assert_eq!(app.get("/users/me", Some(&again)).await.body["email_verified"], true);
}

#[tokio::test]
async fn a_link_is_invalid_after_the_address_has_changed() {
    let app = TestApp::start().await;
    let user = register(&app, "ada@example.com").await;
    let to_verify = app.mailed_token(&user.email).await;
    let to_reset = app.reset_token(&user.email).await;
    app.sql("UPDATE users SET email = 'new@example.com'").await;
    assert_invalid_link(&verify(&app, &to_verify).await);
    assert_invalid_link(&app.reset_password(&to_reset, NEW_PASSWORD).await);
    assert_eq!(app.get("/users/me", Some(&user)).await.body["email_verified"], false);
    assert_eq!(app.login("new@example.com", PASSWORD).await.status, 200);
}

#[tokio::test]
async fn a_token_is_valid_for_its_purpose_only() {
    let app = TestApp::start().await;
    let user = register(&app, "ada@example.com").await;
    let to_verify = app.mailed_token(&user.email).await;
    let to_reset = app.reset_token(&user.email).await;
    let change = json!({ "email": "new@example.com", "password": PASSWORD });
    app.post("/users/me/email", Some(&user), change).await;
    let to_change = app.mailed_token("new@example.com").await;
    let tokens =
        [("verify", &to_verify), ("reset", &to_reset), ("change", &to_change), ("", &user.refresh_token)];
    for (purpose, token) in tokens {
        for (path, own) in [
            ("/auth/verify-email", "verify"),
            ("/auth/confirm-email", "change"),
            ("/auth/reset-password", "reset"),
            ("/auth/accept-invite", "invite"),
        ] {
            let mut body = json!({ "token": token });
            if matches!(own, "reset" | "invite") {
                body["password"] = json!(NEW_PASSWORD);
            }
            if purpose != own {
                assert_invalid_link(&app.post(path, None, body).await);
            }
        }
    }
    for token in [&to_verify, &to_reset, &to_change] {
        app.refresh(token).await.is_some_problem(401, "invalid_token");
    }
    let left = "SELECT count(*) FROM one_time_tokens";
    assert_eq!(column(&app.database, left).await, ["3"], "no token is used up");
    assert_eq!(app.reset_password(&to_reset, NEW_PASSWORD).await.status, 204);
}

#[tokio::test]
async fn a_refused_password_does_not_use_up_the_link() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let token = app.reset_token(&user.email).await;
    for bad in ["iloveyou", "short", &user.email, &"x".repeat(73)] {
        let refused = app.reset_password(&token, bad).await;
        assert_eq!(refused.invalid_fields(), fields(&[("body.password", "value_error")]));
    }
    assert!(app.is_signed_in(&user).await);
    assert_eq!(app.reset_password(&token, NEW_PASSWORD).await.status, 204);
}

#[tokio::test]
async fn links_to_one_address_are_limited_and_the_response_hides_the_limit() {
    let app = TestApp::start().await;
    let (user, other) = (app.user().await, app.user().await);
    let ask = async |email: &str| {
        let answer = app.post("/auth/forgot-password", None, json!({ "email": email })).await;
        assert_eq!(answer.status, 202);
        answer.body
    };
    let first = ask(&user.email).await;
    ask(&user.email).await;
    ask(&user.email).await;
    assert_eq!(app.move_waits(600).await, 1, "the limit of the mailbox is reached");
    assert_eq!(ask(&user.email).await, first);
    ask(&user.email.to_uppercase()).await;
    let resend = app.post("/auth/verify-email/resend", None, json!({ "email": user.email })).await;
    assert_eq!((resend.status.as_u16(), &resend.body), (202, &first));
    ask(&other.email).await;
    let mails = app.mails().await;
    let to = |user: &User| mails.iter().filter(|mail| mail.to == user.email).count();
    assert_eq!((to(&user), to(&other)), (3, 1));
    app.move_waits(-1_200).await;
    ask(&user.email).await;
    assert_eq!(app.mails().await.len(), 5);
}

#[tokio::test]
async fn smoke_links_lead_to_the_configured_url_for_any_request_headers() {
    for (flag, base) in [
        ("--frontend-url=https://app.example.com", "https://app.example.com/reset-password#token="),
        ("--frontend-url=https://example.com/app/", "https://example.com/app/reset-password#token="),
        ("--public-url=https://api.example.com", "https://api.example.com/account/reset-password#token="),
        ("--project-name=Product", "http://localhost:8000/account/reset-password#token="),
    ] {
        let app = TestApp::with(&[flag]).await;
        let user = app.user().await;
        let request =
            app.request(Method::POST, "/auth/forgot-password").json(&json!({ "email": user.email }));
        let request = request.header("host", "evil.example").header("x-forwarded-host", "evil.example");
        let answer = Answer::of(request.header("origin", "https://evil.example")).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        let mails = app.mails().await;
        let (mail, link) = (&mails[0], format!("{base}{}", mails[0].token()));
        assert!(mail.text.contains(&link) && mail.html.contains(&format!("href=\"{link}\"")), "{mail:#?}");
        assert!(!mail.text.contains("evil") && !mail.html.contains("evil"), "{mail:#?}");
    }
}
