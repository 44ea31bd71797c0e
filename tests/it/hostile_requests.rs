//! Random requests over TCP. Each response must be well-formed, with a status below 500.

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    sample::{Index, select},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    task::block_in_place,
};

use crate::support::{
    TEST_TIMEOUT, TestApp,
    property::{property, text},
};

/// The cost of a request, relative to a case of a unit test.
const REQUEST_COST: u32 = 2;

/// Generates requests as bytes: whole requests, requests that are cut off, and random bytes.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method =
        select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X-Y"]);
    let target = select(vec![
        "/",
        "*",
        "/openapi.json",
        "/docs",
        "/api/v1/health",
        "/api/v1/auth/login",
        "/api/v1/auth/refresh",
        "/api/v1/auth/register",
        "/api/v1/users",
        "/api/v1/users/me",
        "/api/v1/users/me/sessions",
        "/api/v1/users/7",
        "/api/v1/jobs/example",
        "/api/v1/jobs/process-data",
        "/api/v1/admin/queues/default",
        "http://x/api/v1/users/me",
        "//",
        "/api/v1/../v1/health/",
    ]);
    let suffix = prop_oneof![
        3 => Just(String::new()),
        1 => text("? & = # / // %2F %61 %00 %ff .. ; limit offset name duration delivery cookie 1 -1", 6),
    ];
    let header = |names: &'static [&'static str]| {
        (select(names), header_value())
            .prop_map(|(name, value)| [name.as_bytes(), b": ", value.as_slice()].concat())
    };
    let header =
        prop_oneof![24 => header(HEADERS), 2 => header(FRAMING_HEADERS), 1 => vec(any::<u8>(), 0..20)];
    let body = prop_oneof![
        text(r#"{ } [ ] : , " null 1 1e999 "email" "password" "refresh_token" "name" \u0000 \ud800 a"#, 12)
            .prop_map(String::into_bytes),
        text("username password grant_type refresh_token = & % %00 %ff + a", 9).prop_map(String::into_bytes),
        vec(any::<u8>(), 0..40),
    ];
    let whole = (method, target, suffix, vec(header, 0..8), any::<bool>(), body).prop_map(
        |(method, target, suffix, headers, has_length, body)| {
            let mut request =
                format!("{method} {target}{suffix} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n")
                    .into_bytes();
            for header in headers {
                request.extend_from_slice(&header);
                request.extend_from_slice(b"\r\n");
            }
            if has_length {
                request.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
            }
            request.extend_from_slice(b"\r\n");
            request.extend_from_slice(&body);
            request
        },
    );
    let cut = (whole.clone(), any::<Index>()).prop_map(|(mut request, at)| {
        request.truncate(at.index(request.len()));
        request
    });
    prop_oneof![8 => whole, 1 => cut, 1 => vec(any::<u8>(), 0..60)]
}

const HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "access-control-request-method",
    "authorization",
    "content-encoding",
    "content-type",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "if-none-match",
    "origin",
    "range",
    "sec-fetch-site",
    "traceparent",
    "upgrade",
    "user-agent",
    "x-forwarded-for",
    "x-request-id",
];

/// Headers that determine the end or the target of a request. The server refuses most of their random values.
const FRAMING_HEADERS: &[&str] = &["content-length", "host", "transfer-encoding"];

fn header_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => select(vec![
            "application/json",
            "application/x-www-form-urlencoded",
            "application/json; charset=\"latin1",
            "chunked",
            "identity",
            "100-continue",
            "same-origin",
            "cross-site",
            "http://x",
            "Bearer x",
            "access_token=x; refresh_token=y",
            "gzip;q=0",
            "bytes=0-",
        ])
        .prop_map(|value| value.as_bytes().to_vec()),
        2 => text("Bearer , ; = : \" \\ * q=0 gzip utf-8 access_token __Host-access_token 127.0.0.1 [::1] 00-", 6)
            .prop_map(|value| value.replace(['\r', '\n'], "").into_bytes()),
        1 => vec(0x20..=0xff_u8, 0..20),
    ]
}

/// A response. Parsing it panics unless it is well-formed.
struct ParsedResponse<'a> {
    status: u16,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a [u8],
}

impl<'a> ParsedResponse<'a> {
    /// Parses the response at the beginning of `bytes`. A response to HEAD has no body. Returns the response and the
    /// bytes after it.
    fn read(bytes: &'a [u8], is_head: bool) -> (Self, &'a [u8]) {
        let end = bytes.windows(4).position(|octets| octets == b"\r\n\r\n").expect("the head is complete");
        let head = std::str::from_utf8(&bytes[..end]).expect("the head is text");
        let rest = &bytes[end + 4..];
        let (first, lines) = head.split_once("\r\n").unwrap_or((head, ""));
        let status = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
        let status =
            status.and_then(|rest| rest.get(..3)?.parse().ok()).expect("the first line has a status");
        let header = |line: &'a str| line.split_once(": ").or(line.strip_suffix(':').map(|name| (name, "")));
        let headers: Vec<_> =
            lines.lines().map(|line| header(line).expect("each line has a header")).collect();
        let mut response = Self { status, headers, body: b"" };
        let has_no_body = is_head || status < 200 || matches!(status, 204 | 304);
        let length = response.header("content-length").map(|text| text.parse::<usize>().unwrap());
        assert_eq!(
            response.header("transfer-encoding"),
            None,
            "no body of the tested operations is streamed"
        );
        let length = if has_no_body { 0 } else { length.expect("the body has a length") };
        assert!(length <= rest.len(), "the body is shorter than its length");
        response.body = &rest[..length];
        (response, &rest[length..])
    }

    /// Returns the value of a header. Panics if the header is repeated.
    fn header(&self, name: &str) -> Option<&'a str> {
        let mut values = self.headers.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value);
        let value = values.next();
        assert!(values.next().is_none(), "{name} is repeated");
        value
    }

    fn assert_valid(&self, is_head: bool) {
        let Self { status, .. } = self;
        assert!((100..500).contains(status), "{status}: {:?}", String::from_utf8_lossy(self.body));
        if *status >= 200 {
            assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()), "{status}");
        }
        if *status >= 400 {
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{status}");
        }
        if *status >= 400 && !is_head {
            let problem: Value = serde_json::from_slice(self.body).expect("a problem document is JSON");
            assert_eq!(problem["status"], *status);
            assert!(problem["code"].as_str().is_some_and(|code| !code.is_empty()), "{problem}");
            assert!(problem["detail"].is_string(), "{problem}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_response_is_well_formed_and_no_request_causes_an_internal_error() {
    let app = TestApp::start().await;
    let address = app.url.strip_prefix("http://").unwrap();
    let user = app.user().await;
    let inputs = (request(), any::<bool>());
    let send = async |request: &[u8], is_signed_in: bool| {
        let mut request = request.to_vec();
        // The header is inserted after the first line.
        let line = request.windows(2).position(|octets| octets == b"\r\n").filter(|_| is_signed_in);
        if let Some(at) = line {
            let header = format!("authorization: Bearer {}\r\n", user.token);
            request.splice(at + 2..at + 2, header.into_bytes());
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may close the connection before it has read the whole request.
        let _ = stream.write_all(&request).await;
        let _ = stream.shutdown().await;
        let mut received = Vec::new();
        // The server may also reset the connection.
        let _ = tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut received))
            .await
            .expect("the server does not close the connection");
        received
    };
    block_in_place(|| {
        property(REQUEST_COST, inputs, |(request, is_signed_in)| {
            let received = Handle::current().block_on(send(&request, is_signed_in));
            let is_head = request.starts_with(b"HEAD ");
            let mut rest = &received[..];
            while !rest.is_empty() {
                let (response, after) = ParsedResponse::read(rest, is_head);
                response.assert_valid(is_head);
                rest = after;
            }
        });
    });
    assert_eq!(app.get("/users/me", Some(&user)).await.status, 200);
}
