//! Request bodies that are refused, and the size of the error responses.

use reqwest::Method;
use serde_json::json;

use crate::support::{
    TestApp,
    app::{Answer, PASSWORD, fields},
};

#[tokio::test]
async fn a_malformed_body_is_refused() {
    let app = TestApp::start().await;
    let register = || app.request(Method::POST, "/auth/register");
    let json = "application/json";
    for text in ["{", "nonsense", "{\"email\": }", "\u{feff}\u{feff}{}"] {
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
}

#[tokio::test]
async fn a_body_must_be_utf8_and_not_compressed() {
    let app = TestApp::start().await;
    let register = |kind: &str| app.request(Method::POST, "/auth/register").header("content-type", kind);
    let login = |kind: &str| app.request(Method::POST, "/auth/login").header("content-type", kind);
    for charset in ["latin1", "\"utf-16\"", "utf-8; charset=us-ascii"] {
        let json = register(&format!("application/json; charset={charset}")).body("{}");
        Answer::of(json).await.is_some_problem(415, "unsupported_media_type");
        let form = login(&format!("application/x-www-form-urlencoded;charset={charset}")).body("username=a");
        Answer::of(form).await.is_some_problem(415, "unsupported_media_type");
    }
    for coding in ["gzip", "zork", "identity, br"] {
        for request in [
            register("application/json").body("{}"),
            login("application/x-www-form-urlencoded").body("username=a&password=b"),
        ] {
            let answer = Answer::of(request.header("content-encoding", coding)).await;
            answer.is_some_problem(415, "unsupported_encoding");
            assert_eq!(answer.header("accept-encoding"), "identity");
        }
    }
    let body =
        |name: &str| json!({ "email": format!("{name}@example.com"), "password": PASSWORD }).to_string();
    for (name, kind, text) in [
        ("a", "application/json; charset=utf-8", body("a")),
        ("b", "application/json;charset=\"UTF-8\"", body("b")),
        ("c", "application/json", format!("\u{feff}{}", body("c"))),
    ] {
        let request = register(kind).header("content-encoding", "Identity").body(text);
        assert_eq!(Answer::of(request).await.status, 201, "{name}");
    }
    let empty = Answer::of(register("application/json").body("\u{feff}")).await;
    assert_eq!(empty.invalid_fields(), fields(&[("body", "missing")]));
    assert_eq!(empty.body["title"], "Unprocessable Content");
}

/// Operations and their limits of the request body in bytes: the default limit, the limit of documents, and the limit of
/// emails.
const BODY_LIMITS: [(&str, usize); 3] =
    [("/auth/register", 16 * 1024), ("/jobs/process-data", 64 * 1024), ("/jobs/send-email", 512 * 1024)];

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for (path, limit) in BODY_LIMITS {
        let post = || {
            let request = app.request(Method::POST, path).header("content-type", "application/json");
            request.bearer_auth(&user.token)
        };
        let body = |bytes: usize| format!("{{\"text\":\"{}\"}}", "a".repeat(bytes - r#"{"text":""}"#.len()));
        let largest = Answer::of(post().body(body(limit))).await;
        assert_ne!(largest.status, 413, "{path}: {}", largest.text);
        let detail = format!("Request body is larger than {limit} bytes");
        let refused = Answer::of(post().body(body(limit + 1))).await;
        refused.is_problem(413, "too_large", &detail);
        assert_eq!(refused.body["title"], "Content Too Large");
        // This request has no Content-Length header.
        Answer::of(post().body(chunked(&body(limit + 1)))).await.is_problem(413, "too_large", &detail);
    }
}

#[tokio::test]
async fn a_form_that_is_too_large_is_refused() {
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

/// Returns a JSON object of up to `bytes` bytes, with unknown fields.
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

/// An error response repeats parts of the request. The size of the response is limited, also for a large request.
#[tokio::test]
async fn the_size_of_an_error_response_is_limited() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let limit = BODY_LIMITS[0].1;
    let post = |path: &str, body: String| {
        let request = app.request(Method::POST, path).header("content-type", "application/json");
        Answer::of(request.bearer_auth(&user.token).body(body))
    };
    let too_large = unknown_fields(930_098, |n| format!("{n:x}"));
    post("/auth/forgot-password", too_large).await.is_some_problem(413, "too_large");

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
            assert_is_short(&answer);
        }
    }
    // The limit also applies to 20 concurrent requests.
    let flood = (0..20).map(|_| post("/auth/forgot-password", bodies[0].clone()));
    for answer in futures_util::future::join_all(flood).await {
        assert_eq!(answer.body["errors"].as_array().unwrap().len(), 50);
        assert_eq!(answer.body["errors"][49]["type"], "too_many_errors");
        assert_is_short(&answer);
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
        assert_is_short(&app.get(&query, Some(&admin)).await);
    }
    for header in ["content-type", "authorization", "cookie", "origin", "x-request-id", "accept"] {
        let request = app.request(Method::POST, "/auth/forgot-password").body("{}");
        assert_is_short(&Answer::of(request.header(header, long.as_str())).await);
    }
}

/// Asserts that a response to an invalid request is short in all its parts.
#[track_caller]
fn assert_is_short(answer: &Answer) {
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
