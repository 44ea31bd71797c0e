use std::{
    io::Write,
    process::{Command, ExitCode},
};

use anyhow::{Context, bail};
use chrono::Utc;
use diesel::{QueryableByName, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::{
    api::check_http,
    app,
    config::{Config, Http, secret},
    db::{self, migrations},
    mail::Mailer,
    redis_pool::RedisPool,
    security, telemetry,
};

/// Check that the product can run here.
///
/// One line a check, with the mend beside each failure: settings, PostgreSQL, migrations, Redis, clock, disk.
/// Exits with 1 when one fails.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  saas doctor\n  saas doctor --generate-secret    a value for SECRET_KEY or TWO_FACTOR_KEY"
)]
pub(super) struct Args {
    /// Print a new random key and do nothing else.
    #[arg(long)]
    generate_secret: bool,
    #[command(flatten)]
    http: Http,
    #[command(flatten)]
    config: Config,
}

/// What a check found: all well, or well but for something worth knowing.
enum Finding {
    Ok(String),
    Warn(String),
}
use Finding::{Ok as Fine, Warn};

const LEAST_DISK_MB: u64 = 512;

#[derive(Default)]
struct Report {
    failures: u32,
}

impl Report {
    fn add(&mut self, name: &str, result: anyhow::Result<Finding>) {
        let (mark, text) = match result {
            Ok(Fine(text)) => ("ok  ", text),
            Ok(Warn(text)) => ("warn", text),
            Err(error) => {
                self.failures += 1;
                ("FAIL", telemetry::chain(error.as_ref()))
            }
        };
        // The exit code says it too, where nobody reads on.
        let _ = writeln!(std::io::stdout(), "{mark}  {name:<11} {text}");
    }
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        if self.generate_secret {
            writeln!(std::io::stdout(), "{}", security::random_secret()?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut report = Report::default();
        self.settings(&mut report);
        match db::connect(&self.config.database).await {
            Ok(conn) => {
                report.add("database", version(&conn).await);
                report.add("migrations", migrated(&conn).await);
                report.add("clock", clock(&conn).await);
            }
            Err(error) => report.add(
                "database",
                Err(error.context("PostgreSQL cannot be used: check DATABASE_URL and that the server is up")),
            ),
        }
        match redis(&self.config).await {
            Ok(findings) => findings.into_iter().for_each(|finding| report.add("redis", finding)),
            Err(error) => report.add(
                "redis",
                Err(error.context("Redis cannot be used: check REDIS_URL and that the server is up")),
            ),
        }
        report.add("disk", disk());
        Ok(if report.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn settings(&self, report: &mut Report) {
        let problems = self.config.unsafe_settings();
        if self.config.core.debug {
            report.add("settings", Ok(Warn("DEBUG is on: right on a laptop, never in production".into())));
        } else if problems.is_empty() {
            report.add("settings", Ok(Fine("safe for production".into())));
        }
        problems.into_iter().for_each(|problem| report.add("settings", Err(anyhow::anyhow!(problem))));
        report.add(
            "http",
            check_http(&self.config.core, &self.http)
                .map(|()| Fine("origins and address can be read".into())),
        );
        report.add(
            "mail",
            Mailer::new(&self.config).map(|mailer| match mailer.is_real() {
                true => Fine("goes out by SMTP".into()),
                false => Warn("no SMTP_URL: mails are captured, not sent".into()),
            }),
        );
        let mail = &self.config.mail;
        report.add(
            "links",
            mail.check().map(|()| match mail.public_url.is_some() || mail.frontend_url.is_some() {
                true => Fine(format!("those in mails look like {}", mail.link("verify-email", ".."))),
                false => Warn(format!(
                    "those in mails lead to {}: set PUBLIC_URL, or FRONTEND_URL where a front end has the pages",
                    mail.public_url()
                )),
            }),
        );
        report.add(
            "two-factor",
            Ok(match secret(&self.config.auth.two_factor_key) {
                Some(_) => Fine("can be turned on".into()),
                None => Warn(
                    "no TWO_FACTOR_KEY: nobody can turn it on; `saas doctor --generate-secret` makes one"
                        .into(),
                ),
            }),
        );
    }
}

#[derive(QueryableByName)]
struct Answer {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn ask(mut conn: &AsyncPgConnection, sql: &str) -> anyhow::Result<String> {
    Ok(diesel::sql_query(sql).get_result::<Answer>(&mut conn).await?.value)
}

async fn version(conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
    let version = ask(conn, "SELECT current_setting('server_version') AS value").await?;
    Ok(Fine(format!("PostgreSQL {version} answers")))
}

async fn migrated(conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
    let pending = migrations::pending(conn).await?;
    if !pending.is_empty() {
        bail!("{} pending ({}): run `saas migrate up`", pending.len(), pending.join(", "));
    }
    Ok(Fine("all applied".into()))
}

/// Tokens carry times, so the replicas' clocks have to agree; the database's stands for the others'.
async fn clock(conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
    let theirs: f64 =
        ask(conn, "SELECT extract(epoch FROM clock_timestamp())::text AS value").await?.parse()?;
    let off = (Utc::now().timestamp_micros() as f64 / 1e6 - theirs).abs();
    if off > 2.0 {
        bail!("{off:.1} s off the database's: keep both machines' clocks with NTP");
    }
    Ok(Fine("agrees with the database's".into()))
}

async fn redis(config: &Config) -> anyhow::Result<Vec<anyhow::Result<Finding>>> {
    let server = app::queue(&RedisPool::new(&config.redis)?, &config.redis).server().await?;
    let mut list = vec![Ok(Fine(format!("{} answers", server.name)))];
    list.extend(server.problems.into_iter().map(|problem| Err(anyhow::anyhow!(problem))));
    list.extend(server.warnings.into_iter().map(|warning| Ok(Warn(warning))));
    Ok(list)
}

/// Free space where the process runs, by `df`, which every Unix has.
fn disk() -> anyhow::Result<Finding> {
    let output = Command::new("df").args(["-Pk", "."]).output().context("df cannot be run")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let free: u64 = text
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().nth(3))
        .and_then(|kilobytes| kilobytes.parse().ok())
        .context("the answer of df cannot be read")?;
    let megabytes = free / 1024;
    if megabytes < LEAST_DISK_MB {
        bail!("{megabytes} MB free: make room, {LEAST_DISK_MB} MB at least");
    }
    Ok(Fine(format!("{megabytes} MB free")))
}
