//! Security events in the log. Each event contains the client, and the account if the request has one. No event contains
//! a secret.

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::{
    app::{Answer, PASSWORD, SECRET},
    authenticator::Authenticator,
    process::{Running, production_command, start_server},
    servers::{TestDatabase, unique},
};

const ADA: &str = "ada@example.com";
const STRANGER: &str = "stranger@example.com";
const ADMIN: &str = "admin@example.com";
const ADMIN_PASSWORD: &str = "a password of ours";
const WRONG_PASSWORD: &str = "wrong horse battery";
const CLIENT_ADDRESS: &str = "203.0.113.7";

/// A running `saas serve` with production settings. The tests connect as the proxy in front of it.
struct TestServer {
    process: Running,
    url: String,
    client: Client,
}

impl TestServer {
    async fn start(database: &TestDatabase, settings: &[(&str, &str)]) -> Self {
        let prefix = format!("e{}", unique());
        let mut command = production_command(&["serve", "--port", "0"], database, &prefix).await;
        command.env("TRUSTED_PROXIES", "1").envs(settings.iter().copied());
        let (process, address) = start_server(command).await;
        Self { process, url: format!("http://{address}/api/v1"), client: Client::new() }
    }

    async fn send(&self, method: Method, path: &str, token: &str, body: Value) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        request =
            request.header("x-forwarded-for", CLIENT_ADDRESS).header("x-request-id", "forged-by-client");
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        Answer::of(request).await
    }

    async fn log_in(&self, email: &str, password: &str) -> Answer {
        let request = self.client.post(format!("{}/auth/login", self.url));
        let request =
            request.header("x-forwarded-for", CLIENT_ADDRESS).header("x-request-id", "forged-by-client");
        Answer::of(request.form(&[("username", email), ("password", password)])).await
    }

    /// Stops the process and returns its log lines.
    async fn stop(mut self) -> Vec<Value> {
        self.process.signal("TERM");
        self.process.wait_for_output("\"stopped\"").await;
        assert_eq!(self.process.end().await.code(), Some(0));
        let output = self.process.output();
        output.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}

fn text_field<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field].as_str().unwrap_or_else(|| panic!("{field} is not in {body}"))
}

fn security_events(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["target"] == "saas::security").collect()
}

#[tokio::test]
async fn smoke_each_refusal_is_one_event_with_client_and_account() {
    let database = TestDatabase::migrated().await;
    let served = TestServer::start(&database, &[("ALLOWED_HOSTS", "api.example.com")]).await;
    let post = |path: &'static str, token: &str, body: Value| {
        let token = token.to_owned();
        let served = &served;
        async move { served.send(Method::POST, path, &token, body).await }
    };
    let new = json!({ "email": ADA, "password": PASSWORD });
    let ada = post("/auth/register", "", new.clone()).await.body["id"].as_i64().unwrap();
    post("/auth/register", "", new).await.is_some_problem(400, "email_taken");
    served.log_in(ADA, WRONG_PASSWORD).await.is_some_problem(401, "bad_credentials");
    served.log_in(STRANGER, WRONG_PASSWORD).await.is_some_problem(401, "bad_credentials");
    let login = served.log_in(ADA, PASSWORD).await.body;
    let (token, refresh_token) =
        (text_field(&login, "access_token"), json!({ "refresh_token": login["refresh_token"] }));
    served.send(Method::GET, "/users", token, Value::Null).await.is_some_problem(403, "forbidden");
    let change = json!({ "current_password": WRONG_PASSWORD, "new_password": "another horse battery" });
    post("/users/me/password", token, change).await.is_some_problem(400, "wrong_password");
    let link = json!({ "token": "0".repeat(64), "password": "another horse battery" });
    post("/auth/reset-password", "", link).await.is_some_problem(400, "invalid_link");
    let code = json!({ "challenge_token": "0".repeat(64), "code": "123456" });
    post("/auth/login/two-factor", "", code.clone()).await.is_some_problem(400, "invalid_code");
    post("/auth/login/two-factor?delivery=cookie", "", code).await.is_some_problem(403, "cross_site");
    assert_eq!(post("/auth/refresh", "", refresh_token.clone()).await.status, 200);
    database.sql("UPDATE refresh_tokens SET spent_at = spent_at - interval '1 minute'").await;
    post("/auth/refresh", "", refresh_token).await.is_some_problem(401, "invalid_token");
    let admin = served.log_in(ADMIN, ADMIN_PASSWORD).await.body;
    let paused = json!({ "paused": true });
    let queue =
        served.send(Method::PATCH, "/admin/queues/mine", text_field(&admin, "access_token"), paused).await;
    assert_eq!(queue.status, 200, "{}", queue.text);
    let rebound = served.client.get(format!("{}/health", served.url)).header("host", "evil.example");
    Answer::of(rebound.header("x-forwarded-for", CLIENT_ADDRESS)).await.is_some_problem(421, "unknown_host");
    let mut failures = 0;
    while served.log_in(ADA, WRONG_PASSWORD).await.status != 429 {
        failures += 1;
    }

    let lines = served.stop().await;
    let events = security_events(&lines);
    let mut names = vec![
        "user.registered",
        "registration.refused",
        "login.refused",
        "login.refused",
        "login.accepted",
        "access.forbidden",
        "password.refused",
        "link.refused",
        "code.refused",
        "cross_site.refused",
        "token.replayed",
        "login.accepted",
        "queue.operation",
        "host.refused",
    ];
    names.extend(std::iter::repeat_n("login.refused", failures));
    names.push("attempt.throttled");
    assert_eq!(events.iter().map(|event| text_field(event, "event")).collect::<Vec<_>>(), names);
    for event in &events {
        assert_eq!(
            (text_field(event, "client_address"), text_field(event, "level")),
            (CLIENT_ADDRESS, "info"),
            "{event}"
        );
        assert_eq!(text_field(event, "request_id").len(), 36, "{event}");
    }
    let ids: std::collections::BTreeSet<_> =
        events.iter().map(|event| text_field(event, "request_id")).collect();
    assert_eq!(ids.len(), events.len(), "no client can choose the id");

    let [registered, taken, wrong, unknown, accepted, forbidden, confirmed, ..] = &events[..] else {
        panic!()
    };
    assert_eq!(
        (text_field(wrong, "reason"), text_field(unknown, "reason")),
        ("wrong_password", "unknown_account")
    );
    for event in [registered, wrong, accepted, forbidden, confirmed, &events[10]] {
        assert_eq!(event["user_id"], ada, "{event}");
    }
    let session = text_field(accepted, "session_id");
    for event in [forbidden, confirmed, &events[10]] {
        assert_eq!(text_field(event, "session_id"), session, "{event}");
    }
    let account = text_field(registered, "account_hash");
    for event in [taken, wrong, accepted, events.last().unwrap()] {
        assert_eq!(text_field(event, "account_hash"), account, "{event}");
    }
    assert_ne!(text_field(unknown, "account_hash"), account);
    assert_eq!(
        (text_field(events[12], "action"), text_field(events[12], "object")),
        ("queue.changed", "mine")
    );
    assert_eq!(text_field(events.last().unwrap(), "rule"), "pair");
    assert_eq!(text_field(wrong, "client_request_id"), "forged-by-client");
    for secret in [ADA, STRANGER, PASSWORD, WRONG_PASSWORD, token] {
        assert!(lines.iter().all(|line| !line.to_string().contains(secret)), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_sign_in_that_waits_for_a_code_is_logged_as_challenged() {
    let database = TestDatabase::migrated().await;
    let key = SECRET.replace('a', "z");
    let served = TestServer::start(&database, &[("TWO_FACTOR_KEY", key.as_str())]).await;
    let post =
        async |path: &str, token: &str, body: Value| served.send(Method::POST, path, token, body).await;
    let new = json!({ "email": ADA, "password": PASSWORD });
    assert_eq!(post("/auth/register", "", new).await.status, 201);
    database.sql("UPDATE users SET email_verified_at = now()").await;
    let login = served.log_in(ADA, PASSWORD).await.body;
    let token = text_field(&login, "access_token");
    let setup = post("/users/me/two-factor", token, json!({ "password": PASSWORD })).await.body;
    let authenticator = Authenticator::with_secret(text_field(&setup, "secret"));
    let code = json!({ "code": authenticator.code() });
    assert_eq!(post("/users/me/two-factor/confirm", token, code).await.status, 200);
    served.log_in(ADA, PASSWORD).await.is_some_problem(403, "two_factor_required");

    let lines = served.stop().await;
    let names: Vec<_> = security_events(&lines).into_iter().map(|event| text_field(event, "event")).collect();
    assert_eq!(names, ["user.registered", "login.accepted", "login.challenged"]);
}

#[tokio::test]
async fn client_addresses_can_be_excluded_from_the_log() {
    let database = TestDatabase::migrated().await;
    let served = TestServer::start(&database, &[("LOG_CLIENT_ADDRESS", "false")]).await;
    served.log_in(STRANGER, WRONG_PASSWORD).await.is_some_problem(401, "bad_credentials");
    served.log_in(ADA, WRONG_PASSWORD).await.is_some_problem(401, "bad_credentials");
    let lines = served.stop().await;
    assert!(lines.iter().any(|line| line["message"] == "request"));
    assert!(lines.iter().all(|line| !line.to_string().contains(CLIENT_ADDRESS)), "{lines:#?}");
    let events = security_events(&lines);
    let [one, other] = &events[..] else { panic!("{lines:#?}") };
    // Both lines have the same hash, so an operator can attribute them to one client.
    assert_eq!(text_field(one, "client_address_hash").len(), 16);
    assert_eq!(one["client_address_hash"], other["client_address_hash"]);
}
