//! Checks of the server of a connection: whether the server is of the kind in `target_session_attrs`, and accepts writes now.

use diesel::{QueryResult, dsl::sql, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{Client, Connection, SimpleQueryMessage};

use crate::{config::SessionAttrs, error::BoxError};

/// Returns the kinds of servers to look for. All servers are tried for one kind before any server is tried for the next kind.
pub(super) fn kinds_in_order(wanted: SessionAttrs) -> Vec<SessionAttrs> {
    match wanted {
        SessionAttrs::PreferStandby => vec![SessionAttrs::Standby, SessionAttrs::Any],
        other => vec![other],
    }
}

/// Checks with a query that a server is of the wanted kind, as libpq does for servers before PostgreSQL 14. Unlike the
/// parameters that newer servers report, a query also works through poolers.
///
/// # Errors
/// If the server is of another kind, or does not answer.
pub(super) async fn check_session<S, T>(
    client: &Client,
    connection: &mut Connection<S, T>,
    wanted: SessionAttrs,
) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    const IS_READ_ONLY: &str = "SHOW transaction_read_only";
    const IS_STANDBY: &str = "SELECT pg_catalog.pg_is_in_recovery()";
    let (question, accepted, refusal) = match wanted {
        SessionAttrs::Any | SessionAttrs::PreferStandby => return Ok(()),
        SessionAttrs::ReadWrite => (IS_READ_ONLY, "off", "the server does not accept writes"),
        SessionAttrs::ReadOnly => (IS_READ_ONLY, "on", "the server accepts writes"),
        SessionAttrs::Primary => (IS_STANDBY, "f", "the server is a standby"),
        SessionAttrs::Standby => (IS_STANDBY, "t", "the server is not a standby"),
    };
    let answer = tokio::select! {
        answer = client.simple_query(question) => answer?,
        ended = connection => {
            ended?;
            return Err("the server has closed the connection".into());
        }
    };
    let is_accepted = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0) == Some(accepted),
        _ => false,
    };
    match answer.iter().any(is_accepted) {
        true => Ok(()),
        false => Err(format!("{refusal} (see target_session_attrs)").into()),
    }
}

/// Returns whether the server accepts writes: it is neither a standby nor read-only. The answer may change while a connection
/// is open, for example because a pooler or a proxy switches to another server.
///
/// # Errors
/// If the query fails, for example because PostgreSQL does not answer.
pub async fn accepts_writes(mut conn: &AsyncPgConnection) -> QueryResult<bool> {
    let is_read_only = diesel::select(sql::<Text>("current_setting('transaction_read_only')"));
    Ok(is_read_only.get_result::<String>(&mut conn).await? == "off")
}
