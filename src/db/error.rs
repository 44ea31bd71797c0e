//! The meaning of PostgreSQL errors: for the client, for the connection, and for retries.

use std::time::Duration;

use diesel::result::{DatabaseErrorKind as Kind, Error as DieselError};

use super::{sqlstate::sqlstate, standalone::POOLER_FIX};
use crate::error::{Error, chain};

/// Maximum attempts of a statement or transaction that fails with a deadlock or serialization failure.
const MAX_ATTEMPTS: u32 = 4;
/// The pause after the first conflict. The pause after the n-th conflict is n times as long.
const CONFLICT_PAUSE: Duration = Duration::from_millis(10);

/// Prefixes of the SQLSTATEs of a server that cannot run the statement now, for example because it has no free connection, shuts
/// down, is read-only after a failover, or has found a deadlock.
const UNAVAILABLE_SQLSTATES: &[&str] = &["08", "53", "57P", "25006", "55P03", "57014", "40001", "40P01"];
/// Prefixes of the SQLSTATEs after which the connection is discarded: a new connection may lead to another server, and has no
/// stale prepared statements.
const USELESS_CONNECTION_SQLSTATES: &[&str] = &["08", "57P", "25006", "0A000", "26000", "42P05"];
/// The SQLSTATE of a write on a standby or a read-only server.
const READ_ONLY_SQLSTATES: &[&str] = &["25006"];
/// The SQLSTATEs of a prepared statement that the session does not have, or has already: a pooler has given the connection
/// another session.
const LOST_STATEMENT_SQLSTATES: &[&str] = &["26000", "42P05"];
/// The SQLSTATEs of a prepared statement whose result type has changed (0A000), or that a pooler has lost. PostgreSQL uses
/// 0A000 also for unsupported features: such a statement fails on each connection.
const STALE_STATEMENT_SQLSTATES: &[&str] = &["0A000", "26000"];
/// The SQLSTATEs of a serialization failure and a deadlock. Another attempt can succeed.
const CONFLICT_SQLSTATES: &[&str] = &["40001", "40P01"];

impl From<DieselError> for Error {
    fn from(error: DieselError) -> Self {
        if sqlstate(&error).is_some_and(|code| is_one_of(code, LOST_STATEMENT_SQLSTATES)) {
            return Self::unavailable("Database", LostStatement(error));
        }
        let is_unavailable = match &error {
            DieselError::DatabaseError(Kind::UnableToSendCommand | Kind::ClosedConnection, _)
            | DieselError::BrokenTransactionManager => true,
            _ => sqlstate(&error).is_some_and(|code| is_one_of(code, UNAVAILABLE_SQLSTATES)),
        };
        if is_unavailable { Self::unavailable("Database", error) } else { Self::internal(error) }
    }
}

/// The error of an open connection whose server accepts no writes.
#[derive(Debug, thiserror::Error)]
#[error("the server accepts no writes: it is a standby or read-only")]
pub(super) struct ReadOnlyServer;

/// An error about a prepared statement that a pooler has lost or mixed up, with the fix.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0, POOLER_FIX)]
struct LostStatement(DieselError);

/// Returns whether the connection that reported an error must be discarded. The pool discards closed connections by itself.
pub(super) fn ends_connection(error: &Error) -> bool {
    has_code(error, USELESS_CONNECTION_SQLSTATES) || is_read_only(error)
}

/// Returns whether the server accepts no writes, so that other connections to it are useless too.
pub(super) fn is_read_only(error: &Error) -> bool {
    let is_refused_by_us =
        matches!(error, Error::Unavailable { source, .. } if source.is::<ReadOnlyServer>());
    is_refused_by_us || has_code(error, READ_ONLY_SQLSTATES)
}

/// Returns whether the prepared statement may be stale, so that the same statement can succeed on another connection.
pub(super) fn is_stale_statement(error: &Error) -> bool {
    has_code(error, STALE_STATEMENT_SQLSTATES)
}

/// Counts the deadlocks and serialization failures of one statement or transaction. After such a failure, PostgreSQL has
/// rolled back the statement or transaction, so it can run again.
#[derive(Default)]
pub(super) struct Conflicts(u32);

impl Conflicts {
    /// Returns whether the error is a conflict and another attempt is allowed.
    pub(super) fn allow_retry(&mut self, error: &Error) -> bool {
        if !has_code(error, CONFLICT_SQLSTATES) {
            return false;
        }
        self.0 += 1;
        tracing::debug!(error = chain(error), attempt = self.0, "conflict with another transaction");
        self.0 < MAX_ATTEMPTS
    }

    /// Waits before the next attempt.
    pub(super) async fn pause(&self) {
        tokio::time::sleep(CONFLICT_PAUSE * self.0).await;
    }
}

fn has_code(error: &Error, codes: &[&str]) -> bool {
    let (Error::Internal(source) | Error::Unavailable { source, .. }) = error else { return false };
    let error = source.downcast_ref::<DieselError>();
    let error = error.or_else(|| source.downcast_ref::<LostStatement>().map(|lost| &lost.0));
    let code = error.and_then(sqlstate);
    code.is_some_and(|code| is_one_of(code, codes))
}

fn is_one_of(code: &str, codes: &[&str]) -> bool {
    codes.iter().any(|prefix| code.starts_with(prefix))
}
