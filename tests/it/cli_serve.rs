//! `saas serve` as a process.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    eventually,
    process::{Running, production_command, run, saas, start_server},
    servers::{TestDatabase, unique},
};

async fn start(args: &[&str], database: &TestDatabase) -> (Running, String) {
    let all = [&["serve", "--port", "0"], args].concat();
    start_server(production_command(&all, database, &format!("s{}", unique())).await).await
}

#[tokio::test]
async fn smoke_serve_migrates_creates_the_admin_and_shuts_down() {
    let database = TestDatabase::empty().await;
    let (mut server, address) = start(&["--migrate"], &database).await;
    assert!(server.output().contains("first admin created"));
    let port = address.rsplit(':').next().unwrap();
    assert!(run(saas(&["healthcheck", "--port", port])).await.succeeded().stdout.contains("healthy"));
    let client = reqwest::Client::new();
    let form = [("username", "admin@example.com"), ("password", "a password of ours")];
    let login = client.post(format!("http://{address}/api/v1/auth/login")).form(&form).send().await.unwrap();
    assert_eq!(login.status(), 200);
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0));

    let (mut again, _) = start(&[], &database).await;
    assert!(!again.output().contains("first admin created"), "the admin exists");
    again.signal("INT");
    assert_eq!(again.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_running_request_is_finished_before_shutdown() {
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&[], &database).await;
    let body = json!({ "email": "a@example.com", "password": "correct horse" }).to_string();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /api/v1/auth/register HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // After this response, the server has accepted the first connection too.
    reqwest::get(format!("http://{address}/api/v1/health")).await.unwrap();
    server.signal("TERM");
    server.wait_for_output("stopping").await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 201"), "{response}");
    assert_eq!(server.end().await.code(), Some(0));
}

#[tokio::test]
async fn at_shutdown_readiness_fails_before_the_port_is_closed() {
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&["--shutdown-delay-seconds", "300"], &database).await;
    let ready =
        || async { reqwest::get(format!("http://{address}/api/v1/health/ready")).await.unwrap().status() };
    assert_eq!(ready().await, 200);
    server.signal("TERM");
    eventually("it is not ready", || async { (ready().await == 503).then_some(()) }).await;
    assert_eq!(reqwest::get(format!("http://{address}/api/v1/health")).await.unwrap().status(), 200);
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0), "the second signal stops it at once");
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_shutdown() {
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&["--shutdown-timeout-seconds", "300"], &database).await;
    let mut idle = TcpStream::connect(&address).await.unwrap();
    idle.write_all(b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 4096];
    assert!(idle.read(&mut buffer).await.unwrap() > 0);
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0));
}

#[tokio::test]
async fn each_request_logs_one_line_without_secrets() {
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&["--project-name", "My Product"], &database).await;
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{address}/api/v1{path}");
    let body = json!({ "email": "a@example.com", "password": "correct horse" });
    client.post(url("/auth/register")).json(&body).send().await.unwrap();
    let form = [("username", "a@example.com"), ("password", "correct horse")];
    let login: Value =
        client.post(url("/auth/login")).form(&form).send().await.unwrap().json().await.unwrap();
    let token = login["access_token"].as_str().unwrap();
    let path = url("/jobs/0123456789abcdef0123456789abcdef/status?token=hunter2");
    client.get(path).bearer_auth(token).header("x-request-id", "mine-1").send().await.unwrap();
    client.get(url("/nothing/hunter2")).send().await.unwrap();
    server.wait_for_output("mine-1").await;
    server.signal("TERM");
    server.end().await;

    let output = server.output();
    for secret in
        ["correct horse", "hunter2", token, "0123456789abcdef0123456789abcdef", "a password of ours"]
    {
        assert!(!output.contains(secret), "{secret} is in {output}");
    }
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let requests: Vec<_> = lines.iter().filter(|line| line["message"] == "request").collect();
    assert_eq!(requests.len(), 4);
    let status = requests[2];
    assert_eq!((&status["method"], &status["status"]), (&json!("GET"), &json!(404)));
    assert_eq!(
        (&status["path"], &status["client_request_id"], &status["client_address"]),
        (&json!("/api/v1/jobs/{id}/status"), &json!("mine-1"), &json!("127.0.0.1"))
    );
    assert_eq!(status["request_id"].as_str().unwrap().len(), 36, "the server's own id");
    assert!(status["duration_ms"].is_number() && status["user_id"].is_i64());
    assert_eq!((&status["code"], &status["fields"]), (&json!("not_found"), &Value::Null));
    assert_eq!(
        (&status["service"], &status["version"]),
        (&json!("My Product"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(requests[3]["path"], "-");
}

/// Probes come every few seconds, so their requests are logged at `info` only if they fail.
#[tokio::test]
async fn successful_health_checks_are_logged_at_debug() {
    let database = TestDatabase::migrated().await;
    for (level, expected) in [("info", None), ("debug", Some("DEBUG"))] {
        let args = ["--shutdown-delay-seconds", "300", "--log-level", level];
        let (mut server, address) = start(&args, &database).await;
        let get = async |path: &str| {
            reqwest::get(format!("http://{address}/api/v1/health{path}")).await.unwrap().status()
        };
        for path in ["", "/live", "/db", "/redis", "/ready"] {
            assert_eq!(get(path).await, 200, "{path}");
        }
        server.signal("TERM");
        eventually("it is not ready", || async { (get("/ready").await == 503).then_some(()) }).await;
        server.wait_for_output("\"status\":503").await;
        server.signal("TERM");
        server.end().await;
        let output = server.output();
        let lines = output.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
        let requests: Vec<_> = lines.filter(|line| line["message"] == "request").collect();
        let succeeded: Vec<_> = requests.iter().filter(|line| line["status"] == 200).collect();
        assert_eq!(!succeeded.is_empty(), expected.is_some(), "{requests:#?}");
        for line in succeeded {
            let found = line["level"].as_str().map(str::to_uppercase);
            assert_eq!(found.as_deref(), expected, "{line}");
        }
        let failed = requests.iter().find(|line| line["status"] == 503).unwrap();
        assert_eq!(failed["path"], "/api/v1/health/ready");
        assert_eq!(failed["level"].as_str().map(str::to_uppercase).as_deref(), Some("INFO"));
    }
}

/// Sends one request and reads its response. Returns whether the connection stays open.
async fn send_request(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<bool> {
    stream.write_all(request).await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..read]);
        let text = std::str::from_utf8(&answer).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap().parse::<usize>();
        if body.len() == length.unwrap() {
            return Ok(!head.contains("connection: close"));
        }
    }
}

/// Sends requests over one connection until a response has `connection: close`. Counts the earlier responses in `answered`.
async fn send_until_closed(address: &str, request: &[u8], answered: &AtomicUsize) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    while send_request(&mut stream, request).await.expect("a request was lost") {
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn smoke_shutdown_under_load_loses_no_request() {
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&[], &database).await;
    let form = [("username", "admin@example.com"), ("password", "a password of ours")];
    let login = reqwest::Client::new().post(format!("http://{address}/api/v1/auth/login")).form(&form);
    let login: Value = login.send().await.unwrap().json().await.unwrap();
    let token = login["access_token"].as_str().unwrap();
    let head = format!("HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n");
    let requests =
        ["GET /api/v1/users/me", "POST /api/v1/jobs/example?name=x&duration=0", "GET /api/v1/health"];
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..24)
        .map(|n| {
            let request = format!("{} {head}", requests[n % 3]);
            let (address, answered) = (address.clone(), answered.clone());
            tokio::spawn(async move { send_until_closed(&address, request.as_bytes(), &answered).await })
        })
        .collect();
    eventually("it is busy", || async { (answered.load(Ordering::Relaxed) > 2_000).then_some(()) }).await;
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0), "{}", server.output());
    for client in clients {
        client.await.unwrap();
    }
}

/// Opens connections at the same time and sends a request on each. Returns how many requests succeeded and how many
/// failed.
async fn send_burst(address: &str, connections: usize) -> (usize, usize) {
    let request = b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let one = || async {
        match TcpStream::connect(address).await {
            Ok(mut stream) => send_request(&mut stream, request).await.is_ok(),
            Err(_) => false,
        }
    };
    let answers = join_all((0..connections).map(|_| one())).await;
    let answered = answers.iter().filter(|answered| **answered).count();
    (answered, connections - answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_2000_connections_is_served() {
    raise_open_file_limit();
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&[], &database).await;
    assert_eq!(send_burst(&address, 2_000).await, (2_000, 0));
    // A server with a low limit of open files serves the burst too.
    let command = production_command(&["serve", "--port", "0"], &database, &format!("s{}", unique())).await;
    let program = command.get_program().to_owned();
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 200 && exec \"$0\" \"$@\""]).arg(program).args(args).env_clear();
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (limited, address) = start_server(limited).await;
    assert!(limited.output().contains("200 open files"), "{}", limited.output());
    assert_eq!(send_burst(&address, 2_000).await, (2_000, 0));
    assert!(!limited.output().contains("\"level\":\"error\""), "{}", limited.output());
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0));
}

/// Raises the limit of open files of this process, which holds the client's end of each connection.
fn raise_open_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}
