use reqwest::Method;

use crate::support::{TestApp, app::Answer};

#[tokio::test]
async fn smoke_unknown_paths_and_methods_are_refused() {
    let app = TestApp::start().await;
    for path in ["/nothing", "/auth", "/jobs/x/y/z", "/%00"] {
        app.get(path, None).await.is_problem(404, "not_found", "Not Found");
    }
    Answer::of(app.at_root(Method::GET, "/nothing")).await.is_problem(404, "not_found", "Not Found");
    for (method, path, allow) in [
        (Method::PUT, "/users/me", "DELETE, GET, HEAD, PATCH"),
        (Method::GET, "/auth/login", "POST"),
        (Method::PUT, "/jobs/01a203c5281273d7a4f2f82fb51d54e8", "DELETE"),
        (Method::POST, "/health", "GET, HEAD"),
    ] {
        let answer = Answer::of(app.request(method, path)).await;
        answer.is_problem(405, "method_not_allowed", "Method Not Allowed");
        assert_eq!(answer.header("allow"), allow);
    }
}

#[tokio::test]
async fn equivalent_paths_reach_the_same_operation() {
    let app = TestApp::start().await;
    for path in ["/health/", "/health/db/", "/%68ealth", "/h%65alt%68/%64b", "/%68ealth/?x=%2F"] {
        assert_eq!(app.get(path, None).await.status, 200, "{path}");
    }
    assert_eq!(Answer::of(app.at_root(Method::GET, "/%64ocs/")).await.status, 200);
    for path in ["//health", "/health//", "/health//db", "/health%2Fdb", "/health%2f"] {
        app.get(path, None).await.is_problem(404, "not_found", "Not Found");
    }
    for path in ["//", "//api/v1/health", "/api//v1/health", "/api%2Fv1/health"] {
        Answer::of(app.at_root(Method::GET, path)).await.is_some_problem(404, "not_found");
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
                .header("access-control-request-headers", "authorization, traceparent"),
        )
    };
    for origin in ["https://app.example.com", "http://localhost:3000"] {
        let answer = preflight(origin).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin"), origin);
        assert_eq!(answer.header("access-control-allow-credentials"), "true");
        let allowed: Vec<_> = answer.header("access-control-allow-headers").split(", ").collect();
        for name in
            ["authorization", "baggage", "content-type", "idempotency-key", "if-match", "if-none-match"]
        {
            assert!(allowed.contains(&name), "{allowed:?}");
        }
        for name in ["sentry-trace", "traceparent", "tracestate", "x-request-id"] {
            assert!(allowed.contains(&name), "{allowed:?}");
        }
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            assert!(answer.header("access-control-allow-methods").contains(method));
        }
        let actual = Answer::of(app.request(Method::GET, "/users/me").header("origin", origin)).await;
        assert_eq!((actual.status.as_u16(), actual.header("access-control-allow-origin")), (401, origin));
        let exposed: Vec<_> = actual.header("access-control-expose-headers").split(", ").collect();
        for name in ["etag", "idempotency-replayed", "link", "location", "ratelimit", "ratelimit-policy"] {
            assert!(exposed.contains(&name), "{exposed:?}");
        }
        for name in ["retry-after", "www-authenticate", "x-request-id"] {
            assert!(exposed.contains(&name), "{exposed:?}");
        }
    }
    for unknown in ["https://evil.example.com", "http://app.example.com", "null"] {
        let answer = preflight(unknown).await;
        assert!(answer.headers.get("access-control-allow-origin").is_none());
        // The browser enforces CORS: the API answers the request, but without the header that lets a page read the response.
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
