//! Mails about an account to an unverified address contain no text that a user has entered, such as a name. Mails to a
//! verified address greet its user by name.

use reqwest::Method;
use serde_json::json;

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
};

const NEW_PASSWORD: &str = "battery staple";
const STRANGERS_NAME: &str = "Your account is locked";

/// Returns the subject, plain text and HTML of all captured mails to an address, joined.
async fn mails_to(app: &TestApp, email: &str) -> String {
    let mails = app.mails().await.into_iter().filter(|mail| mail.to == email);
    mails.map(|mail| format!("{}\n{}\n{}\n", mail.subject, mail.text, mail.html)).collect()
}

#[tokio::test]
async fn smoke_mails_to_an_unverified_address_contain_no_text_of_a_user() {
    let app = TestApp::start().await;
    let (victim, third) = ("victim@example.com", "third@example.com");
    let new = json!({ "email": victim, "password": PASSWORD, "full_name": STRANGERS_NAME });
    let id = app.post("/auth/register", None, new).await.body["id"].as_i64().unwrap();
    let stranger = User::signed_in(id, victim, &app.login(victim, PASSWORD).await);
    for path in ["/auth/verify-email/resend", "/auth/forgot-password"] {
        assert_eq!(app.post(path, None, json!({ "email": victim })).await.status, 202);
    }
    for email in ["call-0900-now@example.com", third] {
        let change = json!({ "email": email, "password": PASSWORD });
        assert_eq!(app.post("/users/me/email", Some(&stranger), change).await.status, 202);
        app.mails().await;
    }
    let change = json!({ "current_password": PASSWORD, "new_password": NEW_PASSWORD });
    assert_eq!(app.post("/users/me/password", Some(&stranger), change).await.status, 204);
    let reset = app.reset_token(victim).await;
    // Ends the waits: notices to an unverified address are rate-limited.
    app.move_waits(-1_200).await;
    let delete = app.request(Method::DELETE, "/users/me").bearer_auth(&stranger.token);
    assert_eq!(Answer::of(delete.json(&json!({ "password": NEW_PASSWORD }))).await.status, 202);
    assert_eq!(app.login(victim, NEW_PASSWORD).await.status, 200);
    app.reset_password(&reset, PASSWORD).await.is_some_problem(400, "invalid_link");
    assert_eq!(app.reset_password(&app.reset_token(victim).await, "correct staple").await.status, 204);

    for (email, at_least) in [(victim, 9), (third, 1)] {
        let text = mails_to(&app, email).await;
        assert!(text.matches("Hello,").count() >= 2 * at_least, "{email}: {text}");
        for word in [STRANGERS_NAME, "call-0900", third] {
            assert!(!text.contains(word), "{word} is in a mail to {email}: {text}");
        }
    }
}

#[tokio::test]
async fn mails_greet_the_owner_of_a_verified_address_by_name() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql("UPDATE users SET full_name = 'Ada'").await;
    app.reset_token(&user.email).await;
    let change = json!({ "email": "new@example.com", "password": PASSWORD });
    assert_eq!(app.post("/users/me/email", Some(&user), change).await.status, 202);
    let own = mails_to(&app, &user.email).await;
    assert_eq!(own.matches("Hello Ada,").count(), 4, "two mails in two versions: {own}");
    assert!(own.contains("new@example.com"), "{own}");
    let other = mails_to(&app, "new@example.com").await;
    assert!(other.contains("Hello,") && !other.contains("Ada"), "not verified yet: {other}");
}
