//! The log of SQL statements, at the level `debug`.

use std::time::Instant;

use diesel::connection::{Instrumentation, InstrumentationEvent};
use diesel_async::{AsyncConnection, AsyncPgConnection};

use crate::error::shortened;

/// diesel puts this between a statement and its values, which may be secrets and are not logged.
const BEFORE_VALUES: &str = " -- binds: ";
/// Maximum number of characters of a statement in the log.
const MAX_SQL_CHARS: usize = 1_000;

/// Logs the statements of one connection.
struct StatementLog {
    started_at: Instant,
}

impl Instrumentation for StatementLog {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartQuery { .. } => self.started_at = Instant::now(),
            InstrumentationEvent::FinishQuery { query, error, .. } => {
                let text = query.to_string();
                let sql = text.split(BEFORE_VALUES).next().unwrap_or_default();
                tracing::debug!(
                    sql = shortened(sql, MAX_SQL_CHARS),
                    duration_ms = self.started_at.elapsed().as_micros() as f64 / 1_000.0,
                    failed = error.is_some(),
                    "statement"
                );
            }
            _ => {}
        }
    }
}

/// Logs the statements of a connection, if the level `debug` is on when the connection is opened.
pub(super) fn log_statements(conn: &mut AsyncPgConnection) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        conn.set_instrumentation(StatementLog { started_at: Instant::now() });
    }
}
