//! A sign-in with cookies replaces the session of the browser (OWASP ASVS 5, 7.2.4).

use reqwest::Method;
use serde_json::json;

use super::{Browser, OWN_PAGE, login, with_headers};
use crate::support::{
    TestApp,
    app::{Answer, PASSWORD},
    authenticator::{challenge, enable_two_factor},
    records::column,
};

/// The cookies that a browser sends when it signs in again.
#[derive(Clone, Copy, Debug)]
enum SentCookies {
    Both,
    /// The access token has expired, so the browser has deleted its cookie.
    RefreshTokenOnly,
    AccessTokenOnly,
}

impl Browser<'_> {
    fn cookies(&self, sent: SentCookies) -> String {
        let (access, refresh) = self.cookies.split_once("; ").unwrap();
        match sent {
            SentCookies::Both => self.cookies.clone(),
            SentCookies::RefreshTokenOnly => refresh.to_owned(),
            SentCookies::AccessTokenOnly => access.to_owned(),
        }
    }
}

#[tokio::test]
async fn smoke_a_sign_in_replaces_the_session_of_the_browser() {
    let app = TestApp::start().await;
    let (user, other) = (app.user().await, app.user().await);
    for sent in [SentCookies::Both, SentCookies::RefreshTokenOnly, SentCookies::AccessTokenOnly] {
        for next in [&user, &other] {
            let (old, elsewhere) = (Browser::of(&app, &user).await, Browser::of(&app, &user).await);
            let cookies = old.cookies(sent);
            let headers = [OWN_PAGE[0], ("cookie", &*cookies)];
            let new = old.with_cookies(&login(&app, &next.email, &headers).await);
            old.me().await.is_some_problem(401, "invalid_token");
            let refresh = old.send(Method::POST, "/auth/refresh", OWN_PAGE, json!({})).await;
            refresh.is_some_problem(401, "invalid_token");
            assert_eq!(new.me().await.body["id"], next.id, "{sent:?}");
            assert_eq!(elsewhere.me().await.status, 200, "{sent:?}: only the session of the browser ends");
        }
    }
    let revoked = "SELECT actor_id::text = target_id FROM audit_log WHERE action = 'session.revoked'";
    assert_eq!(column(&app.database, revoked).await, vec!["t"; 6]);
}

#[tokio::test]
async fn a_sign_in_with_two_factors_replaces_the_session_when_it_is_complete() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let complete = async |code: &str, cookies: &str| {
        let body = json!({ "challenge_token": challenge(&app, &user).await, "code": code });
        let request = app.request(Method::POST, "/auth/login/two-factor?delivery=cookie");
        Answer::of(with_headers(request, OWN_PAGE).header("cookie", cookies).json(&body)).await
    };
    let first = complete(&authenticator.recovery_codes[0], "").await;
    let old = Browser { app: &app, cookies: String::new() }.with_cookies(&first);
    let headers = [OWN_PAGE[0], ("cookie", &*old.cookies)];
    login(&app, &user.email, &headers).await.is_some_problem(403, "two_factor_required");
    complete(&authenticator.wrong_code(), &old.cookies).await.is_some_problem(400, "invalid_code");
    assert_eq!(old.me().await.status, 200, "the sign-in is not complete");
    let new = old.with_cookies(&complete(&authenticator.recovery_codes[1], &old.cookies).await);
    old.me().await.is_some_problem(401, "invalid_token");
    assert_eq!(new.me().await.status, 200);
}

#[tokio::test]
async fn a_sign_in_that_replaces_no_cookie_revokes_no_session() {
    let app = TestApp::start().await;
    let (user, ended) = (app.user().await, app.user().await);
    let browser = Browser::of(&app, &user).await;
    let form = [("username", &*user.email), ("password", PASSWORD)];
    let in_body = app.form("/auth/login", &form).header("cookie", &browser.cookies);
    assert_eq!(Answer::of(in_body).await.status, 200);
    let wrong = [("username", &*user.email), ("password", "another password")];
    let wrong = app.form("/auth/login?delivery=cookie", &wrong).header("cookie", &browser.cookies);
    Answer::of(with_headers(wrong, OWN_PAGE)).await.is_some_problem(401, "bad_credentials");
    assert_eq!(browser.me().await.status, 200);

    // Cookies without an active session do not prevent a sign-in.
    let old = Browser::of(&app, &ended).await;
    assert_eq!(old.send(Method::POST, "/auth/logout", OWN_PAGE, json!({})).await.status, 204);
    for cookies in [&*old.cookies, "access_token=x; refresh_token=y"] {
        assert_eq!(login(&app, &ended.email, &[OWN_PAGE[0], ("cookie", cookies)]).await.status, 204);
    }
}
