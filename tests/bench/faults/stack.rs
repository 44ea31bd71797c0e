//! The system that a fault is injected into: private servers, `saas serve` and two workers.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::StatusCode;
use saas::security;
use serde_json::Value;
use tokio::process::Command;

use super::{
    fault::Fault, load::Load, poll::eventually, postgres::Postgres, proxy::Proxy, redis_servers::RedisServers,
};
use crate::{
    bare,
    http::{
        database,
        fixture::{ADMIN, HEALTH, free_port, job_status, jobs_left, saas_command, text_field},
        private_dir::PrivateDir,
        process::{self, Running},
    },
};

/// With this number of users, each user sends an enqueue and a read every two seconds. The server keeps copies of the user
/// and the session for a shorter time, so it reads them from PostgreSQL again.
const USERS: usize = 200;
const WORKERS: usize = 2;
/// With these levels, the log of a worker has a line for each start and each end of a job.
const WORKER_LOG_LEVEL: &str = "warn,saas::queue=debug";
/// How long to wait until all jobs have ended. This is longer than the lease of a worker plus the backoff of a job.
const JOBS_TIMEOUT: Duration = Duration::from_secs(90);
/// The number of jobs whose status is read at the same time.
const CONCURRENT_READS: usize = 8;

// Fields are dropped in order: first the processes, then their servers, then their files.
pub struct Stack {
    server: Running,
    workers: Vec<Running>,
    /// The number of workers that have been started.
    started_workers: usize,
    /// The proxy before the server whose network the fault cuts. `None` if the fault cuts no network.
    pub network: Option<Proxy>,
    pub redis: RedisServers,
    pub postgres: Postgres,
    pub standby: Option<Postgres>,
    settings: Settings,
    client: reqwest::Client,
    /// The access token of an admin.
    admin: String,
    /// The access tokens of the users.
    tokens: Vec<String>,
    dir: PrivateDir,
}

/// The settings of all processes of `saas`.
struct Settings {
    postgres_url: String,
    redis_url: String,
    prefix: &'static str,
    secret: String,
    port: u16,
}

impl Settings {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = saas_command(args, &self.postgres_url, &self.redis_url, &self.secret);
        command.env("REDIS_KEY_PREFIX", self.prefix);
        command
    }

    async fn run(&self, args: &[&str]) -> Result<()> {
        process::run(self.command(args)).await.map(drop)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Stack {
    /// Starts the servers and processes that a fault needs.
    pub async fn start(fault: Fault) -> Result<Self> {
        let dir = PrivateDir::new()?;
        let (postgres, redis) =
            tokio::try_join!(Postgres::start(), RedisServers::start(fault.topology(), dir.path()))?;
        let mut settings = Settings {
            postgres_url: postgres.url().to_owned(),
            redis_url: redis.url(),
            prefix: redis.prefix(),
            secret: security::random_secret()?,
            port: free_port()?,
        };
        settings.run(&["migrate", "up"]).await?;
        settings.run(&["create-admin", "--email", ADMIN]).await?;
        database::create_users(&postgres.sql, USERS).await?;
        let tokens = database::sign_in_many(&postgres.sql, &settings.secret, "user", USERS as i64).await?;
        let admins = database::sign_in_many(&postgres.sql, &settings.secret, "admin", 1).await?;
        let admin = admins.into_iter().next().context("there is no admin")?;

        let (mut network, mut standby) = (None, None);
        match fault {
            Fault::RedisCut => {
                let proxy = Proxy::to(redis.primary().port).await?;
                settings.redis_url = format!("redis://127.0.0.1:{}", proxy.port);
                network = Some(proxy);
            }
            Fault::PostgresCut => {
                let proxy = Proxy::to(postgres.port()?).await?;
                settings.postgres_url = postgres.url_at(proxy.port)?;
                network = Some(proxy);
            }
            Fault::PostgresPromoted => {
                let other = postgres.start_standby().await?;
                settings.postgres_url = postgres.url_with(&other)?;
                standby = Some(other);
            }
            _ => {}
        }

        let serve = settings.command(&["serve", "--port", &settings.port.to_string()]);
        let mut server = Running::start(serve, &dir.path().join("serve.log"))?;
        server.wait_for_first_response(settings.port, HEALTH).await.context("saas serve")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let (workers, started_workers) = (Vec::new(), 0);
        let mut stack = Self {
            server,
            workers,
            started_workers,
            network,
            redis,
            postgres,
            standby,
            settings,
            client,
            admin,
            tokens,
            dir,
        };
        for _ in 0..WORKERS {
            stack.start_worker()?;
        }
        Ok(stack)
    }

    fn start_worker(&mut self) -> Result<()> {
        self.started_workers += 1;
        let mut worker = self.settings.command(&["worker"]);
        worker.env("LOG_LEVEL", WORKER_LOG_LEVEL);
        let log = self.dir.path().join(format!("worker-{}.log", self.started_workers));
        self.workers.push(Running::start(worker, &log)?);
        Ok(())
    }

    /// Kills a worker and starts another one.
    pub async fn replace_worker(&mut self) -> Result<()> {
        self.workers.remove(0).stop().await?;
        self.start_worker()
    }

    /// Runs a `saas` command until it exits.
    pub async fn run(&self, args: &[&str]) -> Result<()> {
        self.settings.run(args).await
    }

    pub fn load(&self) -> Result<Load> {
        Load::new(&self.settings.url(), &self.tokens)
    }

    /// Returns the versions of PostgreSQL and Redis, and how they persist data.
    pub async fn describe(&self) -> Result<String> {
        let redis = bare::describe(&mut bare::connect(&self.redis.primary().url()).await?).await?;
        Ok(format!("{}, fsync off; {redis}", database::describe_postgres(&self.postgres.sql).await?))
    }

    /// Waits until no job is queued, scheduled or running.
    ///
    /// # Errors
    /// If jobs are left after [`JOBS_TIMEOUT`], because the report would count them as jobs that never ran, or if the request for
    /// the queues fails.
    pub async fn wait_for_jobs(&self) -> Result<()> {
        let [left, _] = jobs_left(&self.client, &self.settings.url(), &self.admin, JOBS_TIMEOUT).await?;
        ensure!(left == 0, "{left} jobs have not ended {} s after the load", JOBS_TIMEOUT.as_secs());
        Ok(())
    }

    /// Returns the state of each job, or `None` if the API does not know the job.
    pub async fn states(&self, jobs: &[String]) -> Result<Vec<Option<String>>> {
        stream::iter(jobs.iter().map(|job| self.state(job))).buffered(CONCURRENT_READS).try_collect().await
    }

    async fn state(&self, job: &str) -> Result<Option<String>> {
        let request = job_status(job, &self.admin);
        let answer = eventually("the API returns the status of a job", async || {
            let answer = request.build(&self.client, &self.settings.url()).send().await.ok()?;
            (!answer.status().is_server_error()).then_some(answer)
        })
        .await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let status: Value = answer.error_for_status()?.json().await?;
        text_field(&status, "status").map(Some)
    }

    /// Returns the logs of all workers that have been started.
    pub fn worker_logs(&self) -> Result<String> {
        let logs = (1..=self.started_workers).map(|worker| {
            let bytes = fs::read(self.dir.path().join(format!("worker-{worker}.log")))?;
            anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        Ok(logs.collect::<Result<Vec<_>>>()?.join("\n"))
    }

    /// Fails if a process has exited.
    pub fn check(&mut self) -> Result<()> {
        self.server.check().context("saas serve")?;
        self.workers.iter_mut().try_for_each(|worker| worker.check().context("saas worker"))
    }

    /// Stops all processes and servers.
    pub async fn stop(self) -> Result<()> {
        self.server.stop().await?;
        for worker in self.workers {
            worker.stop().await?;
        }
        self.postgres.stop().await;
        if let Some(standby) = self.standby {
            standby.stop().await;
        }
        Ok(())
    }
}
