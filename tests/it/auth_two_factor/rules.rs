//! Storage of two-factor secrets, rate limits on codes, and the requirement of a second factor for admins.

use reqwest::Method;
use serde_json::json;

use super::{TWO_FACTOR_PATH, assert_invalid_code, begin, confirm, disable, replace_codes, status};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, SECRET},
    authenticator::{Authenticator, answer, challenge, enable_two_factor, forget_used_codes},
    records::{column, forget_failures},
};

const NEW_KEY: &str = "--two-factor-key=another key of the right length, 0123456789";

/// Returns the `TWO_FACTOR_KEY` of the test application.
fn old_key() -> String {
    SECRET.replace('a', "z")
}

#[tokio::test]
async fn the_secret_is_stored_encrypted_and_the_recovery_codes_hashed() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let kept = column(&app.database, "SELECT encode(secret, 'hex') FROM two_factor").await;
    assert!(kept[0].len() > 2 * authenticator.secret().len(), "nonce and tag are part of it");
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
async fn a_secret_is_decrypted_with_the_current_or_the_previous_key() {
    let old = TestApp::start().await;
    let user = old.user().await;
    let authenticator = enable_two_factor(&old, &user).await;
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
    let of_newcomer = enable_two_factor(&rotated, &newcomer).await;
    let token = challenge(&rotated, &user).await;
    assert_eq!(answer(&rotated, &token, &authenticator.code()).await.status, 200);

    forget_used_codes(&old).await;
    let finished = TestApp::on(old.database.clone(), &[NEW_KEY]).await;
    for (user, authenticator) in [(&newcomer, &of_newcomer), (&user, &authenticator)] {
        let token = challenge(&finished, user).await;
        let answer = answer(&finished, &token, &authenticator.code()).await;
        assert_eq!(answer.status, 200, "the secret was encrypted with the new key: {}", answer.text);
    }
}

#[tokio::test]
async fn a_secret_copied_to_another_user_cannot_be_decrypted() {
    let app = TestApp::start().await;
    let (owner, thief) = (app.user().await, app.user().await);
    let of_owner = enable_two_factor(&app, &owner).await;
    enable_two_factor(&app, &thief).await;
    let sql = format!(
        "UPDATE two_factor SET secret = (SELECT secret FROM two_factor WHERE user_id = {}) WHERE user_id = {}",
        owner.id, thief.id
    );
    app.sql(&sql).await;
    let token = challenge(&app, &thief).await;
    answer(&app, &token, &of_owner.code()).await.is_some_problem(500, "internal_error");
}

#[tokio::test]
async fn two_factor_cannot_be_set_up_without_the_encryption_key() {
    let app = TestApp::with(&["--two-factor-key="]).await;
    let user = app.user().await;
    let refused = app.post(TWO_FACTOR_PATH, Some(&user), json!({ "password": PASSWORD })).await;
    refused.is_some_problem(409, "conflict");
    assert_eq!(status(&app, &user).await, (false, 0));
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
}

/// Calls `ask`, which sends a wrong code, until an attempt is throttled. Asserts that this happens after five to thirteen
/// attempts. After the free attempts, each failure doubles the wait, so that a slow machine reaches the limit too.
async fn assert_rate_limited(ask: impl AsyncFn() -> Answer) {
    for tried in 0..14 {
        let answer = ask().await;
        if answer.status == 429 {
            answer.is_some_problem(429, "too_many_attempts");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
            assert!(tried >= 5, "rate limited after only {tried} attempts");
            return;
        }
        assert_invalid_code(&answer);
    }
    panic!("codes are not rate limited");
}

#[tokio::test]
async fn wrong_codes_at_login_are_rate_limited() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    assert_rate_limited(async || {
        let login = app.login(&user.email, PASSWORD).await;
        if login.status != 403 {
            return login;
        }
        let token = login.body["challenge_token"].as_str().unwrap();
        answer(&app, token, &authenticator.wrong_code()).await
    })
    .await;
}

#[tokio::test]
async fn wrong_codes_to_confirm_the_setup_or_replace_recovery_codes_are_rate_limited() {
    let app = TestApp::start().await;
    let (beginner, user) = (app.user().await, app.user().await);
    // Without a secret, a confirmation checks no code, so it does not count as a failure.
    for _ in 0..12 {
        confirm(&app, &beginner, "123456").await.is_some_problem(409, "conflict");
    }
    let setup = begin(&app, &beginner).await;
    let unconfirmed = Authenticator::with_secret(setup["secret"].as_str().unwrap());
    assert_rate_limited(async || confirm(&app, &beginner, &unconfirmed.wrong_code()).await).await;
    let authenticator = enable_two_factor(&app, &user).await;
    // While two-factor authentication is on, a confirmation checks no code, so it does not count as a
    // failure.
    for _ in 0..12 {
        confirm(&app, &user, &authenticator.wrong_code()).await.is_some_problem(409, "conflict");
    }
    assert_rate_limited(async || replace_codes(&app, &user, &authenticator.wrong_code()).await).await;
}

#[tokio::test]
async fn wrong_codes_to_turn_two_factor_off_are_rate_limited() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    assert_rate_limited(async || disable(&app, &user, PASSWORD, &authenticator.wrong_code()).await).await;
}

#[tokio::test]
async fn concurrent_wrong_codes_do_not_evade_the_limit() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    forget_failures(&app.prefix).await;
    let mut challenges = Vec::new();
    for _ in 0..6 {
        challenges.push(challenge(&app, &user).await);
    }
    let wrong = authenticator.wrong_code();
    let tries = challenges.iter().cycle().take(30).map(|token| answer(&app, token, &wrong));
    let answers = futures_util::future::join_all(tries).await;
    let checked = answers.iter().filter(|answer| answer.status == 400).count();
    // A slow machine may check a few more than five codes, but each checked code extends the wait.
    assert!((5..12).contains(&checked), "{checked} of 30 codes were checked");
}

#[tokio::test]
async fn two_factor_requires_a_verified_address() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql("UPDATE users SET email_verified_at = NULL").await;
    let refused = app.post(TWO_FACTOR_PATH, Some(&user), json!({ "password": PASSWORD })).await;
    refused.is_some_problem(403, "email_not_verified");
}

#[tokio::test]
async fn require_admin_two_factor_protects_admin_operations() {
    let app = TestApp::with(&["--require-admin-two-factor=true"]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    app.get("/users", Some(&user)).await.is_problem(403, "forbidden", "Not enough permissions");
    let detail = "Sign in with two-factor authentication to do this";
    for path in ["/users", "/audit", "/admin/queues", "/users/admin-only"] {
        app.get(path, Some(&admin)).await.is_problem(403, "two_factor_required", detail);
    }
    for path in ["/users/me", "/users/me/sessions", TWO_FACTOR_PATH] {
        assert_eq!(app.get(path, Some(&admin)).await.status, 200, "{path}");
    }
    let authenticator = enable_two_factor(&app, &admin).await;
    assert_eq!(app.get("/users", Some(&admin)).await.status, 200);
    let token = challenge(&app, &admin).await;
    let login = answer(&app, &token, &authenticator.code()).await;
    let again = User::signed_in(admin.id, &admin.email, &login);
    assert_eq!(app.get("/users", Some(&again)).await.status, 200);
}

#[tokio::test]
async fn an_admin_without_two_factor_cannot_access_jobs_of_others() {
    let app = TestApp::with(&["--require-admin-two-factor=true"]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    let made = app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
    let path = format!("/jobs/{}", made.body["job_id"].as_str().unwrap());
    let seen = app.get(&format!("{path}/status"), Some(&admin)).await;
    assert!([403, 404].contains(&seen.status.as_u16()), "{}", seen.text);
    let canceled = app.call(Method::DELETE, &path, &admin).await;
    assert!([403, 404].contains(&canceled.status.as_u16()), "{}", canceled.text);
    enable_two_factor(&app, &admin).await;
    assert_eq!(app.get(&format!("{path}/status"), Some(&admin)).await.status, 200);
}

#[tokio::test]
async fn turning_two_factor_off_ends_the_admin_access_of_the_session() {
    let app = TestApp::with(&["--require-admin-two-factor=true"]).await;
    let admin = app.admin().await;
    let authenticator = enable_two_factor(&app, &admin).await;
    assert_eq!(disable(&app, &admin, PASSWORD, &authenticator.code()).await.status, 204);
    app.get("/users", Some(&admin)).await.is_some_problem(403, "two_factor_required");
}
