//! Requests that the HTTP library refuses, and the connections of refused requests.

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    http_limits::read_until_closed,
    support::{
        TestApp, eventually,
        process::{production_command, start_server},
        servers::{TestDatabase, unique},
    },
};

const HEALTH: &str = "GET /api/v1/health HTTP/1.1\r\nHost: x\r\n";

/// Sends bytes. Returns all bytes that the server sends until it closes the connection.
async fn send_and_read(address: &str, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(octets).await.unwrap();
    read_until_closed(stream).await
}

/// The last response of a connection, which must be a refusal.
struct LastResponse<'a> {
    status: u16,
    head: &'a str,
    body: Value,
}

impl<'a> LastResponse<'a> {
    fn of(received: &'a str) -> Self {
        let start = received.rfind("HTTP/1.1 4").unwrap_or_else(|| panic!("no refusal: {received:?}"));
        let (head, body) = received[start..].split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(find_header(head, "content-length"), Some(body.len().to_string().as_str()), "{received}");
        Self { status, head, body: serde_json::from_str(body).unwrap() }
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        find_header(self.head, name)
    }
}

/// Returns the value of a header. Panics if the header is repeated.
fn find_header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut values = lines.filter(|(other, _)| *other == name).map(|(_, value)| value);
    let value = values.next();
    assert!(values.next().is_none(), "{name} is repeated: {head}");
    value
}

/// Requests that the HTTP library refuses, with the status and the code of the response.
fn unparsable_requests() -> Vec<(Vec<u8>, u16, &'static str)> {
    let malformed = [
        "nonsense\r\n\r\n".to_owned(),
        "GET  /api/v1/health HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "GET /api/v1/health\r\nHost: x\r\n\r\n".into(),
        "GET /api/v1/health HTTP/1.2\r\nHost: x\r\n\r\n".into(),
        "GET /api/v1/health HTTP/2.0\r\nHost: x\r\n\r\n".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".into(),
        format!("{HEALTH}no colon\r\n\r\n"),
        format!("{HEALTH}x y: z\r\n\r\n"),
        format!("{HEALTH}x : z\r\n\r\n"),
        format!("{HEALTH}x: y\r\n z\r\n\r\n"),
        format!("{HEALTH}x: y\0z\r\n\r\n"),
        format!("{HEALTH}content-length: abc\r\n\r\n"),
        format!("{HEALTH}content-length: +1\r\n\r\nx"),
        format!("{HEALTH}content-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
        format!("{HEALTH}transfer-encoding: gzip\r\n\r\n"),
        format!("{HEALTH}transfer-encoding: chunked, gzip\r\ncontent-length: 1\r\n\r\nx"),
        "POST /api/v1/health HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        // The second request of a connection.
        format!("{HEALTH}\r\nnonsense\r\n\r\n"),
    ];
    let malformed = malformed.into_iter().map(|text| (text.into_bytes(), 400, "malformed"));
    let long = "x".repeat(40_000);
    let large = [
        (format!("{HEALTH}x: {long}\r\n\r\n"), 431, "head_too_large"),
        (format!("{HEALTH}{}\r\n", "x: y\r\n".repeat(101)), 431, "head_too_large"),
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 414, "target_too_long"),
        (format!("GET /api/v1/health?{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 414, "target_too_long"),
        // The client never sends the rest of the head.
        (format!("{HEALTH}x: {long}"), 431, "head_too_large"),
        (format!("GET /{long}"), 414, "target_too_long"),
        (format!("{HEALTH}\r\nGET /{long}"), 414, "target_too_long"),
    ];
    malformed.chain(large.map(|(text, status, code)| (text.into_bytes(), status, code))).collect()
}

#[tokio::test]
async fn smoke_an_unparsable_request_gets_a_complete_problem_response() {
    let app = TestApp::with(&["--public-url=https://api.example.com"]).await;
    let address = app.url.strip_prefix("http://").unwrap();
    for (octets, status, code) in unparsable_requests() {
        let received = send_and_read(address, &octets).await;
        let refusal = LastResponse::of(&received);
        assert_eq!((refusal.status, &refusal.body["code"]), (status, &Value::from(code)), "{received}");
        assert_eq!(refusal.body["status"], status);
        assert_eq!(refusal.header("content-type"), Some("application/problem+json"));
        let id = refusal.header("x-request-id").unwrap();
        assert_eq!((id.len(), &refusal.body["request_id"]), (36, &Value::from(id)));
        assert_eq!(refusal.header("connection"), Some("close"));
        assert_eq!(refusal.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(refusal.header("cache-control"), Some("no-store"));
        assert!(refusal.header("strict-transport-security").is_some() && refusal.header("date").is_some());
    }
}

#[tokio::test]
async fn an_unparsable_head_request_gets_no_body() {
    let app = TestApp::start().await;
    let address = app.url.strip_prefix("http://").unwrap();
    let long = "x".repeat(40_000);
    for (request, status) in [
        ("HEAD /api/v1/health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n".to_owned(), "400"),
        (format!("HEAD /api/v1/health HTTP/1.1\r\nHost: x\r\nx: {long}\r\n\r\n"), "431"),
        (format!("HEAD /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "414"),
    ] {
        let received = send_and_read(address, request.as_bytes()).await;
        assert!(received.starts_with(&format!("HTTP/1.1 {status} ")), "{received}");
        let (head, body) = received.split_once("\r\n\r\n").unwrap();
        let length: usize = find_header(head, "content-length").unwrap().parse().unwrap();
        assert!(length > 0 && body.is_empty(), "{received}");
    }
}

#[tokio::test]
async fn unparsable_requests_are_logged() {
    let database = TestDatabase::migrated().await;
    let command = production_command(&["serve", "--port", "0"], &database, &format!("r{}", unique())).await;
    let (server, address) = start_server(command).await;
    for (octets, status, _) in unparsable_requests() {
        let received = send_and_read(&address, &octets).await;
        let id = LastResponse::of(&received).header("x-request-id").unwrap().to_owned();
        let line = eventually("the refusal is logged", || async {
            let output = server.output();
            let (lines, _) = output.rsplit_once('\n')?;
            lines.lines().find(|line| line.contains(&id)).map(str::to_owned)
        })
        .await;
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["message"], &line["status"]), (&Value::from("request"), &Value::from(status)));
        assert_eq!((&line["method"], &line["path"]), (&Value::from("-"), &Value::from("-")));
        assert_eq!((&line["request_id"], &line["client_address"]), (&Value::from(id), &"127.0.0.1".into()));
    }
}

#[tokio::test]
async fn a_response_before_the_body_was_read_closes_the_connection() {
    let app = TestApp::start().await;
    let address = app.url.strip_prefix("http://").unwrap();
    let json = "content-type: application/json\r\n";
    for (target, headers, status) in [
        ("POST /api/v1/auth/register", "content-type: text/plain\r\ncontent-length: 20\r\n", 415),
        ("POST /api/v1/auth/register", "content-type: text/plain\r\ntransfer-encoding: chunked\r\n", 415),
        (
            "POST /api/v1/auth/register",
            &*format!("{json}content-encoding: gzip\r\ncontent-length: 20\r\n"),
            415,
        ),
        ("POST /api/v1/auth/register", &*format!("{json}content-length: 999999\r\n"), 413),
        ("POST /api/v1/users/me/password", &*format!("{json}content-length: 20\r\n"), 401),
        ("POST /api/v1/nothing", "content-length: 20\r\n", 404),
        ("PUT /api/v1/health", "content-length: 20\r\n", 405),
        ("POST /api/v1/auth/register", &*format!("Host: y\r\n{json}content-length: 20\r\n"), 400),
    ] {
        for expect in ["", "expect: 100-continue\r\n"] {
            let head = format!("{target} HTTP/1.1\r\nHost: x\r\n{headers}{expect}\r\n");
            let received = send_and_read(address, head.as_bytes()).await;
            assert!(received.starts_with("HTTP/1.1 4"), "the body is not asked for: {received}");
            let refusal = LastResponse::of(&received);
            assert_eq!((refusal.status, refusal.header("connection")), (status, Some("close")), "{received}");
        }
    }
}

#[tokio::test]
async fn a_refused_request_whose_body_is_read_keeps_the_connection() {
    let app = TestApp::start().await;
    let address = app.url.strip_prefix("http://").unwrap();
    let invalid = "POST /api/v1/auth/register HTTP/1.1\r\nHost: x\r\ncontent-type: application/json\r\n";
    for first in [
        format!("{invalid}content-length: 2\r\n\r\n{{}}"),
        format!("{invalid}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"),
        "GET /api/v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "POST /api/v1/nothing HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n".into(),
    ] {
        let received =
            send_and_read(address, format!("{first}{HEALTH}connection: close\r\n\r\n").as_bytes()).await;
        assert!(received.starts_with("HTTP/1.1 4") && received.contains("HTTP/1.1 200"), "{received}");
        assert_eq!(received.matches("connection: close").count(), 1, "{received}");
    }
}
