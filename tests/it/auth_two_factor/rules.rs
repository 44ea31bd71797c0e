//! How the secret is kept, how often a code may be tried, and who has to have one.

use reqwest::Method;
use serde_json::json;

use super::{PATH, begin, confirm, disable, is_refused, replace_codes, status};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, SECRET},
    authenticator::{Authenticator, answer, challenge, turn_on, unburn},
    records::{column, forget_failures},
};

const NEW_KEY: &str = "--two-factor-key=another key of the right length, 0123456789";

/// The key that the application of a test has.
fn old_key() -> String {
    SECRET.replace('a', "z")
}

#[tokio::test]
async fn the_secret_is_kept_sealed_and_the_recovery_codes_hashed() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = turn_on(&app, &user).await;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let kept = column(&app.database, "SELECT encode(secret, 'hex') FROM two_factor").await;
    assert!(kept[0].len() > 2 * authenticator.secret().len(), "with a nonce and a tag");
    let rows = "SELECT t::text FROM two_factor t UNION ALL SELECT c::text FROM recovery_codes c";
    let rows = column(&app.database, rows).await;
    assert_eq!(rows.len(), 11);
    let mut plain = vec![hex(authenticator.secret())];
    for code in &authenticator.recovery_codes {
        let made = code.replace('-', "").to_uppercase();
        plain.extend([hex(code.as_bytes()), hex(made.as_bytes()), hex(made.to_lowercase().as_bytes())]);
    }
    for secret in &plain {
        assert!(!rows.iter().any(|row| row.contains(secret)));
    }
}

#[tokio::test]
async fn a_secret_is_read_with_its_key_or_as_the_previous_one() {
    let old = TestApp::start().await;
    let user = old.user().await;
    let authenticator = turn_on(&old, &user).await;
    for (n, key) in [NEW_KEY, "--two-factor-key="].into_iter().enumerate() {
        let without = TestApp::on(old.database.clone(), &[key]).await;
        let token = challenge(&without, &user).await;
        let unreadable = answer(&without, &token, &authenticator.code()).await;
        unreadable.is_problem(500, "internal_error", "Internal Server Error");
        let recovered = answer(&without, &token, &authenticator.recovery_codes[n]).await;
        assert_eq!(recovered.status, 200, "a recovery code needs no key: {}", recovered.text);
    }
    let previous = format!("--two-factor-key-previous={}", old_key());
    let rotated = TestApp::on(old.database.clone(), &[NEW_KEY, &previous]).await;
    let newcomer = rotated.user().await;
    let of_newcomer = turn_on(&rotated, &newcomer).await;
    let token = challenge(&rotated, &user).await;
    assert_eq!(answer(&rotated, &token, &authenticator.code()).await.status, 200);

    unburn(&old).await;
    let finished = TestApp::on(old.database.clone(), &[NEW_KEY]).await;
    for (user, authenticator) in [(&newcomer, &of_newcomer), (&user, &authenticator)] {
        let token = challenge(&finished, user).await;
        let answer = answer(&finished, &token, &authenticator.code()).await;
        assert_eq!(answer.status, 200, "it was sealed anew: {}", answer.text);
    }
}

#[tokio::test]
async fn a_secret_cannot_be_lent_to_somebody_else() {
    let app = TestApp::start().await;
    let (owner, thief) = (app.user().await, app.user().await);
    let of_owner = turn_on(&app, &owner).await;
    turn_on(&app, &thief).await;
    let sql = format!(
        "UPDATE two_factor SET secret = (SELECT secret FROM two_factor WHERE user_id = {}) WHERE user_id = {}",
        owner.id, thief.id
    );
    app.sql(&sql).await;
    let token = challenge(&app, &thief).await;
    answer(&app, &token, &of_owner.code()).await.is_some_problem(500, "internal_error");
}

#[tokio::test]
async fn without_a_key_nobody_can_begin() {
    let app = TestApp::with(&["--two-factor-key="]).await;
    let user = app.user().await;
    let refused = app.post(PATH, Some(&user), json!({ "password": PASSWORD })).await;
    refused.is_some_problem(409, "conflict");
    assert_eq!(status(&app, &user).await, (false, 0));
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
}

/// Tries wrong codes until the next one has to wait. Each failure doubles the wait, so one of these comes within it
/// on the slowest machine.
async fn has_to_wait_at_last(ask: impl AsyncFn() -> Answer) {
    for tried in 0..14 {
        let answer = ask().await;
        if answer.status == 429 {
            answer.is_some_problem(429, "too_many_attempts");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
            assert!(tried >= 5, "after {tried} already");
            return;
        }
        is_refused(&answer);
    }
    panic!("anybody can try as many codes as they like");
}

#[tokio::test]
async fn wrong_codes_at_the_login_have_to_wait() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = turn_on(&app, &user).await;
    has_to_wait_at_last(async || {
        let login = app.login(&user.email, PASSWORD).await;
        if login.status != 202 {
            return login;
        }
        let token = login.body["challenge_token"].as_str().unwrap();
        answer(&app, token, &authenticator.wrong_code()).await
    })
    .await;
}

#[tokio::test]
async fn wrong_codes_of_somebody_signed_in_have_to_wait() {
    let app = TestApp::start().await;
    let (beginner, user) = (app.user().await, app.user().await);
    let setup = begin(&app, &beginner).await;
    let unconfirmed = Authenticator::with_secret(setup["secret"].as_str().unwrap());
    has_to_wait_at_last(async || confirm(&app, &beginner, &unconfirmed.wrong_code()).await).await;
    let authenticator = turn_on(&app, &user).await;
    has_to_wait_at_last(async || replace_codes(&app, &user, &authenticator.wrong_code()).await).await;
}

#[tokio::test]
async fn wrong_codes_beside_the_right_password_have_to_wait_too() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = turn_on(&app, &user).await;
    has_to_wait_at_last(async || disable(&app, &user, PASSWORD, &authenticator.wrong_code()).await).await;
}

#[tokio::test]
async fn many_wrong_codes_at_once_are_no_way_around() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = turn_on(&app, &user).await;
    forget_failures(&app.prefix).await;
    let mut challenges = Vec::new();
    for _ in 0..6 {
        challenges.push(challenge(&app, &user).await);
    }
    let wrong = authenticator.wrong_code();
    let tries = challenges.iter().cycle().take(30).map(|token| answer(&app, token, &wrong));
    let answers = futures_util::future::join_all(tries).await;
    let looked_at = answers.iter().filter(|answer| answer.status == 400).count();
    // Each that is looked at lengthens the wait, so that only the slowest machine gets to a few more than five.
    assert!((5..12).contains(&looked_at), "{looked_at} of 30 codes were tried");
}

#[tokio::test]
async fn an_address_that_is_not_confirmed_gets_no_second_factor() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql("UPDATE users SET email_verified_at = NULL").await;
    let refused = app.post(PATH, Some(&user), json!({ "password": PASSWORD })).await;
    refused.is_some_problem(403, "email_not_verified");
}

#[tokio::test]
async fn admins_may_have_to_show_it() {
    let app = TestApp::with(&["--require-admin-two-factor=true"]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    app.get("/users", Some(&user)).await.is_problem(403, "forbidden", "Not enough permissions");
    let words = "Sign in with two-factor authentication to do this";
    for path in ["/users", "/audit", "/admin/queues", "/users/admin-only"] {
        app.get(path, Some(&admin)).await.is_problem(403, "two_factor_required", words);
    }
    for path in ["/users/me", "/users/me/sessions", PATH] {
        assert_eq!(app.get(path, Some(&admin)).await.status, 200, "{path}");
    }
    let authenticator = turn_on(&app, &admin).await;
    assert_eq!(app.get("/users", Some(&admin)).await.status, 200);
    let token = challenge(&app, &admin).await;
    let login = answer(&app, &token, &authenticator.code()).await;
    let again = User::signed_in(admin.id, &admin.email, &login);
    assert_eq!(app.get("/users", Some(&again)).await.status, 200);
}

#[tokio::test]
async fn until_then_an_admin_has_no_more_of_others_jobs_than_anybody() {
    let app = TestApp::with(&["--require-admin-two-factor=true"]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    let made = app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
    let path = format!("/jobs/{}", made.body["job_id"].as_str().unwrap());
    let seen = app.get(&format!("{path}/status"), Some(&admin)).await;
    assert!([403, 404].contains(&seen.status.as_u16()), "{}", seen.text);
    let canceled = app.call(Method::DELETE, &path, &admin).await;
    assert!([403, 404].contains(&canceled.status.as_u16()), "{}", canceled.text);
    turn_on(&app, &admin).await;
    assert_eq!(app.get(&format!("{path}/status"), Some(&admin)).await.status, 200);
}

#[tokio::test]
async fn an_admin_who_turns_it_off_has_no_second_factor_to_show() {
    let app = TestApp::with(&["--require-admin-two-factor=true"]).await;
    let admin = app.admin().await;
    let authenticator = turn_on(&app, &admin).await;
    assert_eq!(disable(&app, &admin, PASSWORD, &authenticator.code()).await.status, 204);
    app.get("/users", Some(&admin)).await.is_some_problem(403, "two_factor_required");
}
