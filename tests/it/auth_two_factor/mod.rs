//! Two-factor authentication: turning it on and off, and replacing recovery codes.

mod challenges;
mod login;
mod requirement;
mod rules;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use totp_rs::Totp;

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, fields},
    authenticator::{Authenticator, answer, challenge, enable_two_factor, recovery_codes},
    records::{column, forget_failures},
};

const TWO_FACTOR_PATH: &str = "/users/me/two-factor";

/// Begins the setup with the password. Returns the response, which has the secret.
async fn begin(app: &TestApp, user: &User) -> Value {
    let setup = app.post(TWO_FACTOR_PATH, Some(user), json!({ "password": PASSWORD })).await;
    assert_eq!(setup.status, 200, "{}", setup.text);
    setup.body
}

async fn confirm(app: &TestApp, user: &User, code: &str) -> Answer {
    app.post(&format!("{TWO_FACTOR_PATH}/confirm"), Some(user), json!({ "code": code })).await
}

async fn disable(app: &TestApp, user: &User, password: &str, code: &str) -> Answer {
    let body = json!({ "password": password, "code": code });
    app.post(&format!("{TWO_FACTOR_PATH}/disable"), Some(user), body).await
}

async fn replace_codes(app: &TestApp, user: &User, code: &str) -> Answer {
    app.post(&format!("{TWO_FACTOR_PATH}/recovery-codes"), Some(user), json!({ "code": code })).await
}

/// Returns whether two-factor authentication is on, and the number of unused recovery codes.
async fn status(app: &TestApp, user: &User) -> (bool, u64) {
    let answer = app.get(TWO_FACTOR_PATH, Some(user)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    (answer.body["enabled"].as_bool().unwrap(), answer.body["recovery_codes_left"].as_u64().unwrap())
}

#[track_caller]
fn assert_invalid_code(answer: &Answer) {
    answer.is_problem(400, "invalid_code", "This code is not valid");
}

/// Returns the subjects of the mails to a user, the oldest first.
async fn subjects(app: &TestApp, user: &User) -> Vec<String> {
    let mails = app.mails().await.into_iter().filter(|mail| mail.to == user.email);
    mails.map(|mail| mail.subject).collect()
}

#[tokio::test]
async fn smoke_the_setup_requires_the_password_and_returns_the_secret() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let wrong = app.post(TWO_FACTOR_PATH, Some(&user), json!({ "password": "another password" })).await;
    wrong.is_problem(400, "wrong_password", "Incorrect password");
    let missing = app.post(TWO_FACTOR_PATH, Some(&user), json!({})).await;
    assert_eq!(missing.invalid_fields(), fields(&[("body.password", "missing")]));
    assert!(column(&app.database, "SELECT user_id FROM two_factor").await.is_empty());

    let setup = begin(&app, &user).await;
    let uri = Totp::from_url(setup["otpauth_uri"].as_str().unwrap()).unwrap();
    assert_eq!((uri.issuer(), uri.account_name()), (Some("saas"), &*user.email));
    assert_eq!((uri.digits(), uri.step(), uri.secret().as_bytes().len()), (6, 30, 20));
    assert_eq!(uri.secret().to_base32(), setup["secret"].as_str().unwrap());
}

#[tokio::test]
async fn a_product_name_with_a_colon_is_accepted_by_authenticators() {
    let app = TestApp::with(&["--project-name=Acme: Tools"]).await;
    let user = app.user().await;
    let uri = Totp::from_url(begin(&app, &user).await["otpauth_uri"].as_str().unwrap()).unwrap();
    assert_eq!((uri.issuer(), uri.account_name()), (Some("Acme  Tools"), &*user.email));
}

#[tokio::test]
async fn two_factor_is_off_until_a_code_confirms_it() {
    let app = TestApp::start().await;
    let user = app.user().await;
    confirm(&app, &user, "123456").await.is_some_problem(409, "conflict");
    let secret = |setup: Value| setup["secret"].as_str().unwrap().to_owned();
    let first = Authenticator::with_secret(&secret(begin(&app, &user).await));
    assert_invalid_code(&confirm(&app, &user, &first.wrong_code()).await);
    assert_eq!(status(&app, &user).await, (false, 0));
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    assert_invalid_code(&replace_codes(&app, &user, &first.code()).await);
    assert_invalid_code(&disable(&app, &user, PASSWORD, "aaaa-bbbb-cccc-dddd").await);

    forget_failures(&app.prefix).await;
    let second = Authenticator::with_secret(&secret(begin(&app, &user).await));
    assert_ne!(first.secret(), second.secret());
    assert_invalid_code(&confirm(&app, &user, &first.code()).await);
    assert_eq!(status(&app, &user).await, (false, 0));
    assert_eq!(confirm(&app, &user, &second.code()).await.status, 200);
    assert_eq!(status(&app, &user).await, (true, 10));
}

#[tokio::test]
async fn smoke_turning_two_factor_on_revokes_other_sessions_and_returns_recovery_codes() {
    let app = TestApp::start().await;
    let (user, bystander) = (app.user().await, app.user().await);
    let other = User::signed_in(user.id, &user.email, &app.login(&user.email, PASSWORD).await);
    let authenticator = enable_two_factor(&app, &user).await;
    let codes: BTreeSet<_> = authenticator.recovery_codes.iter().collect();
    assert_eq!(codes.len(), 10);
    for code in codes {
        let groups: Vec<_> = code.split('-').collect();
        assert!(groups.iter().all(|group| group.len() == 4), "{code}");
        // Base 32, and at least 112 bits (OWASP ASVS 5, 6.5.2).
        let base32 = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
        assert!(groups.concat().chars().all(base32) && groups.concat().len() * 5 >= 112, "{code}");
    }
    assert_eq!(status(&app, &user).await, (true, 10));
    app.get("/users/me", Some(&other)).await.is_some_problem(401, "invalid_token");
    let spent = json!({ "refresh_token": other.refresh_token });
    app.post("/auth/refresh", None, spent).await.is_some_problem(401, "invalid_token");
    let sessions = app.get("/users/me/sessions", Some(&user)).await.body;
    assert_eq!(sessions.as_array().unwrap().len(), 1);
    assert_eq!(sessions[0]["two_factor"], true);
    assert_eq!(status(&app, &bystander).await, (false, 0));
    assert_eq!(app.login(&bystander.email, PASSWORD).await.status, 200);
    assert_eq!(subjects(&app, &user).await, ["Two-factor sign-in was switched on"]);
}

#[tokio::test]
async fn two_factor_cannot_be_set_up_again_while_it_is_on() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let again = app.post(TWO_FACTOR_PATH, Some(&user), json!({ "password": PASSWORD })).await;
    again.is_problem(409, "conflict", "Two-factor authentication is already enabled");
    confirm(&app, &user, &authenticator.code()).await.is_some_problem(409, "conflict");
    let token = challenge(&app, &user).await;
    assert_eq!(answer(&app, &token, &authenticator.code()).await.status, 200, "the secret has not changed");
}

#[tokio::test]
async fn only_one_of_two_concurrent_confirmations_succeeds() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let setup = begin(&app, &user).await;
    let authenticator = Authenticator::with_secret(setup["secret"].as_str().unwrap());
    let (now, next) = (authenticator.code(), authenticator.next_code());
    let (one, other) = tokio::join!(confirm(&app, &user, &now), confirm(&app, &user, &next));
    let (good, bad) = if one.status == 200 { (one, other) } else { (other, one) };
    bad.is_some_problem(409, "conflict");
    let token = challenge(&app, &user).await;
    assert_eq!(answer(&app, &token, &recovery_codes(&good)[0]).await.status, 200);
}

#[tokio::test]
async fn two_factor_is_turned_off_with_password_and_code() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let code = authenticator.code();
    disable(&app, &user, "another password", &code).await.is_problem(
        400,
        "wrong_password",
        "Incorrect password",
    );
    assert_invalid_code(&disable(&app, &user, PASSWORD, &authenticator.wrong_code()).await);
    assert_eq!(status(&app, &user).await, (true, 10));

    assert_eq!(disable(&app, &user, PASSWORD, &code).await.status, 204);
    assert_eq!(status(&app, &user).await, (false, 0));
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    let expected = ["Two-factor sign-in was switched on", "Two-factor sign-in was switched off"];
    assert_eq!(subjects(&app, &user).await, expected);
    assert_invalid_code(&disable(&app, &user, PASSWORD, &authenticator.next_code()).await);
    let again = enable_two_factor(&app, &user).await;
    assert_ne!(again.secret(), authenticator.secret());
}

#[tokio::test]
async fn a_recovery_code_turns_two_factor_off() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    assert_eq!(disable(&app, &user, PASSWORD, &authenticator.recovery_codes[3]).await.status, 204);
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
}

#[tokio::test]
async fn new_recovery_codes_invalidate_the_old_ones() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    assert_invalid_code(&replace_codes(&app, &user, &authenticator.wrong_code()).await);
    let new = recovery_codes(&replace_codes(&app, &user, &authenticator.code()).await);
    assert_eq!(new.len(), 10);
    assert!(new.iter().all(|code| !authenticator.recovery_codes.contains(code)));
    let token = challenge(&app, &user).await;
    assert_invalid_code(&answer(&app, &token, &authenticator.recovery_codes[0]).await);
    assert_eq!(answer(&app, &token, &new[0]).await.status, 200);
    assert_eq!(status(&app, &user).await, (true, 9));
}
