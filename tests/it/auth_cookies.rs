//! Tokens in cookies, and the web pages whose requests may use these cookies.

mod replaced;

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    records::column,
};

type Headers<'a> = &'a [(&'a str, &'a str)];

/// The header that a browser sends with a request from a page of the API's own origin.
const OWN_PAGE: Headers<'static> = &[("sec-fetch-site", "same-origin")];

fn with_headers(request: RequestBuilder, headers: Headers<'_>) -> RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// A cookie that a response sets.
struct SetCookie {
    name: String,
    value: String,
    attributes: BTreeSet<String>,
}

/// Returns the cookies that a response sets, sorted by name.
fn parse_set_cookies(answer: &Answer) -> Vec<SetCookie> {
    let read = |text: &str| {
        let mut parts = text.split("; ").map(str::to_owned);
        let pair = parts.next().unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        SetCookie { name: name.into(), value: value.into(), attributes: parts.collect() }
    };
    let headers = answer.headers.get_all("set-cookie");
    let mut cookies: Vec<_> = headers.iter().map(|header| read(header.to_str().unwrap())).collect();
    cookies.sort_by(|one, other| one.name.cmp(&other.name));
    cookies
}

fn attributes(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|attribute| (*attribute).to_owned()).collect()
}

/// A browser with its cookies.
struct Browser<'a> {
    app: &'a TestApp,
    cookies: String,
}

impl<'a> Browser<'a> {
    async fn of(app: &'a TestApp, user: &User) -> Self {
        Self { app, cookies: String::new() }.with_cookies(&login(app, &user.email, OWN_PAGE).await)
    }

    /// Returns the browser with the cookies that a response has set.
    fn with_cookies(&self, answer: &Answer) -> Self {
        assert_eq!(answer.status, 204, "{}", answer.text);
        let pairs: Vec<_> = parse_set_cookies(answer)
            .into_iter()
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        assert_eq!(pairs.len(), 2);
        Self { app: self.app, cookies: pairs.join("; ") }
    }

    async fn send(&self, method: Method, path: &str, headers: Headers<'_>, body: Value) -> Answer {
        let request = self.app.request(method, path).header("cookie", &self.cookies);
        Answer::of(with_headers(request, headers).json(&body)).await
    }

    async fn me(&self) -> Answer {
        Answer::of(self.app.request(Method::GET, "/users/me").header("cookie", &self.cookies)).await
    }

    async fn change_name(&self, headers: Headers<'_>) -> Answer {
        self.send(Method::PATCH, "/users/me", headers, json!({ "full_name": "Ada" })).await
    }
}

async fn login(app: &TestApp, email: &str, headers: Headers<'_>) -> Answer {
    let form = app.form("/auth/login?delivery=cookie", &[("username", email), ("password", PASSWORD)]);
    Answer::of(with_headers(form, headers)).await
}

#[tokio::test]
async fn smoke_a_browser_receives_its_tokens_in_cookies() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let answer = login(&app, &user.email, OWN_PAGE).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""));
    let cookies = parse_set_cookies(&answer);
    let names: Vec<_> = cookies.iter().map(|cookie| cookie.name.as_str()).collect();
    assert_eq!(names, ["access_token", "refresh_token"]);
    let access = attributes(&["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=1800"]);
    assert_eq!(cookies[0].attributes, access, "not Secure without TLS");
    let refresh = attributes(&["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=2592000"]);
    assert_eq!(cookies[1].attributes, refresh);
    assert_eq!(cookies[1].value.len(), 64);

    let me = Browser::of(&app, &user).await.me().await;
    assert_eq!((me.status.as_u16(), &me.body["id"]), (200, &json!(user.id)));
}

#[tokio::test]
async fn with_tls_the_cookies_are_secure_and_bound_to_the_host() {
    let app = TestApp::with(&["--public-url=https://api.example.com"]).await;
    let user = app.user().await;
    let answer = login(&app, &user.email, &[("origin", "https://api.example.com")]).await;
    let cookies = parse_set_cookies(&answer);
    let names: Vec<_> = cookies.iter().map(|cookie| cookie.name.as_str()).collect();
    assert_eq!(names, ["__Host-access_token", "__Host-refresh_token"]);
    let access = attributes(&["HttpOnly", "SameSite=Lax", "Secure", "Path=/", "Max-Age=1800"]);
    assert_eq!(cookies[0].attributes, access);
    assert!(cookies[1].attributes.is_superset(&attributes(&["HttpOnly", "SameSite=Strict", "Secure"])));

    let browser = Browser::of(&app, &user).await;
    assert_eq!(browser.me().await.status, 200);
    let unprefixed = Browser { app: &app, cookies: browser.cookies.replace("__Host-", "") };
    unprefixed.me().await.is_some_problem(401, "not_authenticated");
}

#[tokio::test]
async fn with_tls_a_plain_http_page_of_the_same_host_is_cross_site() {
    let app = TestApp::with(&["--public-url=https://api.example.com"]).await;
    let user = app.user().await;
    for host in ["api.example.com", "other.example.com:443"] {
        for (scheme, status) in [("http", 403), ("x", 403), ("https", 204)] {
            let origin = format!("{scheme}://{}", host.trim_end_matches(":443"));
            let headers: Headers<'_> =
                &[("host", host), ("origin", &origin), ("sec-fetch-site", "cross-site")];
            assert_eq!(login(&app, &user.email, headers).await.status, status, "{origin}");
        }
    }
}

#[tokio::test]
async fn smoke_only_own_and_configured_pages_may_change_data_by_cookie() {
    let app = TestApp::with(&[
        "--backend-cors-origins=https://app.example.com",
        "--frontend-url=https://front.example.com/app",
    ])
    .await;
    let user = app.user().await;
    let browser = Browser::of(&app, &user).await;
    let foreign: [Headers<'_>; 8] = [
        &[],
        &[("origin", "https://evil.example")],
        &[("origin", "https://app.example.com.evil.example")],
        &[("origin", "http://app.example.com")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none"), ("origin", "https://evil.example")],
    ];
    for headers in foreign {
        for (method, path) in [
            (Method::PATCH, "/users/me"),
            (Method::POST, "/users/me/password"),
            (Method::POST, "/auth/logout"),
            (Method::POST, "/auth/refresh"),
            (Method::DELETE, "/users/me"),
        ] {
            let answer = browser.send(method, path, headers, json!({})).await;
            answer.is_problem(403, "cross_site", "Cross-site request refused");
        }
        assert_eq!(browser.me().await.body["full_name"], Value::Null);
    }
    let own: [Headers<'_>; 5] = [
        OWN_PAGE,
        &[("origin", "https://app.example.com")],
        &[("origin", "https://app.example.com"), ("sec-fetch-site", "same-site")],
        &[("origin", "https://front.example.com")],
        &[("origin", app.url.as_str())],
    ];
    for headers in own {
        assert_eq!(browser.change_name(headers).await.status, 200, "{headers:?}");
    }
    assert_eq!(browser.me().await.body["full_name"], "Ada");
}

#[tokio::test]
async fn a_bearer_token_is_accepted_from_any_page() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let pages: [Headers<'_>; 2] =
        [&[], &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")]];
    for headers in pages {
        let request = app.request(Method::PATCH, "/users/me").bearer_auth(&user.token);
        let answer = Answer::of(with_headers(request, headers).json(&json!({ "full_name": "Ada" }))).await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn an_invalid_bearer_token_does_not_fall_back_to_the_cookie() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let browser = Browser::of(&app, &user).await;
    for bearer in ["Bearer nonsense", &format!("Bearer {}x", user.token)] {
        let headers: Headers<'_> = &[("authorization", bearer), ("sec-fetch-site", "same-origin")];
        browser.change_name(headers).await.is_some_problem(401, "invalid_token");
    }
    let bad = Browser { app: &app, cookies: browser.cookies.replace("access_token=", "access_token=x") };
    bad.me().await.is_some_problem(401, "invalid_token");
}

#[tokio::test]
async fn smoke_a_refresh_by_cookie_rotates_the_cookies() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let browser = Browser::of(&app, &user).await;
    let refresh =
        async |browser: &Browser<'_>| browser.send(Method::POST, "/auth/refresh", OWN_PAGE, json!({})).await;
    let answer = refresh(&browser).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""));
    let next = browser.with_cookies(&answer);
    assert_eq!(next.me().await.status, 200);
    let token = |browser: &Browser<'_>| browser.cookies.split_once("refresh_token=").unwrap().1.to_owned();
    assert_ne!(token(&browser), token(&next));
    let last = next.with_cookies(&refresh(&next).await);
    assert_ne!(token(&next), token(&last));
    // A used refresh token is accepted for 10 more seconds. After that, a replay of the first token revokes the session.
    app.sql("UPDATE refresh_tokens SET spent_at = spent_at - interval '11 seconds'").await;
    refresh(&browser).await.is_some_problem(401, "invalid_token");
    last.me().await.is_some_problem(401, "invalid_token");

    let anonymous = Browser { app: &app, cookies: String::new() };
    refresh(&anonymous).await.is_some_problem(401, "not_authenticated");
}

#[tokio::test]
async fn smoke_a_logout_removes_the_cookies() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for path in ["/auth/logout", "/auth/logout-all"] {
        let browser = Browser::of(&app, &user).await;
        let answer = browser.send(Method::POST, path, OWN_PAGE, json!({})).await;
        assert_eq!(answer.status, 204);
        let removed = parse_set_cookies(&answer);
        let pairs: Vec<_> =
            removed.iter().map(|cookie| (cookie.name.as_str(), cookie.value.as_str())).collect();
        assert_eq!(pairs, [("access_token", ""), ("refresh_token", "")]);
        // A browser removes a stored cookie only if the removal has the same path as the cookie.
        assert!(removed[0].attributes.is_superset(&attributes(&["Path=/", "Max-Age=0"])));
        assert!(removed[1].attributes.is_superset(&attributes(&["Path=/", "Max-Age=0"])));
        browser.me().await.is_some_problem(401, "invalid_token");
        let refresh = browser.send(Method::POST, "/auth/refresh", OWN_PAGE, json!({})).await;
        refresh.is_some_problem(401, "invalid_token");
    }
}

#[tokio::test]
async fn a_browser_can_log_out_after_its_access_token_has_expired() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let answer = login(&app, &user.email, OWN_PAGE).await;
    let refresh = &parse_set_cookies(&answer)[1];
    let browser = Browser { app: &app, cookies: format!("{}={}", refresh.name, refresh.value) };
    browser.send(Method::POST, "/auth/logout", &[], json!({})).await.is_some_problem(403, "cross_site");
    assert_eq!(browser.send(Method::POST, "/auth/logout", OWN_PAGE, json!({})).await.status, 204);
    let again = browser.send(Method::POST, "/auth/refresh", OWN_PAGE, json!({})).await;
    again.is_some_problem(401, "invalid_token");
    browser
        .send(Method::POST, "/auth/logout", OWN_PAGE, json!({}))
        .await
        .is_some_problem(401, "invalid_token");
}

#[tokio::test]
async fn a_foreign_page_cannot_sign_a_browser_in() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let foreign: [Headers<'_>; 3] =
        [&[], &[("origin", "https://evil.example")], &[("sec-fetch-site", "cross-site")]];
    for headers in foreign {
        let answer = login(&app, &user.email, headers).await;
        answer.is_problem(403, "cross_site", "Cross-site request refused");
        assert!(parse_set_cookies(&answer).is_empty());
    }
    let sessions = "SELECT count(*) FROM sessions";
    assert_eq!(column(&app.database, sessions).await, ["1"], "only the session of the user");
    let form = app.form("/auth/login", &[("username", user.email.as_str()), ("password", PASSWORD)]);
    let answer = Answer::of(with_headers(form, foreign[1])).await;
    assert_eq!(answer.status, 200, "a foreign page cannot read tokens in the body");
    assert!(parse_set_cookies(&answer).is_empty());
}
