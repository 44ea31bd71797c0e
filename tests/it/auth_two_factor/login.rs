//! Signing in with a second factor.

use reqwest::Method;
use serde_json::json;

use super::{assert_invalid_code, begin, confirm, replace_codes, status, subjects};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, fields},
    authenticator::{Authenticator, answer, challenge, enable_two_factor, forget_used_codes},
    eventually,
    records::{column, forget_failures},
};

#[tokio::test]
async fn smoke_a_password_alone_gets_a_challenge() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let sessions = "SELECT count(*) FROM sessions WHERE revoked_at IS NULL";
    let login = app.login(&user.email, PASSWORD).await;
    login.is_some_problem(403, "two_factor_required");
    assert_eq!(
        (&login.body["error"], &login.body["expires_in"]),
        (&json!("two_factor_required"), &json!(300))
    );
    assert!(login.body.get("access_token").is_none() && login.body.get("refresh_token").is_none());
    assert_eq!((login.header("cache-control"), login.header("pragma")), ("no-store", "no-cache"));
    assert!(login.headers.get("set-cookie").is_none());
    assert_eq!(column(&app.database, sessions).await, ["1"]);
    app.login(&user.email, "another password").await.is_some_problem(401, "bad_credentials");

    let token = login.body["challenge_token"].as_str().unwrap();
    let with_spaces = format!(" {} ", authenticator.code());
    let signed_in = User::signed_in(user.id, &user.email, &answer(&app, token, &with_spaces).await);
    let sessions = app.get("/users/me/sessions", Some(&signed_in)).await.body;
    let current = sessions.as_array().unwrap().iter().find(|session| session["current"] == true).unwrap();
    assert_eq!(current["two_factor"], true);
    let spent = json!({ "refresh_token": signed_in.refresh_token });
    assert_eq!(app.post("/auth/refresh", None, spent).await.status, 200);
}

#[tokio::test]
async fn a_login_during_the_confirmation_of_the_second_factor_gets_a_challenge() {
    let app = TestApp::start().await;
    let user = app.user().await;
    begin(&app, &user).await;
    let (confirming, connection) =
        tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // These are the steps of the operation `confirm`: it locks the user, and then enables the second factor.
    let steps = "BEGIN; SELECT id FROM users FOR UPDATE; UPDATE two_factor SET confirmed_at = now()";
    confirming.batch_execute(steps).await.unwrap();
    let waiting = "SELECT pid FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let commit = async {
        eventually("the login waits for the lock", || async {
            (!column(&app.database, waiting).await.is_empty()).then_some(())
        })
        .await;
        confirming.batch_execute("COMMIT").await.unwrap();
    };
    let (login, ()) = tokio::join!(app.login(&user.email, PASSWORD), commit);
    login.is_some_problem(403, "two_factor_required");
}

#[tokio::test]
async fn a_challenge_is_refused_as_another_kind_of_token() {
    let app = TestApp::start().await;
    let user = app.user().await;
    enable_two_factor(&app, &user).await;
    let token = challenge(&app, &user).await;
    let as_access = User::with_token(token.clone());
    app.get("/users/me", Some(&as_access)).await.is_some_problem(401, "invalid_token");
    let refresh = app.post("/auth/refresh", None, json!({ "refresh_token": token })).await;
    refresh.is_some_problem(401, "invalid_token");
    let reset = json!({ "token": token, "password": "another horse battery" });
    app.post("/auth/reset-password", None, reset).await.is_some_problem(400, "invalid_link");
}

#[tokio::test]
async fn a_used_code_invalidates_its_time_step_and_earlier_ones() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let (now, next) = (authenticator.code(), authenticator.next_code());
    let (first, second) = (challenge(&app, &user).await, challenge(&app, &user).await);
    assert_eq!(answer(&app, &first, &next).await.status, 200);
    assert_invalid_code(&answer(&app, &second, &next).await);
    assert_invalid_code(&answer(&app, &second, &now).await);
    assert_invalid_code(&replace_codes(&app, &user, &next).await);
    forget_used_codes(&app).await;
    assert_eq!(
        answer(&app, &second, &now).await.status,
        200,
        "the code was refused only because it was used"
    );
}

#[tokio::test]
async fn the_code_that_turned_two_factor_on_is_used_up() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let setup = begin(&app, &user).await;
    let authenticator = Authenticator::with_secret(setup["secret"].as_str().unwrap());
    let code = authenticator.code();
    assert_eq!(confirm(&app, &user, &code).await.status, 200);
    let token = challenge(&app, &user).await;
    assert_invalid_code(&answer(&app, &token, &code).await);
}

#[tokio::test]
async fn only_one_of_two_concurrent_uses_of_a_code_succeeds() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    for code in [authenticator.code(), authenticator.recovery_codes[0].clone()] {
        let (first, second) = (challenge(&app, &user).await, challenge(&app, &user).await);
        let (one, other) = tokio::join!(answer(&app, &first, &code), answer(&app, &second, &code));
        let (good, bad) = if one.status == 200 { (one, other) } else { (other, one) };
        assert_eq!(good.status, 200, "{}", good.text);
        assert_invalid_code(&bad);
    }
}

#[tokio::test]
async fn a_challenge_signs_in_once() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let (now, next) = (authenticator.code(), authenticator.next_code());
    let token = challenge(&app, &user).await;
    assert_eq!(answer(&app, &token, &now).await.status, 200);
    assert_invalid_code(&answer(&app, &token, &next).await);

    forget_used_codes(&app).await;
    let token = challenge(&app, &user).await;
    let codes = &authenticator.recovery_codes;
    let (one, other) = tokio::join!(answer(&app, &token, &codes[0]), answer(&app, &token, &codes[1]));
    let (good, bad) = if one.status == 200 { (one, other) } else { (other, one) };
    assert_eq!(good.status, 200, "{}", good.text);
    assert_invalid_code(&bad);
    assert_eq!(status(&app, &user).await, (true, 9), "a code that was refused is not used up");
}

#[tokio::test]
async fn five_wrong_codes_use_up_a_challenge() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let (fourth, fifth) = (challenge(&app, &user).await, challenge(&app, &user).await);
    for _ in 0..4 {
        assert_invalid_code(&answer(&app, &fourth, &authenticator.wrong_code()).await);
    }
    assert_eq!(answer(&app, &fourth, &authenticator.code()).await.status, 200);
    forget_used_codes(&app).await;
    for code in ["", &authenticator.wrong_code(), "aaaa-bbbb-cccc-dddd", "1234567", "codes!"] {
        assert_invalid_code(&answer(&app, &fifth, code).await);
    }
    forget_failures(&app.prefix).await;
    assert_invalid_code(&answer(&app, &fifth, &authenticator.code()).await);
    assert_invalid_code(&answer(&app, &fifth, &authenticator.recovery_codes[0]).await);
    let fresh = challenge(&app, &user).await;
    assert_eq!(answer(&app, &fresh, &authenticator.code()).await.status, 200);
}

#[tokio::test]
async fn a_challenge_expires_after_five_minutes() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let pass = |seconds: u32| {
        let sql = format!("UPDATE one_time_tokens SET expires_at = expires_at - interval '{seconds} s'");
        let database = app.database.clone();
        async move { database.sql(&sql).await }
    };
    let token = challenge(&app, &user).await;
    pass(300).await;
    assert_invalid_code(&answer(&app, &token, &authenticator.code()).await);
    let token = challenge(&app, &user).await;
    pass(200).await;
    assert_eq!(answer(&app, &token, &authenticator.code()).await.status, 200);
}

#[tokio::test]
async fn a_recovery_code_is_valid_once_in_any_notation() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let codes = &authenticator.recovery_codes;
    let typed = [
        codes[0].clone(),
        codes[1].to_uppercase(),
        codes[2].replace('-', ""),
        format!(" {} ", codes[3].replace('-', " ").to_uppercase()),
    ];
    for (used, code) in (1..).zip(typed) {
        let token = challenge(&app, &user).await;
        assert_eq!(answer(&app, &token, &code).await.status, 200, "{code:?}");
        assert_eq!(status(&app, &user).await, (true, 10 - used));
        let token = challenge(&app, &user).await;
        assert_invalid_code(&answer(&app, &token, &code).await);
    }
    let sent = subjects(&app, &user).await;
    assert_eq!(sent[1..], ["A recovery code was used"; 4]);
}

#[tokio::test]
async fn a_code_is_valid_for_its_user_only() {
    let app = TestApp::start().await;
    let (one, other) = (app.user().await, app.user().await);
    let (of_one, of_other) = (enable_two_factor(&app, &one).await, enable_two_factor(&app, &other).await);
    let token = challenge(&app, &one).await;
    assert_invalid_code(&answer(&app, &token, &of_other.code()).await);
    assert_invalid_code(&answer(&app, &token, &of_other.recovery_codes[0]).await);
    assert_eq!(answer(&app, &token, &of_one.code()).await.status, 200);
}

#[tokio::test]
async fn a_password_change_or_deactivation_invalidates_a_challenge() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let authenticator = enable_two_factor(&app, &user).await;
    let token = challenge(&app, &user).await;
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse battery" });
    assert_eq!(app.post("/users/me/password", Some(&user), change).await.status, 204);
    assert_invalid_code(&answer(&app, &token, &authenticator.code()).await);
    let back = json!({ "current_password": "another horse battery", "new_password": PASSWORD });
    assert_eq!(app.post("/users/me/password", Some(&user), back).await.status, 204);

    let token = challenge(&app, &user).await;
    for is_active in [false, true] {
        let change = app.request(Method::PATCH, &format!("/users/{}", user.id)).bearer_auth(&admin.token);
        let change = Answer::of(change.json(&json!({ "is_active": is_active }))).await;
        assert_eq!(change.status, 200, "{}", change.text);
        assert_invalid_code(&answer(&app, &token, &authenticator.code()).await);
    }
    let token = challenge(&app, &user).await;
    assert_eq!(answer(&app, &token, &authenticator.code()).await.status, 200);
}

#[tokio::test]
async fn the_second_step_of_a_login_can_set_cookies() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let token = challenge(&app, &user).await;
    let body = json!({ "challenge_token": token, "code": authenticator.code() });
    let request = || app.request(Method::POST, "/auth/login/two-factor?delivery=cookie").json(&body);
    let foreign = request().header("origin", "https://evil.example.com");
    Answer::of(foreign).await.is_some_problem(403, "cross_site");
    let done = Answer::of(request().header("sec-fetch-site", "same-origin")).await;
    assert_eq!((done.status.as_u16(), &*done.text), (204, ""));
    assert_eq!(done.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn an_unknown_challenge_is_refused() {
    let app = TestApp::start().await;
    assert_invalid_code(&answer(&app, &"0".repeat(64), "123456").await);
    assert_invalid_code(&answer(&app, "", "").await);
    let path = "/auth/login/two-factor";
    let missing = app.post(path, None, json!({})).await.invalid_fields();
    assert_eq!(missing, fields(&[("body.challenge_token", "missing"), ("body.code", "missing")]));
    let long = json!({ "challenge_token": "x".repeat(129), "code": "1".repeat(65), "trust": true });
    let wrong = [
        ("body.challenge_token", "string_too_long"),
        ("body.code", "string_too_long"),
        ("body.trust", "extra_forbidden"),
    ];
    assert_eq!(app.post(path, None, long).await.invalid_fields(), fields(&wrong));
}
