mod database;
mod settings;

use std::{io::Write, process::ExitCode};

use anyhow::{Context, bail};
use diesel::{QueryableByName, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{
    environment::Findings,
    startup::{CREATE_ADMIN_ADVICE, clock_problem, default_password_problem},
};
use crate::{
    app,
    config::{self, Config, Http, Listen, Redis},
    db::{
        self,
        migrations::{self, Migrations},
    },
    models::user::User,
    queue::OtherPrefix,
    redis_pool::RedisPool,
    security::{self, Passwords},
    services::{
        admin_password,
        email_keys::{self, MissingKeyCause},
        job_relay,
    },
};

/// Check that the product can run here.
///
/// Prints one line for each result, and the fix beside a failure with a known cause: settings, HTTP, mail, links, two-factor,
/// PostgreSQL, its connections, session, migrations, privileges, tenants, admins, outbox, addresses, clock, Redis, cache, disk.
/// The settings are those of `saas serve` and `saas worker`. While `saas dev` runs in this directory, its servers are checked,
/// unless the settings name others or have DEBUG=false. Exits with 1 if a check fails.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  saas doctor\n  saas doctor --generate-secret    print a value for SECRET_KEY or TWO_FACTOR_KEY"
)]
pub(super) struct Args {
    /// Print a new random key and exit.
    #[arg(long)]
    generate_secret: bool,
    // No check reads `_listen` and `_worker`. The command has these arguments so that `Findings` includes their invalid values.
    #[command(flatten)]
    _listen: Listen,
    #[command(flatten)]
    http: Http,
    #[command(flatten)]
    _worker: config::Worker,
    #[command(flatten)]
    config: Config,
}

/// The result of a check that did not fail.
enum Finding {
    Passed(String),
    Warning(String),
}
use Finding::{Passed, Warning};

const MIN_FREE_DISK_MB: u64 = 512;

/// Maximum number of jobs of each kind that are counted in the outbox.
const MAX_COUNTED_JOBS: i64 = 1_000;
/// Maximum number of prefixes with jobs that are listed.
const MAX_LISTED_PREFIXES: usize = 5;
/// Maximum number of accounts that are listed because they have no key of their address.
const MAX_LISTED_ADDRESSES: i64 = 20;
/// Maximum number of admins whose passwords are verified. The admins with the newest passwords come first.
const MAX_CHECKED_ADMINS: u32 = 100;

/// Prints the results of the checks, and counts the failures.
struct Report<'a> {
    failures: u32,
    findings: &'a Findings,
}

impl Report<'_> {
    fn add(&mut self, name: &str, result: anyhow::Result<Finding>) {
        let (mark, text) = match result {
            Ok(Passed(text)) => ("ok  ", text),
            Ok(Warning(text)) => ("warn", text),
            Err(error) => {
                self.failures += 1;
                let text = crate::error::chain(error.as_ref());
                let fix = db::pooler_fix(&text).map(|fix| format!(". {fix}")).unwrap_or_default();
                ("FAIL", text + &fix)
            }
        };
        let places = self.findings.places_of(&text);
        let places = if places.is_empty() { String::new() } else { format!(" ({})", places.join("; ")) };
        // Joins the lines of the text, because a message of a library may have several.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // If standard output is closed, the exit code still reports the failure.
        let _ = writeln!(std::io::stdout(), "{mark}  {name:<11} {text}{places}");
    }
}

impl Args {
    pub(super) async fn run(self, findings: &Findings) -> anyhow::Result<ExitCode> {
        if self.generate_secret {
            writeln!(std::io::stdout(), "{}", security::random_secret()?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut report = Report { failures: 0, findings };
        self.check_settings(&mut report);
        match db::connect(&self.config.database).await {
            Ok(conn) => {
                report.add("database", database::server(&conn, &self.config.database).await);
                // Counts the connections before the next check, which opens another connection.
                report.add("connections", self.connections(&conn).await);
                report.add("session", database::session(&conn, &self.config.database).await);
                let migrated = check_migrations(&conn).await;
                let has_tables = migrated.is_ok();
                report.add("migrations", migrated);
                if has_tables {
                    report.add("privileges", check_privileges(&conn).await);
                    report.add("tenants", database::tenants(&conn).await);
                    report.add("admins", self.check_admins(&conn).await);
                    report.add("outbox", self.check_outbox(&conn).await);
                    report.add("addresses", check_addresses(&conn).await);
                }
                report.add("clock", check_clock(&conn).await);
            }
            Err(error) => report.add("database", Err(error)),
        }
        match check_redis(&self.config).await {
            Ok(findings) => findings.into_iter().for_each(|finding| report.add("redis", finding)),
            Err(error) if !self.config.redis.problems().is_empty() => report.add("redis", Err(error)),
            Err(error) => {
                let (name, server) = (self.config.redis.setting_name(), self.config.redis.location());
                let hint = format!("cannot use Redis: check {name} and that a server is running at {server}");
                report.add("redis", Err(error.context(hint)));
            }
        }
        if let Some(settings) = self.config.redis_options.cache(&self.config.redis) {
            report.add("cache", check_cache(&settings).await);
        }
        report.add("disk", check_disk());
        Ok(if report.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Checks that there is an admin or that `saas serve` will create one, and that no active admin has the default password.
    /// Verifies at most [`MAX_CHECKED_ADMINS`] passwords.
    async fn check_admins(&self, conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
        let password = self.config.auth.admin.chosen_password();
        if !User::any_admin(conn).await? {
            return Ok(match password {
                Some(_) => Passed("there is none yet: `saas serve` creates FIRST_SUPERUSER_EMAIL".into()),
                None => Warning(format!(
                    "FIRST_SUPERUSER_PASSWORD is not set, and there is no admin: {CREATE_ADMIN_ADVICE}"
                )),
            });
        }
        let passwords = Passwords::new(self.config.auth.hashing.bcrypt_cost);
        let admins = admin_password::find_default_passwords(conn, &passwords, MAX_CHECKED_ADMINS).await?;
        match default_password_problem(&admins) {
            None => Ok(Passed("none has the default password".into())),
            Some(problem) if self.config.core.debug => Ok(Warning(problem)),
            Some(problem) => bail!(problem),
        }
    }

    /// Counts the jobs of the outbox. Warns of jobs that no worker will enqueue: mails without a mail server, and jobs that were
    /// set aside.
    async fn check_outbox(&self, conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
        let waiting = job_relay::count(conn, MAX_COUNTED_JOBS).await?;
        let number = |count: usize| {
            let more = if count as i64 == MAX_COUNTED_JOBS { " or more" } else { "" };
            format!("{count}{more}")
        };
        let set_aside = format!(
            "jobs that were set aside: {}, see docs/jobs.md#enqueuing-in-a-transaction",
            number(waiting.set_aside)
        );
        let mails = format!("mails that wait for a mail server: {}", number(waiting.mails));
        let are_held = waiting.mails > 0 && !self.sends_mail();
        Ok(match (waiting.set_aside > 0, are_held) {
            (true, true) => Warning(format!("{mails}; {set_aside}")),
            (true, false) => Warning(set_aside),
            (false, true) => Warning(mails),
            (false, false) if waiting.jobs > 0 => {
                Passed(format!("jobs that a worker will enqueue: {}", number(waiting.jobs)))
            }
            (false, false) => Passed("no job waits".into()),
        })
    }
}

#[derive(QueryableByName)]
struct TextRow {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn query_text(mut conn: &AsyncPgConnection, sql: &str) -> anyhow::Result<String> {
    Ok(diesel::sql_query(sql).get_result::<TextRow>(&mut conn).await?.value)
}

/// Checks that no migration is pending. Recommends to apply pending migrations unless a known obstacle prevents that.
async fn check_migrations(conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
    let pending = migrations::pending(conn).await?;
    if pending.is_empty() {
        return Ok(Passed("all applied".into()));
    }
    let what = format!("{} pending ({})", pending.len(), pending.join(", "));
    match Migrations::embedded().obstacle(conn).await? {
        None => bail!("{what}: run `saas migrate up`"),
        Some(obstacle) => bail!("{what}, which cannot be applied yet: {obstacle}"),
    }
}

/// Looks for accounts without an address key: they share an address in different spellings, this release does not accept
/// their address, or `saas migrate up` has not computed the key yet.
async fn check_addresses(conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
    let (list, total) = email_keys::list_missing_keys(conn, MAX_LISTED_ADDRESSES).await?;
    if total == 0 {
        return Ok(Passed("each address has one account".into()));
    }
    let mut causes: Vec<_> = list
        .iter()
        .map(|(id, cause)| match cause {
            MissingKeyCause::SharedWith(other) => {
                format!("user {id} has the address of user {other} in another spelling")
            }
            MissingKeyCause::Invalid(problem) => format!("user {id} has no valid address ({problem})"),
            MissingKeyCause::NotFilled => {
                format!("user {id} is not compared with others yet: run `saas migrate up`")
            }
        })
        .collect();
    let more = total - i64::try_from(list.len())?;
    if more > 0 {
        causes.push(format!("{more} more"));
    }
    Ok(Warning(format!(
        "{}. Such users can only sign in with the address as it is stored: keep one account of each address and delete the \
         others, or change their addresses",
        causes.join("; ")
    )))
}

/// Checks the privileges of the PostgreSQL role on the tables of the product: the tables in the schema of `users` that have the
/// owner of `users`. Ignores the tables of diesel. Does not require `UPDATE` on `audit_log`, whose rows never change.
async fn check_privileges(conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
    const MISSING: &str = r"
        SELECT coalesce(string_agg(privilege || ' on ' || t.relname, ', ' ORDER BY t.relname, privilege), '') AS value
        FROM pg_class users
        JOIN pg_class t ON t.relnamespace = users.relnamespace AND t.relowner = users.relowner AND t.relkind IN ('r', 'p')
        CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) privilege
        WHERE users.oid = to_regclass('users') AND NOT has_table_privilege(t.oid, privilege)
            AND t.relname !~ '^__diesel' AND (t.relname, privilege) <> ('audit_log', 'UPDATE')";
    match query_text(conn, MISSING).await?.as_str() {
        "" => Ok(Passed("the role may read and write all tables".into())),
        missing => bail!(
            "the PostgreSQL role lacks the privileges {missing}: grant them as the owner of the tables with GRANT SELECT, \
             INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO <name>"
        ),
    }
}

/// Compares the clock of this machine with that of the database.
async fn check_clock(conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
    match clock_problem(conn).await? {
        None => Ok(Passed("agrees with the database's".into())),
        Some(problem) => bail!(problem),
    }
}

async fn check_redis(config: &Config) -> anyhow::Result<Vec<anyhow::Result<Finding>>> {
    let queue = app::queue(&RedisPool::new(&config.redis)?, &config.redis)
        .wait_for_replicas(config.redis_options.queue_wait_replicas);
    let server = queue.server().await?;
    let mut list = vec![Ok(Passed(format!("{} answers", server.name)))];
    list.extend(server.problems.into_iter().map(|problem| Err(anyhow::anyhow!(problem))));
    list.extend(server.warnings.into_iter().map(|warning| Ok(Warning(warning))));
    for OtherPrefix { prefix, jobs } in queue.other_prefixes().await.into_iter().take(MAX_LISTED_PREFIXES) {
        list.push(Ok(Warning(format!(
            "the prefix {prefix} has jobs ({jobs}), and no worker uses it: if they are of this product, as after a \
             change of REDIS_KEY_PREFIX, run `saas queue move --from {prefix}`"
        ))));
    }
    Ok(list)
}

/// Checks that the separate Redis of the cache answers and accepts writes. This server may evict keys and lose its data, so
/// its configuration is not checked.
async fn check_cache(settings: &Redis) -> anyhow::Result<Finding> {
    let pool = RedisPool::new(settings)?;
    let (name, server) = (settings.setting_name(), settings.location());
    pool.probe(&format!("{}:cache:probe", settings.redis_key_prefix)).await.with_context(|| {
        format!("cannot use the cache: check {name} and that a server is running at {server}")
    })?;
    Ok(Passed(format!("Redis at {server} answers")))
}

/// Checks the free space of the file system of the working directory.
fn check_disk() -> anyhow::Result<Finding> {
    let stats = rustix::fs::statvfs(".").context("cannot read the free disk space")?;
    let free_mb = stats.f_bavail.saturating_mul(stats.f_frsize) / (1024 * 1024);
    if free_mb < MIN_FREE_DISK_MB {
        bail!("{free_mb} MB free: make room, at least {MIN_FREE_DISK_MB} MB are needed");
    }
    Ok(Passed(format!("{free_mb} MB free")))
}
