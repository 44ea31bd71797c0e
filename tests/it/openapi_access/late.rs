//! A change is refused if the permissions of its caller are revoked after the request has begun and before its transaction.

use saas::{
    jobs::ExampleTask,
    queue::{Origin, State},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// Each entry: a statement that revokes the permissions of the caller, and the status and code of the response.
const REVOCATIONS: &[(&str, u16, &str)] = &[
    ("UPDATE sessions SET revoked_at = now() WHERE user_id = {id}", 401, "invalid_token"),
    ("UPDATE users SET is_active = false WHERE id = {id}", 403, "inactive_user"),
    ("DELETE FROM users WHERE id = {id}", 401, "invalid_token"),
];
/// A further entry of [`REVOCATIONS`] for requests that only admins may send.
const DEMOTION: (&str, u16, &str) = ("UPDATE users SET role = 'user' WHERE id = {id}", 403, "forbidden");

const CONTINUE_RESPONSE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A request whose head was sent. The server waits for its body.
struct HeldRequest(TcpStream);

impl HeldRequest {
    async fn send(app: &TestApp, operation: &Operation, token: &str) -> Self {
        let address = app.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
            operation.method, operation.path
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server sends `100 Continue` when it starts to read the body, so the token is already verified.
        let mut interim = [0; CONTINUE_RESPONSE.len()];
        stream.read_exact(&mut interim).await.unwrap();
        assert_eq!(interim, CONTINUE_RESPONSE, "{}", operation.id);
        Self(stream)
    }

    /// Sends the body, and returns the status and the code of the response.
    async fn finish(mut self) -> (u16, String) {
        self.0.write_all(b"{}").await.unwrap();
        let mut response = String::new();
        self.0.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn a_request_is_refused_if_permissions_are_revoked_before_its_body_arrives() {
    let app = TestApp::start().await;
    let operations = secured_operations(&app).await;
    for operation in operations.iter().filter(|operation| operation.method != Method::GET) {
        let is_for_admins = ADMINS.contains(&&*operation.id);
        for (sql, status, code) in REVOCATIONS.iter().chain(is_for_admins.then_some(&DEMOTION)) {
            let caller = app.admin().await;
            let request = HeldRequest::send(&app, operation, &caller.token).await;
            app.sql(&sql.replace("{id}", &caller.id.to_string())).await;
            let answer = request.finish().await;
            assert_eq!(answer, (*status, (*code).to_owned()), "{} after {sql}", operation.id);
        }
    }
}

/// The cached identity does not expire during the test, so only the transaction of the change can refuse the request.
#[tokio::test]
async fn a_request_is_refused_if_permissions_are_revoked_before_its_transaction() {
    let app = TestApp::with(&["--identity-cache-ms=60000"]).await;
    let new_password = json!({ "current_password": PASSWORD, "new_password": "another good password" });
    let password = json!({ "password": PASSWORD });
    let code = json!({ "code": "123456" });
    let both = json!({ "password": PASSWORD, "code": "123456" });
    let own: &[(Method, &str, Value)] = &[
        (Method::PATCH, "/users/me", json!({ "full_name": "Mallory" })),
        (Method::POST, "/users/me/password", new_password),
        (Method::POST, "/users/me/email", json!({ "email": "new@example.com", "password": PASSWORD })),
        (Method::POST, "/users/me/deletion", password.clone()),
        (Method::DELETE, "/users/me", password.clone()),
        (Method::DELETE, "/users/me/sessions/{session}", Value::Null),
        (Method::POST, "/users/me/two-factor", password),
        (Method::POST, "/users/me/two-factor/confirm", code.clone()),
        (Method::POST, "/users/me/two-factor/disable", both.clone()),
        (Method::DELETE, "/users/me/two-factor", both),
        (Method::POST, "/users/me/two-factor/recovery-codes", code),
        (Method::POST, "/auth/logout-all", Value::Null),
        (Method::POST, "/invitations/accept", json!({ "token": "0" })),
        (Method::POST, "/users/me/invitations/1/accept", Value::Null),
        (Method::POST, "/users/me/invitations/1/decline", Value::Null),
    ];
    let admin: &[(Method, &str, Value)] = &[
        (Method::POST, "/users", json!({ "email": "ghost@example.com", "role": "admin" })),
        (Method::PATCH, "/users/{other}", json!({ "role": "admin" })),
        (Method::PATCH, "/users/{other}", json!({ "is_active": false })),
        (Method::DELETE, "/users/{other}", Value::Null),
        (Method::POST, "/users/{other}/invite", Value::Null),
        (Method::DELETE, "/users/{other}/sessions", Value::Null),
        (Method::DELETE, "/users/{other}/two-factor", Value::Null),
        (Method::PATCH, "/admin/queues/late", json!({ "paused": false })),
        (Method::POST, "/admin/queues/late/requeue", Value::Null),
        (Method::DELETE, "/admin/queues/late/jobs?status=queued", Value::Null),
        (Method::DELETE, "/admin/jobs/{job}", Value::Null),
        (Method::DELETE, "/jobs/{job}", Value::Null),
    ];
    app.app.queue.pause("late").await.unwrap();
    let job = ExampleTask { name: "late".into(), duration: 0 };
    let job = app.app.queue.enqueue(&job, Origin::default()).await.unwrap();
    let other = app.user().await;
    // A second admin exists, so that no change is refused because it removes the last admin.
    app.admin().await;
    for (changes, is_for_admins) in [(own, false), (admin, true)] {
        for (method, path, body) in changes {
            for (sql, status, code) in REVOCATIONS.iter().chain(is_for_admins.then_some(&DEMOTION)) {
                let caller = app.admin().await;
                let sessions = app.get("/users/me/sessions", Some(&caller)).await.body;
                let path = path
                    .replace("{other}", &other.id.to_string())
                    .replace("{job}", &job)
                    .replace("{session}", sessions[0]["id"].as_str().unwrap());
                app.database.sql(&sql.replace("{id}", &caller.id.to_string())).await;
                let mut request = app.request(method.clone(), &path).bearer_auth(&caller.token);
                if !body.is_null() {
                    request = request.json(body);
                }
                let answer = Answer::of(request).await;
                let found = (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default());
                assert_eq!(found, (*status, *code), "{method} {path} after {sql}: {}", answer.text);
            }
        }
    }
    assert!(app.app.queue.queue("late").await.unwrap().unwrap().paused);
    assert_eq!(app.app.queue.status(&job).await.unwrap().unwrap().state, State::Queued);
    let other = app.get("/users/me", Some(&other)).await.body;
    assert_eq!((&other["role"], &other["is_active"]), (&json!("user"), &json!(true)));
}
