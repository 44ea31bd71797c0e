//! The token endpoints for OAuth2 clients (RFC 6749), and responses to refused tokens (RFC 6750).

use reqwest::Method;
use serde_json::json;

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, fields},
    authenticator::{answer, enable_two_factor},
};

const LOGIN: &str = "/auth/login";
const REFRESH: &str = "/auth/refresh";
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

/// The beginning of the `WWW-Authenticate` header for a refused access token (RFC 6750 section 3.1).
const REFUSED_TOKEN_CHALLENGE: &str = "Bearer error=\"invalid_token\"";

async fn post_body(app: &TestApp, path: &str, content_type: &str, body: &str) -> Answer {
    let request = app.request(Method::POST, path).header("content-type", content_type);
    Answer::of(request.body(body.to_owned())).await
}

fn password_form(user: &User) -> String {
    format!("username={}&password={}", user.email, PASSWORD.replace(' ', "+"))
}

fn refresh_form(user: &User) -> String {
    format!("grant_type=refresh_token&refresh_token={}", user.refresh_token)
}

/// Asserts that a response has an OAuth2 error and no token (RFC 6749 sections 5.1 and 5.2).
#[track_caller]
fn assert_oauth_error(answer: &Answer, status: u16, code: &str, error: &str) {
    answer.is_some_problem(status, code);
    assert_eq!(answer.body["error"], error, "{}", answer.text);
    let description = answer.body["error_description"].as_str().unwrap();
    let permitted = |c: char| (' '..='~').contains(&c) && c != '"' && c != '\\';
    assert!(!description.is_empty() && description.chars().all(permitted), "{description}");
    assert!(answer.body.get("access_token").is_none() && answer.headers.get("set-cookie").is_none());
    assert_not_stored(answer);
    if status == 401 {
        assert_eq!(answer.header("www-authenticate"), "Bearer", "no access token was refused");
    }
}

#[track_caller]
fn assert_not_stored(answer: &Answer) {
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), ("no-store", "no-cache"));
}

#[tokio::test]
async fn smoke_every_refused_token_request_has_an_oauth_code() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let form = password_form(&user);
    let right = form.as_str();
    let with = |more: &str| format!("{right}&{more}");
    let wrong = format!("grant_type=password&username={}&password=wrong", user.email);
    let none = "0".repeat(64);
    let unknown = format!("grant_type=refresh_token&refresh_token={none}");
    let cases = [
        (LOGIN, FORM, wrong, 401, "bad_credentials", "invalid_grant"),
        (LOGIN, FORM, "username=x%40example.com&password=x".into(), 401, "bad_credentials", "invalid_grant"),
        (LOGIN, FORM, unknown.clone(), 401, "invalid_token", "invalid_grant"),
        (REFRESH, FORM, unknown, 401, "invalid_token", "invalid_grant"),
        (REFRESH, JSON, format!("{{\"refresh_token\":\"{none}\"}}"), 401, "invalid_token", "invalid_grant"),
        (REFRESH, JSON, "{}".into(), 401, "not_authenticated", "invalid_request"),
        (REFRESH, JSON, "{\"refresh_token\":".into(), 400, "malformed", "invalid_request"),
        (LOGIN, FORM, with(&"x".repeat(16 * 1024)), 413, "too_large", "invalid_request"),
        (LOGIN, JSON, "{}".into(), 415, "unsupported_media_type", "invalid_request"),
        (REFRESH, "text/\"x\\y\"", "{}".into(), 415, "unsupported_media_type", "invalid_request"),
        ("/auth/login?delivery=cookie", FORM, right.into(), 403, "cross_site", "invalid_request"),
    ];
    for (path, content_type, body, status, code, error) in &cases {
        assert_oauth_error(&post_body(&app, path, content_type, body).await, *status, code, error);
    }
    // Missing, repeated, unknown and invalid parameters.
    let invalid = [
        (LOGIN, FORM, String::new()),
        ("/auth/login/", FORM, String::new()),
        (LOGIN, FORM, "grant_type=password&username=x".into()),
        (LOGIN, FORM, "grant_type=refresh_token".into()),
        (LOGIN, FORM, with("password=x")),
        (LOGIN, FORM, with("scope=a&scope=a")),
        (LOGIN, FORM, with("grant_type=x&grant_type=password")),
        (LOGIN, FORM, with("%C3%A9%22=&%C3%A9%22=")),
        (LOGIN, FORM, "username=a%00b&password=x".into()),
        ("/auth/login?delivery=x", FORM, right.into()),
        (REFRESH, FORM, "grant_type=refresh_token&refresh_token=".into()),
        (REFRESH, FORM, "refresh_token=a&refresh_token=a".into()),
        (REFRESH, JSON, "{\"token\":\"x\"}".into()),
    ];
    for (path, content_type, body) in &invalid {
        let answer = post_body(&app, path, content_type, body).await;
        assert_oauth_error(&answer, 422, "validation_error", "invalid_request");
    }
    for grant in ["client_credentials", "authorization_code", "string", "PASSWORD", "password+"] {
        let answer = post_body(&app, LOGIN, FORM, &with(&format!("grant_type={grant}"))).await;
        assert_oauth_error(&answer, 400, "unsupported_grant_type", "unsupported_grant_type");
    }
    let password = post_body(&app, REFRESH, FORM, &with("grant_type=password")).await;
    assert_oauth_error(&password, 400, "unsupported_grant_type", "unsupported_grant_type");
    let get = Answer::of(app.request(Method::GET, LOGIN)).await;
    assert_oauth_error(&get, 405, "method_not_allowed", "invalid_request");
    // Other operations are not token endpoints, so their errors have no OAuth2 fields.
    for other in [app.get("/users/me", None).await, answer(&app, "", "").await] {
        assert!(other.body["code"].is_string() && other.body.get("error").is_none(), "{}", other.text);
    }
}

#[tokio::test]
async fn a_client_can_distinguish_a_busy_or_failing_server_from_wrong_credentials() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let throttled = loop {
        let answer = app.login(&user.email, "wrong password").await;
        if answer.status != 401 {
            break answer;
        }
    };
    assert_oauth_error(&throttled, 429, "too_many_attempts", "temporarily_unavailable");
    app.sql("ALTER TABLE users RENAME COLUMN full_name TO name").await;
    for (path, form) in [(LOGIN, "username=a&password=b".to_owned()), (REFRESH, refresh_form(&user))] {
        let failed = post_body(&app, path, FORM, &form).await;
        assert_oauth_error(&failed, 500, "internal_error", "server_error");
    }
    let database = "--database-url=postgres://x:y@127.0.0.1:9/z";
    let app = TestApp::with(&[database, "--database-timeout-ms=1400"]).await;
    let unavailable = post_body(&app, REFRESH, FORM, &refresh_form(&user)).await;
    assert_oauth_error(&unavailable, 503, "unavailable", "temporarily_unavailable");
    let app = TestApp::with(&["--allowed-hosts=api.example.com"]).await;
    let foreign = app.form(LOGIN, &[("username", "a"), ("password", "b")]).header("host", "evil.example");
    assert_oauth_error(&Answer::of(foreign).await, 421, "unknown_host", "invalid_request");
}

#[tokio::test]
async fn smoke_a_client_refreshes_at_the_login_url_or_the_refresh_url() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for path in [LOGIN, REFRESH] {
        let form = format!("grant_type=password&{}&scope=&client_id=web", password_form(&user));
        let login = post_body(&app, LOGIN, FORM, &form).await;
        assert_not_stored(&login);
        let first = User::signed_in(user.id, &user.email, &login);
        let form = format!("{}&client_id=web&client_secret=", refresh_form(&first));
        let refresh = post_body(&app, path, FORM, &form).await;
        assert_not_stored(&refresh);
        let next = User::signed_in(user.id, &user.email, &refresh);
        assert_eq!(app.get("/users/me", Some(&next)).await.status, 200);
        assert_ne!(next.refresh_token, first.refresh_token);
        app.sql("UPDATE refresh_tokens SET spent_at = spent_at - interval '11 seconds'").await;
        let replay = post_body(&app, path, FORM, &form).await;
        assert_oauth_error(&replay, 401, "invalid_token", "invalid_grant");
        app.get("/users/me", Some(&next)).await.is_some_problem(401, "invalid_token");
    }
    // A parameter without a value counts as omitted (RFC 6749 section 3.2).
    for grant in ["", "&grant_type="] {
        let login = post_body(&app, LOGIN, FORM, &format!("{}{grant}", password_form(&user))).await;
        let first = User::signed_in(user.id, &user.email, &login);
        let form = format!("refresh_token={}{grant}", first.refresh_token);
        assert_eq!(post_body(&app, REFRESH, FORM, &form).await.status, 200, "{form}");
    }
}

#[tokio::test]
async fn a_refresh_by_form_neither_uses_nor_sets_a_cookie() {
    let app = TestApp::start().await;
    let (user, mut other) = (app.user().await, app.user().await);
    let form = [("username", user.email.as_str()), ("password", PASSWORD)];
    let login = app.form("/auth/login?delivery=cookie", &form).header("sec-fetch-site", "same-origin");
    let login = Answer::of(login).await;
    let cookies = login.headers.get_all("set-cookie").iter();
    let pairs: Vec<_> = cookies.map(|line| line.to_str().unwrap().split(';').next().unwrap()).collect();
    let cookies = pairs.join("; ");
    let post = async |path: &str, content_type: &str, page: &str, body: &str| {
        let request = app.request(Method::POST, path).header("content-type", content_type);
        let request = request.header("cookie", &cookies).header("sec-fetch-site", page);
        Answer::of(request.body(body.to_owned())).await
    };
    for page in ["same-origin", "cross-site"] {
        for path in [LOGIN, REFRESH] {
            let missing = post(path, FORM, page, "grant_type=refresh_token").await;
            assert_eq!(missing.invalid_fields(), fields(&[("body.refresh_token", "missing")]));
            let refreshed = post(path, FORM, page, &refresh_form(&other)).await;
            other = User::signed_in(other.id, &other.email, &refreshed);
            assert!(refreshed.headers.get("set-cookie").is_none());
            assert_eq!(app.get("/users/me", Some(&other)).await.body["id"], other.id);
        }
    }
    let into_cookies = post("/auth/login?delivery=cookie", FORM, "same-origin", &refresh_form(&other)).await;
    assert_eq!(into_cookies.invalid_fields(), fields(&[("query.delivery", "value_error")]));
    let spent = "UPDATE refresh_tokens SET spent_at = spent_at - interval '11 seconds'";
    app.sql(spent).await;
    let by_cookie = post(REFRESH, JSON, "same-origin", "{}").await;
    assert_eq!(by_cookie.status, 204, "no form has spent the cookie: {}", by_cookie.text);
}

#[tokio::test]
async fn smoke_a_sign_in_that_needs_a_code_is_neither_a_success_nor_a_failure() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let authenticator = enable_two_factor(&app, &user).await;
    let mut challenge = String::new();
    // More sign-ins than the throttle allows failures: a sign-in that needs a code must not count as a
    // failure.
    for path in [LOGIN, "/auth/login?delivery=cookie"].repeat(4) {
        let form = [("grant_type", "password"), ("username", user.email.as_str()), ("password", PASSWORD)];
        let login = app.form(path, &form).header("sec-fetch-site", "same-origin");
        let login = Answer::of(login).await;
        assert_oauth_error(&login, 403, "two_factor_required", "two_factor_required");
        assert_eq!(login.body["expires_in"], 300);
        challenge = login.body["challenge_token"].as_str().unwrap().to_owned();
    }
    let body = json!({ "challenge_token": challenge, "code": authenticator.code() });
    let complete = app.request(Method::POST, "/auth/login/two-factor?delivery=cookie").json(&body);
    let complete = Answer::of(complete.header("sec-fetch-site", "same-origin")).await;
    assert_eq!(complete.status, 204, "{}", complete.text);
    assert_not_stored(&complete);
}

#[tokio::test]
async fn an_unverified_address_is_an_invalid_grant() {
    let app = TestApp::with(&["--require-verified-email=true"]).await;
    let new = json!({ "email": "ada@example.com", "password": PASSWORD });
    assert_eq!(app.post("/auth/register", None, new).await.status, 201);
    let login = app.login("ada@example.com", PASSWORD).await;
    assert_oauth_error(&login, 403, "email_not_verified", "invalid_grant");
}

#[tokio::test]
async fn smoke_only_a_refused_token_is_reported_as_invalid() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let me = || app.request(Method::GET, "/users/me");
    for request in [me(), me().header("authorization", "Basic YTpi"), me().header("cookie", "a=b")] {
        let answer = Answer::of(request).await;
        answer.is_some_problem(401, "not_authenticated");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    assert_eq!(app.call(Method::POST, "/auth/logout", &user).await.status, 204);
    for request in [
        me().bearer_auth("nonsense"),
        me().bearer_auth(&user.token),
        me().bearer_auth(&user.token).header("authorization", "Bearer x"),
        me().header("cookie", "access_token=nonsense"),
        me().header("cookie", format!("access_token={}", user.token)),
    ] {
        let answer = Answer::of(request).await;
        answer.is_some_problem(401, "invalid_token");
        let value = answer.header("www-authenticate");
        assert!(value.starts_with(REFUSED_TOKEN_CHALLENGE), "{value}");
    }
}
