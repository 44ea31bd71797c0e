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
    let deep = "[".repeat(100_000);
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

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let large = format!("{{\"email\":\"{}\"}}", "a".repeat(1024 * 1024));
    let register = || app.request(Method::POST, "/auth/register").header("content-type", "application/json");
    Answer::of(register().body(large.clone())).await.is_problem(
        413,
        "too_large",
        "Request body is larger than 1048576 bytes",
    );
    // Without a Content-Length header.
    let parts: Vec<_> =
        large.as_bytes().chunks(8_192).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
    let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    Answer::of(register().body(stream)).await.is_some_problem(413, "too_large");
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
