//! The fixture of the benchmarks: private servers, a migrated database with users, and `saas serve`.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use saas::{
    dev::{self, Purpose, Server},
    security,
};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::{process::Command, time::sleep};
use tokio_postgres::NoTls;

use super::{
    database,
    private_dir::PrivateDir,
    process::{self, Running},
    wrk::Request,
};

pub const API: &str = "/api/v1";
pub const HEALTH: &str = "/api/v1/health";
/// The password of the admin, and of all users except those of [`Fixture::add_crowd`], who have none.
pub const PASSWORD: &str = "a password of ours";
pub const ADMIN: &str = "admin@example.com";
pub const USERS: usize = 20_000;
/// The default bcrypt cost of `saas serve`.
pub const BCRYPT_COST: u32 = 12;
/// Lifetime of access tokens. It is longer than the longest measurement, a soak test of a day.
pub const TOKEN_MINUTES: u32 = 2 * 24 * 60;
/// How long to wait until all jobs have ended.
const JOBS_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Fixture {
    postgres: Server,
    redis: Server,
    sql: tokio_postgres::Client,
    client: reqwest::Client,
    dir: PrivateDir,
    secret: String,
    port: u16,
    /// The port of a second `saas serve`, which writes the access log.
    other_port: u16,
    /// The port of a third `saas serve`, which limits requests.
    limited_port: u16,
}

impl Fixture {
    /// Starts the servers, applies the migrations, and creates an admin and the users.
    pub async fn set_up() -> Result<Self> {
        eprintln!("starting PostgreSQL and Redis, making {USERS} users");
        let servers = dev::test_dir()?;
        let (postgres, redis) = tokio::try_join!(
            Server::postgres(&servers, Purpose::Test),
            Server::redis(&servers, Purpose::Test)
        )?;
        let (sql, connection) = tokio_postgres::connect(postgres.url.expose_secret(), NoTls).await?;
        tokio::spawn(connection);
        let client = reqwest::Client::builder().no_proxy().build()?;
        let (dir, secret) = (PrivateDir::new()?, security::random_secret()?);
        let (port, other_port, limited_port) = (free_port()?, free_port()?, free_port()?);
        let fixture = Self { postgres, redis, sql, client, dir, secret, port, other_port, limited_port };
        fixture.run(&["migrate", "up"]).await?;
        fixture.run(&["create-admin", "--email", ADMIN]).await?;
        database::create_users(&fixture.sql, USERS).await?;
        Ok(fixture)
    }

    /// Adds users without a password, until there are `count`.
    pub async fn add_crowd(&self, count: u32) -> Result<()> {
        database::add_crowd(&self.sql, count).await
    }

    /// Stops the servers and waits for their exit.
    pub async fn stop(self) {
        self.postgres.stop().await;
        self.redis.stop().await;
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn other_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.other_port)
    }

    pub fn limited_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.limited_port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn postgres_url(&self) -> &str {
        self.postgres.url.expose_secret()
    }

    pub fn redis_url(&self) -> &str {
        self.redis.url.expose_secret()
    }

    fn saas(&self, args: &[&str]) -> Command {
        saas_command(args, self.postgres_url(), self.redis_url(), &self.secret)
    }

    /// Runs a `saas` command until it exits.
    pub async fn run(&self, args: &[&str]) -> Result<()> {
        process::run(self.saas(args)).await.map(drop)
    }

    /// Starts `saas serve`. Returns the process, and the milliseconds until its first response.
    pub async fn serve(&self) -> Result<(Running, f64)> {
        let command = self.saas(&["serve", "--port", &self.port.to_string()]);
        let mut server = Running::start(command, &self.dir().join("serve.log"))?;
        let cold = server.wait_for_first_response(self.port, HEALTH).await.context("saas serve")?;
        Ok((server, cold))
    }

    /// Starts a second `saas serve`, with the default log level, at which it writes the access log.
    pub async fn serve_other(&self) -> Result<Running> {
        let mut command = self.saas(&["serve", "--port", &self.other_port.to_string()]);
        command.env("LOG_LEVEL", "info");
        let mut server = Running::start(command, &self.dir().join("other.log"))?;
        server.wait_for_first_response(self.other_port, HEALTH).await.context("another saas serve")?;
        Ok(server)
    }

    /// Starts a third `saas serve`, with rate limits. No load exceeds the limit of reads.
    pub async fn serve_limited(&self) -> Result<Running> {
        let mut command = self.saas(&["serve", "--port", &self.limited_port.to_string()]);
        command.env("RATE_LIMITS", "true").env("RATE_LIMIT_READ_PER_MINUTE", "1000000");
        let mut server = Running::start(command, &self.dir().join("limited.log"))?;
        server.wait_for_first_response(self.limited_port, HEALTH).await.context("saas serve with limits")?;
        Ok(server)
    }

    pub fn worker(&self) -> Result<Running> {
        Running::start(self.saas(&["worker"]), &self.dir().join("worker.log"))
    }

    pub async fn send(&self, request: &Request) -> Result<Value> {
        request.send(&self.client, &self.url()).await
    }

    /// Sends a request to the second `saas serve`, and returns the status of the response.
    pub async fn status_at_other(&self, request: &Request) -> Result<StatusCode> {
        Ok(request.build(&self.client, &self.other_url()).send().await?.status())
    }

    pub async fn sign_in_admin(&self) -> Result<String> {
        self.sign_in(ADMIN).await
    }

    /// Signs a user in and returns the access token.
    pub async fn sign_in(&self, email: &str) -> Result<String> {
        text_field(&self.send(&login(email)).await?, "access_token")
    }

    /// Returns the id of a session of a user.
    pub async fn session(&self, email: &str) -> Result<String> {
        let find = "SELECT sessions.id::text FROM sessions JOIN users ON users.id = sessions.user_id \
                    WHERE email = $1 LIMIT 1";
        Ok(self.sql.query_one(find, &[&email]).await?.try_get(0)?)
    }

    /// Inserts a session for each of `count` users. Returns their access tokens.
    pub async fn sign_in_many(&self, count: i64) -> Result<Vec<String>> {
        database::sign_in_many(&self.sql, &self.secret, "user", count).await
    }

    /// Creates an organization with 1,000 products. Its members are the first `members` users. Returns the ids of the
    /// organization and of one product.
    pub async fn create_org(&self, members: i64) -> Result<[i64; 2]> {
        database::create_org(&self.sql, members).await
    }

    /// Creates an API key for each member of an organization. Returns the keys.
    pub async fn create_keys(&self, org: i64) -> Result<Vec<String>> {
        database::create_keys(&self.sql, org).await
    }

    /// Vacuums the tables that enqueues have changed. A test server has no autovacuum.
    pub async fn vacuum_jobs(&self) -> Result<()> {
        Ok(self.sql.batch_execute("VACUUM ANALYZE job_outbox, idempotency_keys").await?)
    }

    /// Sets the last use of all sessions to an hour ago, so that the next request of each session records its use.
    pub async fn age_sessions(&self) -> Result<()> {
        self.sql.batch_execute("UPDATE sessions SET last_seen_at = now() - interval '1 hour'").await?;
        // A test server has no autovacuum.
        Ok(self.sql.batch_execute("VACUUM ANALYZE sessions").await?)
    }

    /// Enqueues a job as the user of a token, runs it and returns its id.
    pub async fn finished_job(&self, token: &str) -> Result<String> {
        let job = text_field(&self.send(&enqueue(token)).await?, "job_id")?;
        self.run(&["worker", "--burst"]).await?;
        let status = text_field(&self.send(&job_status(&job, token)).await?, "status")?;
        ensure!(status == "finished", "the job is {status}");
        Ok(job)
    }

    /// Waits until no job is queued, scheduled or running, for at most 30 seconds. Returns the number of jobs that are left,
    /// and of failed jobs.
    pub async fn jobs_left(&self, admin: &str) -> Result<[u64; 2]> {
        jobs_left(&self.client, &self.url(), admin, JOBS_TIMEOUT).await
    }

    /// Returns the version of PostgreSQL.
    pub async fn postgres_version(&self) -> Result<String> {
        database::describe_postgres(&self.sql).await
    }
}

/// Creates a `saas` command with production settings, except that the limits of users are off or very high, and with a minimal
/// environment.
pub fn saas_command(args: &[&str], postgres_url: &str, redis_url: &str, secret: &str) -> Command {
    let mut command = process::command(env!("CARGO_BIN_EXE_saas"));
    command.args(args).env_clear();
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("DATABASE_URL", postgres_url)
        .env("REDIS_URL", redis_url)
        .env("SECRET_KEY", secret)
        // A load sends more requests from one address and user than the rate limits allow.
        .env("RATE_LIMITS", "false")
        // One user may enqueue all jobs of a load, so the limits of a user must be high.
        .env("USER_MAX_QUEUED_JOBS", "1000000000")
        .env("USER_MAX_QUEUED_BYTES", "1000000000000")
        .env("USER_MAX_JOBS_PER_HOUR", "1000000000")
        .env("FIRST_SUPERUSER_PASSWORD", PASSWORD)
        .env("ACCESS_TOKEN_EXPIRE_MINUTES", TOKEN_MINUTES.to_string())
        .env("PUBLIC_URL", "https://api.example.com")
        .env("LOG_LEVEL", "warn");
    command
}

/// Waits until no job is queued, scheduled or running, for at most `limit`. Returns the number of jobs that are left, and of
/// failed jobs.
pub async fn jobs_left(
    client: &reqwest::Client,
    url: &str,
    admin: &str,
    limit: Duration,
) -> Result<[u64; 2]> {
    let (request, begun) = (Request::get(format!("{API}/admin/queues")).with_token(admin), Instant::now());
    loop {
        let queues = request.send(client, url).await?;
        let count = |name: &str| {
            let of_each = queues.as_array().into_iter().flatten().map(|queue| queue[name].as_u64());
            of_each.sum::<Option<u64>>().with_context(|| format!("no {name} in {queues}"))
        };
        let left = [count("queued")? + count("scheduled")? + count("started")?, count("failed")?];
        if left[0] == 0 || begun.elapsed() > limit {
            return Ok(left);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Returns a port of the loopback interface that is free at the moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

pub fn text_field(answer: &Value, name: &str) -> Result<String> {
    Ok(answer[name].as_str().with_context(|| format!("no {name} in {answer}"))?.to_owned())
}

/// Returns the email address of the user with the number `n`. The first user has the number 0. Numbers from [`USERS`] on wrap
/// around.
pub fn user_email(n: usize) -> String {
    format!("user{}@example.com", n % USERS + 1)
}

pub fn login(email: &str) -> Request {
    let login = Request::new(Method::POST, format!("{API}/auth/login"));
    login.with_form(&[("username", email), ("password", PASSWORD)])
}

pub fn enqueue(token: &str) -> Request {
    enqueue_lasting(token, 0)
}

/// Returns the request that enqueues a job that takes `seconds` seconds.
pub fn enqueue_lasting(token: &str, seconds: u32) -> Request {
    Request::new(Method::POST, format!("{API}/jobs/example?name=x&duration={seconds}")).with_token(token)
}

pub fn job_status(job: &str, token: &str) -> Request {
    Request::get(format!("{API}/jobs/{job}/status")).with_token(token)
}

pub fn me(token: &str) -> Request {
    Request::get(format!("{API}/users/me")).with_token(token)
}

pub fn product([org, id]: [i64; 2], token: &str) -> Request {
    Request::get(format!("{API}/orgs/{org}/products/{id}")).with_token(token)
}

pub fn logout(token: &str) -> Request {
    Request::new(Method::POST, format!("{API}/auth/logout")).with_token(token)
}

pub fn user_list(admin: &str) -> Request {
    Request::get(format!("{API}/users?limit=20")).with_token(admin)
}
