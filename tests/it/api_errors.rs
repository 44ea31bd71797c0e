use reqwest::Method;
use serde_json::json;

use crate::support::{
    TestApp,
    app::{Answer, PASSWORD, fields},
};

#[tokio::test]
async fn smoke_unknown_paths_and_methods_are_refused() {
    let app = TestApp::start().await;
    for path in ["/nothing", "/auth", "/jobs/x/y/z", "/%00"] {
        app.get(path, None).await.is_problem(404, "not_found", "Not Found");
    }
    Answer::of(app.at_root(Method::GET, "/nothing")).await.is_problem(404, "not_found", "Not Found");
    for (method, path, allow) in [
        (Method::PUT, "/users/me", "DELETE, GET, PATCH"),
        (Method::GET, "/auth/login", "POST"),
        (Method::PUT, "/jobs/01a203c5281273d7a4f2f82fb51d54e8", "DELETE"),
        (Method::POST, "/health", "GET"),
    ] {
        let answer = Answer::of(app.request(method, path)).await;
        answer.is_problem(405, "method_not_allowed", "Method Not Allowed");
        assert_eq!(answer.header("allow"), allow);
    }
}

#[tokio::test]
async fn a_trailing_slash_is_ignored() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/health/", None).await.status, 200);
    assert_eq!(app.get("/health/db/", None).await.status, 200);
}

#[tokio::test]
async fn a_malformed_body_is_refused() {
    let app = TestApp::start().await;
    let register = || app.request(Method::POST, "/auth/register");
    let json = "application/json";
    for text in ["{", "nonsense", "{\"email\": }", "\u{feff}{}"] {
        let answer = Answer::of(register().header("content-type", json).body(text)).await;
        answer.is_some_problem(400, "malformed");
        assert!(answer.body["detail"].as_str().unwrap().contains("line 1"), "{}", answer.text);
    }
    let invalid_utf8 = Answer::of(register().header("content-type", json).body(vec![b'"', 0xff, b'"'])).await;
    invalid_utf8.is_some_problem(400, "malformed");
    let deep = "[".repeat(10_000);
    Answer::of(register().header("content-type", json).body(deep)).await.is_some_problem(400, "malformed");
    let empty = Answer::of(register().header("content-type", json)).await;
    assert_eq!(empty.invalid_fields(), fields(&[("body", "missing")]));
    for kind in ["text/plain", "application/xml", "multipart/form-data"] {
        Answer::of(register().header("content-type", kind).body("{}"))
            .await
            .is_some_problem(415, "unsupported_media_type");
    }
    Answer::of(register().body("{}")).await.is_some_problem(415, "unsupported_media_type");
    let charset = register().header("content-type", "application/json; charset=utf-8");
    let body = json!({ "email": "a@example.com", "password": PASSWORD }).to_string();
    assert_eq!(Answer::of(charset.body(body)).await.status, 201);
}

/// The limit of bodies, and of documents for `process-data`.
const LIMITS: [(&str, usize); 2] = [("/auth/register", 16 * 1024), ("/jobs/process-data", 64 * 1024)];

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for (path, limit) in LIMITS {
        let post = || {
            let request = app.request(Method::POST, path).header("content-type", "application/json");
            request.bearer_auth(&user.token)
        };
        let body = |bytes: usize| format!("{{\"text\":\"{}\"}}", "a".repeat(bytes - r#"{"text":""}"#.len()));
        let largest = Answer::of(post().body(body(limit))).await;
        assert_ne!(largest.status, 413, "{path}: {}", largest.text);
        let detail = format!("Request body is larger than {limit} bytes");
        Answer::of(post().body(body(limit + 1))).await.is_problem(413, "too_large", &detail);
        // Without a Content-Length header.
        Answer::of(post().body(chunked(&body(limit + 1)))).await.is_problem(413, "too_large", &detail);
    }
}

#[tokio::test]
async fn a_form_that_is_too_large() {
    let app = TestApp::start().await;
    let form =
        |bytes: usize| format!("username=a&password={}", "x".repeat(bytes - "username=a&password=".len()));
    let post = || {
        let request = app.request(Method::POST, "/auth/login");
        request.header("content-type", "application/x-www-form-urlencoded")
    };
    let limit = 16 * 1024;
    let largest = Answer::of(post().body(form(limit))).await;
    assert_ne!(largest.status, 413, "{}", largest.text);
    Answer::of(post().body(form(limit + 1))).await.is_some_problem(413, "too_large");
    Answer::of(post().body(chunked(&form(limit + 1)))).await.is_some_problem(413, "too_large");
}

fn chunked(text: &str) -> reqwest::Body {
    let parts: Vec<_> =
        text.as_bytes().chunks(8_192).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
    reqwest::Body::wrap_stream(futures_util::stream::iter(parts))
}

/// An object of almost `bytes` with unknown fields of these names.
fn unknown_fields(bytes: usize, name: impl Fn(usize) -> String) -> String {
    let mut text = String::from("{\"email\":0");
    for n in 0.. {
        let field = format!(",\"{}\":0", name(n));
        if text.len() + field.len() >= bytes {
            break;
        }
        text += &field;
    }
    text + "}"
}

/// Errors repeat parts of the request. The limits keep the response small for a large request.
#[tokio::test]
async fn the_size_of_an_answer_is_bounded() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let limit = LIMITS[0].1;
    let post = |path: &str, body: String| {
        let request = app.request(Method::POST, path).header("content-type", "application/json");
        Answer::of(request.bearer_auth(&user.token).body(body))
    };
    let reported = unknown_fields(930_098, |n| format!("{n:x}"));
    post("/auth/forgot-password", reported).await.is_some_problem(413, "too_large");

    let bodies = [
        unknown_fields(limit, |n| format!("{n:x}")),
        unknown_fields(limit, |n| format!("{n}{}", "x".repeat(200))),
        unknown_fields(limit, |n| format!("{n}{}", "\u{1f600}".repeat(65))),
        unknown_fields(limit, |n| format!("{n}{}", r"\u0001".repeat(45))),
        unknown_fields(limit, |n| format!("{n}{}", "x".repeat(12_000))),
        unknown_fields(limit, |_| "x".into()),
    ];
    for path in ["/auth/forgot-password", "/auth/register", "/users/me/password", "/auth/login/two-factor"] {
        for body in &bodies {
            let answer = post(path, body.clone()).await;
            answer.is_some_problem(422, "validation_error");
            is_short(&answer);
        }
    }
    // 20 at once get as little.
    let flood = (0..20).map(|_| post("/auth/forgot-password", bodies[0].clone()));
    for answer in futures_util::future::join_all(flood).await {
        assert_eq!(answer.body["errors"].as_array().unwrap().len(), 50);
        assert_eq!(answer.body["errors"][49]["type"], "too_many_errors");
        is_short(&answer);
    }

    let long = "x".repeat(12_000);
    for query in [
        format!("/users?sort={long}"),
        format!("/users?role={long}"),
        format!("/users?limit={long}"),
        format!("/users?search={long}"),
        format!("/users?{}", "limit=x&".repeat(1_500)),
        format!("/users/{long}"),
        format!("/jobs/{long}/status"),
        format!("/{long}"),
    ] {
        is_short(&app.get(&query, Some(&admin)).await);
    }
    for header in ["content-type", "authorization", "cookie", "origin", "x-request-id", "accept"] {
        let request = app.request(Method::POST, "/auth/forgot-password").body("{}");
        is_short(&Answer::of(request.header(header, long.as_str())).await);
    }
}

/// Fails unless an answer is short in all its parts.
#[track_caller]
fn is_short(answer: &Answer) {
    assert!(answer.status.is_client_error(), "{}", answer.status);
    let head: usize = answer.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    assert!(answer.text.len() < 32 * 1024 && head < 2_048, "{} and {head} bytes", answer.text.len());
    let chars = |text: &serde_json::Value| text.as_str().unwrap_or_default().chars().count();
    assert!(chars(&answer.body["detail"]) <= 600);
    let errors: Vec<_> = answer.body["errors"].as_array().into_iter().flatten().collect();
    assert!(errors.len() <= 50);
    for error in errors {
        assert!(chars(&error["msg"]) <= 200, "{error}");
        assert!(error["loc"].as_array().unwrap().iter().all(|step| chars(step) <= 64), "{error}");
    }
}

#[tokio::test]
async fn a_valid_request_id_of_the_client_is_kept() {
    let app = TestApp::start().await;
    let with = |id: &str| app.request(Method::GET, "/users/me").header("x-request-id", id.to_owned());
    for valid in ["abc-123", "01a203c5-2455-7245-83c9-d0620d1d44e7", "trace:1.2_3"] {
        let answer = Answer::of(with(valid)).await;
        assert_eq!(
            (answer.header("x-request-id"), answer.body["request_id"].as_str().unwrap()),
            (valid, valid)
        );
    }
    let long = "x".repeat(129);
    for invalid in ["", "with space", "semi;colon", "{json}", &long] {
        let answer = Answer::of(with(invalid)).await;
        assert_ne!(answer.header("x-request-id"), invalid);
        assert_eq!(answer.header("x-request-id").len(), 36);
    }
}

#[tokio::test]
async fn every_response_has_the_security_headers() {
    let app = TestApp::start().await;
    let paths = ["/api/v1/health", "/api/v1/users/me", "/nothing", "/docs", "/openapi.json"];
    for path in paths {
        let answer = Answer::of(app.at_root(Method::GET, path)).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        let permissions = answer.header("permissions-policy");
        for feature in ["camera", "geolocation", "microphone", "payment", "usb"] {
            assert!(permissions.split(", ").any(|off| off == format!("{feature}=()")), "{permissions}");
        }
        assert!(answer.header("content-security-policy").contains("default-src 'none'"));
        assert!(!answer.header("cache-control").is_empty());
        assert!(answer.headers.get("strict-transport-security").is_none(), "HSTS is for https only");
        assert!(answer.headers.get("server").is_none());
    }
    let https = TestApp::with(&["--public-url=https://api.example.com"]).await;
    assert!(https.get("/health", None).await.header("strict-transport-security").starts_with("max-age="));
}

#[tokio::test]
async fn cors_allows_only_the_configured_origins() {
    let app =
        TestApp::with(&[r#"--backend-cors-origins=["https://app.example.com/", "http://localhost:3000"]"#])
            .await;
    let preflight = |origin: &'static str| {
        let request = app.request(Method::OPTIONS, "/users/me").header("origin", origin);
        Answer::of(
            request
                .header("access-control-request-method", "GET")
                .header("access-control-request-headers", "authorization"),
        )
    };
    for origin in ["https://app.example.com", "http://localhost:3000"] {
        let answer = preflight(origin).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        assert!(answer.header("access-control-allow-headers").contains("authorization"));
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            assert!(answer.header("access-control-allow-methods").contains(method));
        }
        let actual = Answer::of(app.request(Method::GET, "/users/me").header("origin", origin)).await;
        assert_eq!((actual.status.as_u16(), actual.header("access-control-allow-origin")), (401, origin));
        assert_eq!(actual.header("access-control-expose-headers"), "x-request-id, retry-after");
    }
    for unknown in ["https://evil.example.com", "http://app.example.com", "null"] {
        let answer = preflight(unknown).await;
        assert!(answer.headers.get("access-control-allow-origin").is_none());
        // The browser refuses it, not the API: requests from pages of the API's own origin have an Origin header too.
        let actual = Answer::of(app.request(Method::GET, "/health").header("origin", unknown)).await;
        assert_eq!(actual.status, 200);
        assert!(actual.headers.get("access-control-allow-origin").is_none());
        assert!(actual.headers.get_all("vary").iter().any(|vary| vary == "origin"));
    }
}

#[tokio::test]
async fn an_internal_error_does_not_reveal_its_cause() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.sql("ALTER TABLE users RENAME COLUMN full_name TO name").await;
    let answer = app.get("/users/me", Some(&user)).await;
    answer.is_problem(500, "internal_error", "Internal Server Error");
    assert!(!answer.text.contains("full_name") && !answer.text.contains("column"));
}
