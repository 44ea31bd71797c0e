//! The hosts that the server serves. Requests for other hosts are refused, so that a web page cannot reach
//! the server under the host name of the page (DNS rebinding).

use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    http_limits::read_until_closed,
    support::{
        TestApp,
        app::{Answer, PASSWORD},
        process::{production_command, run, saas, start_server},
        servers::{TestDatabase, unique},
    },
};

const SAMPLE_PATHS: [&str; 7] = [
    "/api/v1/health",
    "/api/v1/users",
    "/docs",
    "/openapi.json",
    "/account/reset-password",
    "/dev/mail",
    "/no/such/page",
];

async fn get(app: &TestApp, path: &str, host: &str) -> Answer {
    Answer::of(app.at_root(Method::GET, path).header("host", host)).await
}

/// Sends the head of a request, followed by `Connection: close`. Returns the response.
async fn send_raw(app: &TestApp, head: &str) -> String {
    let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn development_serves_only_loopback_hosts() {
    let app = TestApp::dev().await;
    let foreign = [
        "rebind.evil.example",
        "localhost.evil.example:8000",
        "127.0.0.1.evil.example",
        "203.0.113.9",
        "192.168.0.7:8000",
    ];
    for host in foreign {
        for path in SAMPLE_PATHS {
            let answer = get(&app, path, host).await;
            answer.is_some_problem(421, "unknown_host");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
        }
    }
    for host in ["evil.example@localhost", "localhost@evil.example"] {
        get(&app, "/docs", host).await.is_some_problem(400, "invalid_host");
    }
    for host in ["localhost:3000", "LOCALHOST", "app.localhost", "127.0.0.1:8000", "[::1]:8000", "localhost."]
    {
        assert_eq!(get(&app, "/api/v1/health", host).await.status, 200, "{host}");
    }
    let login = app.form("/auth/login", &[("username", "a@b.example"), ("password", "x")]);
    Answer::of(login.header("host", "evil.example")).await.is_some_problem(421, "unknown_host");
    let preflight = app.request(Method::OPTIONS, "/users").header("host", "evil.example");
    let preflight =
        preflight.header("origin", "http://localhost:3000").header("access-control-request-method", "GET");
    Answer::of(preflight).await.is_some_problem(421, "unknown_host");
}

#[tokio::test]
async fn a_request_with_a_missing_repeated_or_invalid_host_is_refused() {
    let app = TestApp::dev().await;
    for (head, status) in [
        ("GET /api/v1/health HTTP/1.1\r\nHost: localhost", "200"),
        ("GET http://localhost/api/v1/health HTTP/1.1\r\nHost: localhost", "200"),
        // The host of the request target counts, not the `Host` header (RFC 9112 section 3.2.2).
        ("GET http://localhost/api/v1/health HTTP/1.1\r\nHost: evil.example", "200"),
        ("GET http://evil.example/api/v1/health HTTP/1.1\r\nHost: localhost", "421"),
        ("GET /api/v1/health HTTP/1.1\r\nX-None: 1", "400"),
        ("GET http://localhost/api/v1/health HTTP/1.1\r\nX-None: 1", "400"),
        ("GET /api/v1/health HTTP/1.1\r\nHost: ", "400"),
        ("GET /api/v1/health HTTP/1.1\r\nHost: localhost/x", "400"),
        ("GET /api/v1/health HTTP/1.1\r\nHost: localhost, localhost", "400"),
        ("GET /api/v1/health HTTP/1.1\r\nHost: user@localhost", "400"),
        ("GET /api/v1/health HTTP/1.1\r\nHost: localhost:http", "400"),
        ("GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nHost: localhost", "400"),
        ("GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example", "400"),
        ("GET /api/v1/health HTTP/1.1\r\nHost: evil.example\r\nHost: localhost", "400"),
        ("GET http://user@localhost/api/v1/health HTTP/1.1\r\nHost: localhost", "400"),
        ("GET http://localhost/api/v1/health HTTP/1.1\r\nHost: a b", "400"),
        ("GET /api/v1/health HTTP/1.0\r\nHost: localhost\r\nHost: localhost", "400"),
        ("GET /api/v1/health HTTP/1.0\r\nHost: localhost", "200"),
        ("GET /api/v1/health HTTP/1.0\r\nX-None: 1", "421"),
    ] {
        let response = send_raw(&app, head).await;
        assert_eq!(response.split(' ').nth(1), Some(status), "{head}: {response}");
        assert_eq!(response.contains("invalid_host"), status == "400", "{response}");
    }
}

/// A login that sets cookies is accepted if its `Origin` header names the host of the request. For an absolute request
/// target, this is the host of the target, not the host of the `Host` header.
#[tokio::test]
async fn the_host_of_an_absolute_target_is_compared_with_the_origin() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let body = format!("username={}&password={}", user.email, PASSWORD.replace(' ', "+"));
    for (host, origin, status) in [
        ("evil.example", "http://api.example.com", "204"),
        ("evil.example", "http://evil.example", "403"),
        ("api.example.com", "http://api.example.com", "204"),
    ] {
        let head = format!(
            "POST http://api.example.com/api/v1/auth/login?delivery=cookie HTTP/1.1\r\nHost: {host}\r\n\
             Origin: {origin}\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(app.url.strip_prefix("http://").unwrap()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let response = read_until_closed(stream).await;
        assert_eq!(response.split(' ').nth(1), Some(status), "{host} {origin}: {response}");
    }
}

#[tokio::test]
async fn outside_of_development_any_host_is_served_unless_hosts_are_configured() {
    let app = TestApp::start().await;
    assert_eq!(get(&app, "/api/v1/health", "anything.example").await.status, 200);
    assert!(send_raw(&app, "GET /api/v1/health HTTP/1.1\r\nX-None: 1").await.starts_with("HTTP/1.1 400"));
    assert!(send_raw(&app, "GET /api/v1/health HTTP/1.0\r\nX-None: 1").await.starts_with("HTTP/1.0 200"));

    let app = TestApp::with(&[
        "--allowed-hosts=api.example.com., [2001:db8::1]",
        "--public-url=http://www.example.com.",
    ])
    .await;
    let own = app.url.strip_prefix("http://").unwrap().to_owned();
    for host in ["API.example.com", "api.example.com:8443", "[2001:db8::1]", "www.example.com", &own] {
        assert_eq!(get(&app, "/api/v1/health", host).await.status, 200, "{host}");
    }
    for host in ["example.com", "x.api.example.com", "localhost", "127.0.0.2", "[::1]"] {
        for path in SAMPLE_PATHS {
            get(&app, path, host).await.is_some_problem(421, "unknown_host");
        }
    }
}

#[tokio::test]
async fn serve_refuses_unlisted_hosts_but_answers_the_healthcheck_command() {
    let database = TestDatabase::migrated().await;
    let command = async |hosts: &str| {
        let args = ["serve", "--port", "0"];
        let mut command = production_command(&args, &database, &format!("h{}", unique())).await;
        command.env("ALLOWED_HOSTS", hosts);
        command
    };
    let (_server, address) = start_server(command(r#"["api.example.com"]"#).await).await;
    let get = |host: &'static str| {
        reqwest::Client::new().get(format!("http://{address}/api/v1/health")).header("host", host).send()
    };
    assert_eq!(get("api.example.com").await.unwrap().status(), 200);
    assert_eq!(get("evil.example").await.unwrap().status(), 421);
    let port = address.rsplit(':').next().unwrap();
    run(saas(&["healthcheck", "--port", port])).await.succeeded();

    for bad in ["*", "https://api.example.com", "api.example.com:443", "[]"] {
        run(command(bad).await).await.failed(1, &["ALLOWED_HOSTS"]);
    }
}
