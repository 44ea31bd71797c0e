//! Connections outside the pool: for a command, the start of a server, and migrations.

use std::time::Duration;

use anyhow::bail;
use diesel::{QueryResult, QueryableByName, result::Error as DieselError, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::{Instant, sleep};

use super::connect::Target;
use crate::{
    config::{Database, DatabaseSettingNames},
    error::Error,
};

/// How long [`connect`] and [`connect_directly`] try again if the server has no free connection, or is starting or shutting
/// down.
const FREE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts to connect within [`FREE_CONNECTION_TIMEOUT`].
const FREE_CONNECTION_INTERVAL: Duration = Duration::from_millis(250);
/// SQLSTATEs of a server that has no free connection (too_many_connections), or is starting or shutting down
/// (cannot_connect_now).
/// `SqlStateStream` puts them in front of the messages.
const FULL_OR_STARTING: &[&str] = &["[53300]", "[57P03]"];
/// Parts of messages about a server that cannot be reached now.
const AWAY: &[&str] = &["refused", "no answer within", "lookup", "look-up", "No such file", "unreachable"];
/// Parts of messages about a connection that ended during the login, for example because a server or a proxy shuts down.
const ENDED: &[&str] = &["[57P", "[08", "closed", "reset by peer", "Broken pipe", "eof", "end of file"];
/// Part of the message about a server of another kind than `target_session_attrs` asks for.
const OTHER_KIND: &str = "see target_session_attrs";
/// Parts of messages about problems that only a change of the settings, the server or a pooler can fix.
const PERMANENT: &[&str] = &[
    "[28",
    "[3D000]",
    "[42",
    "[26000]",
    "password missing",
    "does not support TLS",
    "certificate",
    "startup parameter",
];

/// A parameter of the session that PostgreSQL accepts. Poolers such as PgBouncer refuse it, or do not pass it on.
const SESSION_MARK: &str = "-c saas.session=own";
const HAS_SESSION_MARK: &str = "SELECT coalesce(current_setting('saas.session', true), '') AS value";
const ENCODING: &str = "SELECT current_setting('server_encoding') AS value";

/// The fix for a pooler that loses prepared statements or mixes them up.
pub(super) const POOLER_FIX: &str = "A pooler loses prepared statements: use PgBouncer 1.21 or newer with max_prepared_statements \
                          greater than 0, or pool_mode = session";

/// The reason why a connection cannot be opened or used, with the fix if it is known.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConnectFailure {
    message: String,
    /// Whether a later attempt may succeed without a change of the settings, for example if the server is down, has no free
    /// connection, is starting or is a standby. `false` also if one of several servers has a permanent problem.
    pub is_transient: bool,
}

/// Opens a connection to PostgreSQL outside the pool, for a command or the start of a server. If the server has no free
/// connection, or is starting or shutting down, tries again for up to 5 seconds.
///
/// # Errors
/// If the settings are invalid, a file that they name cannot be read or is invalid, a root certificate is needed and none is
/// found, or the encoding of the database is not UTF-8.
/// [`ConnectFailure`] if no connection can be opened, for example because the server cannot be reached, refuses the login or is
/// of another kind than `target_session_attrs`, or if the encoding cannot be read.
pub async fn connect(settings: &Database) -> anyhow::Result<AsyncPgConnection> {
    let conn = open(&Target::new(settings.options()?)?, settings.setting_names()).await?;
    check_encoding(conn).await
}

/// Like [`connect`], but does not try again.
///
/// # Errors
/// As [`connect`].
pub async fn try_connect(settings: &Database) -> anyhow::Result<AsyncPgConnection> {
    let conn = try_open(&Target::new(settings.options()?)?, settings.setting_names()).await?;
    check_encoding(conn).await
}

/// Opens a connection with a session of its own, for migrations: to `DATABASE_DIRECT_URL` if it is set, otherwise to the
/// server of [`connect`].
///
/// A pooler in transaction mode may run each transaction in another session. A lock of a session would then protect nothing,
/// and the pooled session would keep it. So a connection that does not accept the parameter `saas.session` counts as one
/// through a pooler, and is refused.
///
/// # Errors
/// As [`connect`]; also if the connection leads through a pooler, or the query for the parameter fails.
pub async fn connect_directly(settings: &Database) -> anyhow::Result<AsyncPgConnection> {
    let names = settings.direct_setting_names();
    let plain = settings.direct_options()?;
    let mut marked = plain.clone();
    let own = plain.connection.get_options().map(|options| format!("{options} {SESSION_MARK}"));
    marked.connection.options(own.unwrap_or_else(|| SESSION_MARK.to_owned()));
    let refusal = match open(&Target::new(marked)?, names).await {
        Ok(mut conn) => {
            if text(&mut conn, HAS_SESSION_MARK).await? == "own" {
                return check_encoding(conn).await;
            }
            "it ignores the parameters of a session".to_owned()
        }
        Err(failure) if failure.is_transient => return Err(failure.into()),
        // Tries again without the parameter. If that works, a pooler has refused the parameter. Otherwise, the second error is
        // returned, because it does not mention the parameter.
        Err(failure) => match open(&Target::new(plain)?, names).await {
            Ok(_) => failure.message,
            Err(failure) => return Err(failure.into()),
        },
    };
    bail!(
        "the server of {} is a pooler, where migrations cannot hold their lock ({refusal}): set DATABASE_DIRECT_URL to the \
         URL of PostgreSQL itself",
        names.server
    )
}

/// Returns the fix for the error of a pooler that loses prepared statements. `None` for other messages, and for a message that
/// contains the fix already.
pub fn pooler_fix(message: &str) -> Option<&'static str> {
    let is_about_pooler = message.contains("[42P05]") || message.contains("[26000]");
    (is_about_pooler && !message.contains(POOLER_FIX)).then_some(POOLER_FIX)
}

async fn open(target: &Target, names: DatabaseSettingNames) -> Result<AsyncPgConnection, ConnectFailure> {
    let deadline = Instant::now() + FREE_CONNECTION_TIMEOUT;
    loop {
        match try_open(target, names).await {
            Err(failure) if has(&failure.message, FULL_OR_STARTING) && Instant::now() < deadline => {
                sleep(FREE_CONNECTION_INTERVAL).await;
            }
            result => return result,
        }
    }
}

async fn try_open(target: &Target, names: DatabaseSettingNames) -> Result<AsyncPgConnection, ConnectFailure> {
    target.connect().await.map_err(|error| {
        let problem = error.to_string();
        let message = format!("{problem}. {}", advice(&problem, names));
        ConnectFailure { message, is_transient: is_transient(&problem) }
    })
}

async fn check_encoding(mut conn: AsyncPgConnection) -> anyhow::Result<AsyncPgConnection> {
    let encoding = text(&mut conn, ENCODING).await.map_err(encoding_unknown)?;
    if encoding != "UTF8" {
        bail!(
            "the database has the encoding {encoding}, which cannot store all names and addresses; create one with \
             CREATE DATABASE name ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0, and name it in DATABASE_URL"
        );
    }
    Ok(conn)
}

/// Creates the error for an encoding that cannot be read. The failure can be transient: a server or a proxy that shuts down
/// ends the connection before the answer.
fn encoding_unknown(error: DieselError) -> ConnectFailure {
    let message = format!("cannot read the encoding of the database: {error}");
    let is_unavailable = matches!(Error::from(error), Error::Unavailable { .. });
    ConnectFailure { is_transient: is_unavailable && !has(&message, PERMANENT), message }
}

fn is_transient(problem: &str) -> bool {
    let can_pass = [FULL_OR_STARTING, AWAY, ENDED, &[OTHER_KIND]].iter().any(|texts| has(problem, texts));
    can_pass && !has(problem, PERMANENT)
}

/// Returns the fix for a failed connection, as a sentence without the period.
fn advice(problem: &str, settings: DatabaseSettingNames) -> String {
    if has(problem, &["[28P01]", "[28000]", "password missing"]) {
        return format!("Correct the user or the password in {}", settings.login);
    }
    if has(problem, &["[3D000]"]) {
        return format!("Create the database, or correct its name in {}", settings.database);
    }
    if has(problem, &["does not support TLS"]) {
        return "Turn TLS on at the server, or change sslmode in DATABASE_URL, or POSTGRES_SSLMODE".into();
    }
    if let Some(fix) = pooler_fix(problem) {
        return fix.into();
    }
    if has(problem, &["[53300]"]) {
        return "Lower DATABASE_POOL_SIZE or the number of processes, or raise max_connections of the server"
            .into();
    }
    if has(problem, &[OTHER_KIND]) {
        return format!(
            "Name the primary in {}, or all servers, separated by commas: the one that accepts writes is used",
            settings.server
        );
    }
    match has(problem, AWAY) {
        true => format!("Start the server, or correct {}", settings.server),
        false => format!("Check {}", settings.server),
    }
}

fn has(text: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| text.contains(part))
}

#[derive(QueryableByName)]
struct Answer {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn text(conn: &mut AsyncPgConnection, sql: &str) -> QueryResult<String> {
    Ok(diesel::sql_query(sql).get_result::<Answer>(conn).await?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_transient_only_if_its_reason_can_pass() {
        for problem in [
            "cannot reach PostgreSQL at db:5432 (database app): Connection refused (os error 111)",
            "db error: FATAL: [53300] sorry, too many clients already",
            "db error: FATAL: [57P03] the database system is starting up",
            "no answer within 5.0 seconds",
            "10.0.0.1:5432: Connection refused; 10.0.0.2:5432: the server does not accept writes (see target_session_attrs)",
            "failed to lookup address information: Name or service not known",
            "connection closed",
        ] {
            assert!(is_transient(problem), "{problem}");
        }
        for problem in [
            "db error: FATAL: [28P01] password authentication failed for user \"u\"",
            "10.0.0.1:5432: Connection refused; 10.0.0.2:5432: [3D000] database \"app\" does not exist",
            "error performing TLS handshake: server does not support TLS",
            "db error: FATAL: [08P01] unsupported startup parameter: options",
            "[42P05] prepared statement \"s0\" already exists",
        ] {
            assert!(!is_transient(problem), "{problem}");
        }
    }
}
