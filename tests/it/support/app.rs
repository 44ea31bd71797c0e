//! An application for one test, on its own port.

use std::{sync::Arc, time::Duration};

use clap::Parser;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use saas::{
    api::{self, Limits},
    app::App,
    config::{Config, Http},
    jobs,
    queue::{Options, Retention, Summary},
    services::{job_relay::sweep, users::USER_COUNT},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{
    eventually,
    mail::{self, CapturedMail},
    records::column,
    servers::{TestDatabase, servers, unique},
};

/// The password of the users that [`TestApp::user`] creates.
pub const PASSWORD: &str = "correct horse";
/// The `SECRET_KEY` of the tests.
pub const SECRET: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdef";

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    http: Http,
}

pub struct TestApp {
    pub app: App,
    pub url: String,
    pub database: Arc<TestDatabase>,
    pub prefix: String,
    client: reqwest::Client,
    _server: AbortOnDrop,
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for TestApp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.app.config.mail.mail_dir);
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
pub struct User {
    pub id: i64,
    pub email: String,
    pub token: String,
    pub refresh_token: String,
}

impl User {
    /// Creates a user from an access token alone. The other fields are empty.
    pub fn with_token(token: impl Into<String>) -> Self {
        Self { id: 0, email: String::new(), token: token.into(), refresh_token: String::new() }
    }

    /// Creates a user with the tokens of a login response.
    #[track_caller]
    pub fn signed_in(id: i64, email: &str, login: &Answer) -> Self {
        assert_eq!(login.status, StatusCode::OK, "{}", login.text);
        let field = |name: &str| login.body[name].as_str().unwrap().to_owned();
        Self { id, email: email.into(), token: field("access_token"), refresh_token: field("refresh_token") }
    }
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts an application on a new database. Flags, such as `--debug=false`, override the settings of the tests.
    pub async fn with(flags: &[&str]) -> Self {
        Self::on(Arc::new(TestDatabase::migrated().await), flags).await
    }

    /// Starts an application that serves like `saas dev`: it has the page `/dev/mail`, and refuses requests for hosts other
    /// than this machine.
    pub async fn dev() -> Self {
        Self::serve(Arc::new(TestDatabase::migrated().await), &[], true).await
    }

    /// Starts an application on a given database, which other applications may share.
    pub async fn on(database: Arc<TestDatabase>, flags: &[&str]) -> Self {
        Self::serve(database, flags, false).await
    }

    async fn serve(database: Arc<TestDatabase>, flags: &[&str], dev_pages: bool) -> Self {
        let prefix = format!("t{}", unique());
        let redis = servers().await.redis_url();
        let mail_dir = std::env::temp_dir().join(format!("saas-test-mail-{}-{prefix}", std::process::id()));
        let mut args = vec![
            "test".to_owned(),
            "--debug=true".into(),
            "--bcrypt-cost=4".into(),
            // Longer than the defaults, so that tests do not fail on a loaded machine.
            "--database-timeout-ms=20000".into(),
            "--redis-timeout-ms=20000".into(),
            // Tests send many requests from one address. The tests of rate limits turn the limits on.
            "--rate-limits=false".into(),
            format!("--secret-key={SECRET}"),
            format!("--two-factor-key={}", SECRET.replace('a', "z")),
            format!("--mail-dir={}", mail_dir.display()),
            format!("--redis-key-prefix={prefix}"),
        ];
        let given = |name: &str| flags.iter().any(|flag| flag.starts_with(name));
        if !given("--database-url") {
            args.push(format!("--database-url={}", database.url));
        }
        if !given("--redis-url") {
            args.push(format!("--redis-url={redis}"));
        }
        // A flag replaces the default; clap refuses a flag that is given twice.
        args.retain(|arg| !flags.iter().any(|flag| flag.split('=').next() == arg.split('=').next()));
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let Settings { config, mut http } = Settings::parse_from(args);
        http.dev_pages = dev_pages;
        let app = App::new(config).unwrap();
        let endpoint = api::endpoint(app.clone(), &app.config.core, &http).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = api::serve(listener, endpoint, std::future::pending(), Limits::default());
        let server = AbortOnDrop(tokio::spawn(server).abort_handle());
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { app, url, database, prefix, client, _server: server }
    }

    /// Runs SQL. The application then discards its cached identities (users, sessions, memberships, API keys) and its
    /// cached number of users.
    pub async fn sql(&self, sql: &str) {
        self.database.sql(sql).await;
        self.app.identities.invalidate_all();
        self.app.cache.invalidate(USER_COUNT).await;
    }

    /// Builds a request for a path below `/api/v1`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}/api/v1{path}", self.url))
    }

    /// Builds a request for a path that may be outside of `/api/v1`.
    pub fn at_root(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str, user: Option<&User>) -> Answer {
        let mut request = self.request(Method::GET, path);
        if let Some(user) = user {
            request = request.bearer_auth(&user.token);
        }
        Answer::of(request).await
    }

    pub async fn post(&self, path: &str, user: Option<&User>, body: Value) -> Answer {
        let mut request = self.request(Method::POST, path).json(&body);
        if let Some(user) = user {
            request = request.bearer_auth(&user.token);
        }
        Answer::of(request).await
    }

    /// Sends an authenticated request without a body.
    pub async fn call(&self, method: Method, path: &str, user: &User) -> Answer {
        Answer::of(self.request(method, path).bearer_auth(&user.token)).await
    }

    pub async fn login(&self, email: &str, password: &str) -> Answer {
        Answer::of(self.form("/auth/login", &[("username", email), ("password", password)])).await
    }

    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        self.request(Method::POST, path).form(fields)
    }

    /// Creates a user with a verified address, and signs in. No mail is sent.
    pub async fn user(&self) -> User {
        let email = format!("user{}@example.com", unique());
        static HASH: OnceCell<String> = OnceCell::const_new();
        let hash = HASH.get_or_init(async || self.app.passwords.hash(PASSWORD.into()).await.unwrap()).await;
        let insert = format!(
            "INSERT INTO users (email, hashed_password, email_verified_at) VALUES ('{email}', '{hash}', now())
             RETURNING id"
        );
        let id = column(&self.database, &insert).await[0].parse().unwrap();
        self.sql("").await;
        User::signed_in(id, &email, &self.login(&email, PASSWORD).await)
    }

    /// Creates an admin and signs in.
    pub async fn admin(&self) -> User {
        let user = self.user().await;
        self.sql(&format!("UPDATE users SET role = 'admin' WHERE id = {}", user.id)).await;
        user
    }

    /// Enqueues the jobs of the outbox, and runs all due jobs. Returns all mails captured so far, the oldest first.
    pub async fn mails(&self) -> Vec<CapturedMail> {
        self.relay().await;
        self.run_jobs().await;
        mail::read_captured(&self.app.config.mail.mail_dir)
    }

    /// As [`Self::mails`], but returns the token of the last link that was mailed to an address.
    pub async fn mailed_token(&self, to: &str) -> String {
        let mails = self.mails().await;
        let with_link = mails.iter().rfind(|mail| mail.to == to && mail.text.contains("#token="));
        with_link.unwrap_or_else(|| panic!("no link was sent to {to}: {mails:#?}")).token()
    }

    /// Enqueues the jobs of the outbox, and waits until no other relay works on rows of the outbox.
    pub async fn relay(&self) {
        sweep(&self.app).await.unwrap();
        let claimed =
            "SELECT id FROM job_outbox WHERE claimed_until > clock_timestamp() AND set_aside_at IS NULL";
        eventually("no relay works on a row", || async {
            column(&self.database, claimed).await.is_empty().then_some(())
        })
        .await;
    }

    /// Runs all due jobs.
    pub async fn run_jobs(&self) -> Summary {
        self.app.queue.run_jobs(jobs::ALL, self.app.clone()).await.unwrap()
    }
}

/// Returns the options of a worker that stops when its queues have no due jobs.
pub fn options(queues: &[&str]) -> Options {
    Options {
        queues: queues.join(",").parse().unwrap(),
        concurrency: 10,
        lease: Duration::from_secs(30),
        grace: Duration::from_secs(25),
        burst: true,
        scheduler: true,
        reserved: None,
        max_running_per_owner: None,
        retention: Retention::default(),
    }
}

/// A response with its body. `body` is null if `text` is not JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        let response: Response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, headers, body, text }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that this is a problem document with this status, code and detail.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str, detail: &str) {
        assert_eq!(
            (self.status.as_u16(), &self.body["code"], &self.body["detail"]),
            (status, &json!(code), &json!(detail))
        );
        self.is_some_problem(status, code);
    }

    /// As [`Self::is_problem`], with any detail.
    #[track_caller]
    pub fn is_some_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), &self.body["code"]), (status, &json!(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], json!(status));
        assert_eq!(self.body["type"], "about:blank");
        assert!(self.body["detail"].is_string() && self.body["title"].is_string());
        assert_eq!(self.body["request_id"], json!(self.header("x-request-id")));
    }

    /// Returns the location and the type of each invalid field in a validation error, sorted.
    #[track_caller]
    pub fn invalid_fields(&self) -> Vec<(String, String)> {
        self.is_some_problem(422, "validation_error");
        let field = |error: &Value| {
            let steps = error["loc"].as_array().unwrap().iter();
            let loc: Vec<_> =
                steps.map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned)).collect();
            assert!(!error["msg"].as_str().unwrap().is_empty());
            (loc.join("."), error["type"].as_str().unwrap().to_owned())
        };
        let mut fields: Vec<_> = self.body["errors"].as_array().unwrap().iter().map(field).collect();
        fields.sort();
        fields
    }
}

/// Builds the expected value of [`Answer::invalid_fields`].
pub fn fields(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(loc, kind)| ((*loc).to_owned(), (*kind).to_owned())).collect()
}
