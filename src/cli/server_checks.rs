//! The wait at start until PostgreSQL and Redis can be used, and the checks of these servers.

use std::time::Duration;

use anyhow::{Context, bail};
use diesel_async::AsyncPgConnection;
use tokio::time::{Instant, sleep};

use crate::{
    config::{Config, Redis},
    db::{self, ConnectFailure, ConnectionBudget},
    error::chain,
    queue::{Queue, Server, is_transient},
};

/// Time between two attempts to reach Redis.
const REDIS_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The first pause between two attempts to reach PostgreSQL. The pause doubles up to [`MAX_DATABASE_RETRY_INTERVAL`].
const FIRST_DATABASE_RETRY_INTERVAL: Duration = Duration::from_millis(250);
const MAX_DATABASE_RETRY_INTERVAL: Duration = Duration::from_secs(4);

/// Connects to PostgreSQL, with retries for up to `DATABASE_WAIT_SECONDS`, and warns if it has too few connections for this
/// process. Returns the connection.
///
/// # Errors
/// If no attempt in this time succeeds, or an attempt fails for a reason that no retry resolves, such as a wrong password.
pub(super) async fn wait_for_database(config: &Config) -> anyhow::Result<AsyncPgConnection> {
    let limit = Duration::from_secs(config.database_pool.database_wait_seconds);
    let (deadline, mut pause) = (Instant::now() + limit, FIRST_DATABASE_RETRY_INTERVAL);
    loop {
        let error = match connect(config).await {
            Ok(conn) => return Ok(conn),
            Err(error) => error,
        };
        let is_temporary = error.downcast_ref::<ConnectFailure>().is_some_and(|failure| failure.is_transient);
        if !is_temporary || Instant::now() + pause >= deadline {
            return Err(error);
        }
        if pause == FIRST_DATABASE_RETRY_INTERVAL {
            tracing::warn!(
                error = chain(error.as_ref()),
                wait_seconds = limit.as_secs(),
                "cannot use PostgreSQL, retrying"
            );
        }
        sleep(pause).await;
        pause = (2 * pause).min(MAX_DATABASE_RETRY_INTERVAL);
    }
}

/// Connects to PostgreSQL once, and warns if it has too few connections for this process.
async fn connect(config: &Config) -> anyhow::Result<AsyncPgConnection> {
    let conn = db::try_connect(&config.database).await?;
    match ConnectionBudget::read(&conn, config.database_pool.database_pool_size).await {
        Ok(budget) => {
            if let Some(problem) = budget.problem() {
                tracing::warn!("PostgreSQL connections: {problem}");
            }
            Ok(conn)
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "cannot read how many connections PostgreSQL has");
            // The error may have ended the connection, so this opens a new one.
            db::try_connect(&config.database).await
        }
    }
}

/// Checks the role `saas_tenant`, by which PostgreSQL isolates the data of organizations.
///
/// # Errors
/// If the role `saas_tenant` cannot be used, lacks privileges or is not restricted; the message has the SQL statements that
/// fix it. Also if the database does not answer.
pub(super) async fn check_tenant_role(conn: &AsyncPgConnection) -> anyhow::Result<()> {
    let problems = db::tenant_role_problems(conn).await?;
    match problems.is_empty() {
        true => Ok(()),
        false => bail!("refusing to start: {}", problems.join(" ")),
    }
}

/// Waits until Redis answers and accepts writes. Then checks its version, its configuration and the permissions of the user,
/// and logs warnings.
///
/// # Errors
/// If no retry resolves the error, such as a wrong password; if Redis is too old, may evict jobs, or is a cluster and the
/// prefix has no hash tag; or if the user lacks a permission.
pub(super) async fn wait_for_usable_redis(queue: &Queue, settings: &Redis) -> anyhow::Result<()> {
    let mut logged = false;
    let server = settings.location();
    loop {
        match queue.server().await {
            Ok(found) => return check_server(&found),
            Err(error) if !is_transient(&error) => {
                let name = settings.setting_name();
                return Err(error).with_context(|| {
                    format!("cannot use Redis at {server}: check {name}, its user and password")
                });
            }
            Err(error) if !logged => {
                match error.is_io_error() {
                    true => tracing::warn!(error = %error, server, "cannot reach Redis, retrying"),
                    false => tracing::warn!(error = %error, server, "Redis cannot be used now, retrying"),
                }
                logged = true;
            }
            Err(_) => {}
        }
        sleep(REDIS_RETRY_INTERVAL).await;
    }
}

fn check_server(server: &Server) -> anyhow::Result<()> {
    server.warnings.iter().for_each(|warning| tracing::warn!("Redis: {warning}"));
    if !server.problems.is_empty() {
        bail!("refusing to keep jobs in this Redis:\n  - {}", server.problems.join("\n  - "));
    }
    Ok(())
}
