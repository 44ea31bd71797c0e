//! The checks of the PostgreSQL server and of the connections to it.

use anyhow::{Context, bail};
use diesel_async::AsyncPgConnection;

use super::{
    Args,
    Finding::{self, Passed, Warning},
    query_text,
};
use crate::{
    config::Database,
    db::{self, ConnectionBudget},
};

/// Selects a text that is the same for all connections to one database of a running server. All roles may run the query.
/// The time is in UTC, because a role can have a time zone and a format of its own.
const DATABASE_IDENTITY: &str = "SELECT current_database() || ' of the server that started at ' \
    || to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || ' UTC' AS value";

impl Args {
    /// Compares the numbers of connections that the server allows and has free with the number that a process opens.
    pub(super) async fn connections(&self, conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
        let budget = ConnectionBudget::read(conn, self.config.database_pool.database_pool_size).await?;
        match budget.problem() {
            None => Ok(Passed(budget.summary())),
            Some(problem) if budget.is_too_small() => bail!(problem),
            Some(problem) => Ok(Warning(problem)),
        }
    }
}

/// Reads the version, and checks that the server accepts writes: `target_session_attrs` can allow a standby.
pub(super) async fn server(conn: &AsyncPgConnection, settings: &Database) -> anyhow::Result<Finding> {
    let version = query_text(conn, "SELECT current_setting('server_version') AS value").await?;
    if !db::accepts_writes(conn).await? {
        bail!(
            "PostgreSQL {version} answers, but accepts no writes: it is a standby or read-only. Name the primary in {}, or \
             all servers, separated by commas, and remove target_session_attrs",
            settings.setting_names().server
        );
    }
    Ok(Passed(format!("PostgreSQL {version} answers and accepts writes")))
}

/// Checks that migrations connect without a pooler, and to the database of the product.
pub(super) async fn session(conn: &AsyncPgConnection, settings: &Database) -> anyhow::Result<Finding> {
    let direct = match db::connect_directly(settings).await {
        Ok(direct) => direct,
        Err(error) if settings.has_direct_url() => {
            return Err(error).context("`saas migrate` cannot use DATABASE_DIRECT_URL");
        }
        Err(error) => return Ok(Warning(format!("`saas migrate` cannot run: {error:#}"))),
    };
    let (direct, own) =
        (query_text(&direct, DATABASE_IDENTITY).await?, query_text(conn, DATABASE_IDENTITY).await?);
    if direct != own {
        bail!(
            "DATABASE_DIRECT_URL leads to {direct}, but {} to {own}: name the same database in both",
            settings.setting_names().server
        );
    }
    Ok(Passed("migrations have a session of their own".into()))
}

/// Checks the role `saas_tenant`, by which PostgreSQL isolates the data of organizations.
pub(super) async fn tenants(conn: &AsyncPgConnection) -> anyhow::Result<Finding> {
    let problems = db::tenant_role_problems(conn).await?;
    match problems.is_empty() {
        true => Ok(Passed("the role saas_tenant isolates the data of organizations".into())),
        false => bail!(problems.join(" ")),
    }
}
