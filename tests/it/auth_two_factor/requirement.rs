//! `REQUIRE_TWO_FACTOR`: the users who need a second factor. The module `rules` has more tests of the requirement for
//! admins.

use reqwest::Method;
use serde_json::json;

use super::{TWO_FACTOR_PATH, disable, status};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    authenticator::{answer, challenge, enable_two_factor},
    process::{run, saas},
};

const REQUIRE_OF_ALL: &str = "--require-two-factor=all";

#[tokio::test]
async fn smoke_all_users_have_to_set_up_a_second_factor() {
    let app = TestApp::with(&[REQUIRE_OF_ALL]).await;
    let user = app.user().await;
    for path in ["/users/me", TWO_FACTOR_PATH] {
        assert_eq!(app.get(path, Some(&user)).await.status, 200, "{path}");
    }
    let refused = app.get("/users/me/sessions", Some(&user)).await;
    refused.is_problem(403, "two_factor_required", "Sign in with two-factor authentication to do this");
    let enqueue = async |user: &User| app.call(Method::POST, "/jobs/example?name=x&duration=0", user).await;
    enqueue(&user).await.is_some_problem(403, "two_factor_required");

    let authenticator = enable_two_factor(&app, &user).await;
    assert_eq!(enqueue(&user).await.status, 200, "the session counts as signed in with two factors");
    let login = answer(&app, &challenge(&app, &user).await, &authenticator.code()).await;
    let again = User::signed_in(user.id, &user.email, &login);
    assert_eq!(enqueue(&again).await.status, 200);

    assert_eq!(disable(&app, &again, PASSWORD, &authenticator.recovery_codes[0]).await.status, 204);
    enqueue(&again).await.is_some_problem(403, "two_factor_required");
    assert_eq!(status(&app, &again).await, (false, 0));
    let logout = app.call(Method::POST, "/auth/logout-all", &again).await;
    assert_eq!(logout.status, 204);
}

/// The cached identity still has the second factor, so only the transaction of the change can refuse the
/// request.
#[tokio::test]
async fn a_transaction_checks_the_required_second_factor_again() {
    let app = TestApp::with(&[REQUIRE_OF_ALL, "--identity-cache-ms=60000"]).await;
    let user = app.user().await;
    enable_two_factor(&app, &user).await;
    assert_eq!(app.get("/users/me/sessions", Some(&user)).await.status, 200);
    app.database.sql("UPDATE sessions SET second_factor = false").await;
    let rename = app.request(Method::PATCH, "/users/me").bearer_auth(&user.token);
    let refused = Answer::of(rename.json(&json!({ "full_name": "Ada" }))).await;
    refused.is_some_problem(403, "two_factor_required");
}

#[tokio::test]
async fn the_settings_decide_which_users_need_a_second_factor() {
    let cases: [(&[&str], bool, bool); 7] = [
        (&[], false, false),
        (&["--require-two-factor=none"], false, false),
        (&["--require-two-factor=admins"], false, true),
        (&["--require-admin-two-factor"], false, true),
        (&["--require-two-factor=none", "--require-admin-two-factor=true"], false, true),
        (&[REQUIRE_OF_ALL, "--require-admin-two-factor=true"], true, true),
        (&[REQUIRE_OF_ALL, "--require-admin-two-factor=false"], true, true),
    ];
    for (flags, of_users, of_admins) in cases {
        let app = TestApp::with(flags).await;
        let (user, admin) = (app.user().await, app.admin().await);
        let expected = |required: bool| -> u16 { if required { 403 } else { 200 } };
        let of_user = app.get("/users/me/sessions", Some(&user)).await;
        assert_eq!(of_user.status, expected(of_users), "{flags:?}");
        assert_eq!(app.get("/users", Some(&admin)).await.status, expected(of_admins), "{flags:?}");
    }
}

#[tokio::test]
async fn a_requirement_that_locks_users_out_is_refused_at_start() {
    for (name, value, reported) in [
        ("REQUIRE_TWO_FACTOR", "all", "REQUIRE_TWO_FACTOR=all without TWO_FACTOR_KEY locks all users out"),
        ("REQUIRE_TWO_FACTOR", "all", "REQUIRE_TWO_FACTOR=all without SMTP_URL locks all new users out"),
        (
            "REQUIRE_TWO_FACTOR",
            "admins",
            "REQUIRE_TWO_FACTOR=admins without TWO_FACTOR_KEY locks all admins out",
        ),
        (
            "REQUIRE_ADMIN_TWO_FACTOR",
            "True",
            "REQUIRE_ADMIN_TWO_FACTOR without TWO_FACTOR_KEY locks all admins out",
        ),
    ] {
        let mut serve = saas(&["serve", "--database-url", "postgres://x:y@127.0.0.1:9/z"]);
        serve.env(name, value);
        run(serve).await.failed(1, &[reported]);
    }
    let mut invalid = saas(&["serve"]);
    invalid.env("REQUIRE_TWO_FACTOR", "some");
    run(invalid).await.failed(2, &["some", "none, admins, all", "REQUIRE_TWO_FACTOR"]);
}
