//! `saas serve` as a process.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    eventually,
    process::{Running, production, run, saas, serving},
    servers::{TestDatabase, unique},
};

async fn start(args: &[&str], database: &TestDatabase) -> (Running, String) {
    let all = [&["serve", "--port", "0"], args].concat();
    serving(production(&all, database, &format!("s{}", unique())).await).await
}

#[tokio::test]
async fn smoke_serve_migrates_makes_the_admin_and_stops_in_order() {
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
    assert!(!again.output().contains("first admin created"), "there is one");
    again.signal("INT");
    assert_eq!(again.end().await.code(), Some(0));
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_end() {
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&[], &database).await;
    let body = json!({ "email": "a@example.com", "password": "correct horse" }).to_string();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /api/v1/auth/register HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Another request sees to it that the first has been taken up.
    reqwest::get(format!("http://{address}/api/v1/health")).await.unwrap();
    server.signal("TERM");
    server.says("stopping").await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(server.end().await.code(), Some(0));
}

#[tokio::test]
async fn readiness_ends_before_the_service() {
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&["--shutdown-delay", "300"], &database).await;
    let ready =
        || async { reqwest::get(format!("http://{address}/api/v1/health/ready")).await.unwrap().status() };
    assert_eq!(ready().await, 200);
    server.signal("TERM");
    eventually("it is not ready any more", || async { (ready().await == 503).then_some(()) }).await;
    assert_eq!(reqwest::get(format!("http://{address}/api/v1/health")).await.unwrap().status(), 200);
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0), "the second signal ends it at once");
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let database = TestDatabase::migrated().await;
    let (mut server, address) = start(&[], &database).await;
    let mut idle = TcpStream::connect(&address).await.unwrap();
    idle.write_all(b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 4096];
    assert!(idle.read(&mut buffer).await.unwrap() > 0);
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0));
}

#[tokio::test]
async fn one_line_a_request_and_no_secrets() {
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
    server.says("mine-1").await;
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
        (&status["path"], &status["request_id"]),
        (&json!("/api/v1/jobs/{id}/status"), &json!("mine-1"))
    );
    assert!(status["duration_ms"].is_number() && status["user_id"].is_i64());
    assert_eq!(
        (&status["service"], &status["version"]),
        (&json!("My Product"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(requests[3]["path"], "-");
}
