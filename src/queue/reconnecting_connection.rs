//! A connection of a worker that reconnects after an error.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::sync::watch;

use super::connector::Connector;

/// Much longer than a script normally takes, and shorter than the default lease.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is pinged before it is used, because the server may have closed it. The shortest idle
/// time-out that can be set in Redis is a second.
const PING_AFTER_IDLE: Duration = Duration::from_millis(500);

/// A dedicated connection that reconnects with back-off.
///
/// Servers, poolers and firewalls close idle connections. So a closed connection is replaced without a warning, unless the
/// new connection is closed at once, too. Of several failures to connect in a row, the first is logged. When another server
/// has become the primary, the connection is replaced without back-off.
pub(super) struct ReconnectingConnection {
    connector: Arc<dyn Connector>,
    response_timeout: Duration,
    primary_changes: watch::Receiver<u64>,
    /// The connection, and the number of changes of the primary when it was opened.
    conn: Option<(MultiplexedConnection, u64)>,
    /// The number of changes of the primary when the last attempt to connect began.
    changes_at_attempt: u64,
    /// When Redis last answered, or accepted the connection.
    answered_at: Instant,
    /// Whether the connection replaces a closed one, and Redis has not answered since.
    is_replacement: bool,
    backoff: Duration,
    /// The name of the connection in the log.
    name: &'static str,
}

impl ReconnectingConnection {
    pub(super) fn new(connector: &Arc<dyn Connector>, name: &'static str) -> Self {
        Self::with_timeout(connector, name, RESPONSE_TIMEOUT)
    }

    /// Creates a connection for commands that block for less than 10 s.
    pub(super) fn blocking(connector: &Arc<dyn Connector>, name: &'static str) -> Self {
        Self::with_timeout(connector, name, 2 * RESPONSE_TIMEOUT)
    }

    fn with_timeout(connector: &Arc<dyn Connector>, name: &'static str, response_timeout: Duration) -> Self {
        Self {
            connector: connector.clone(),
            response_timeout,
            primary_changes: connector.primary_changes(),
            conn: None,
            changes_at_attempt: 0,
            answered_at: Instant::now(),
            is_replacement: false,
            backoff: Duration::ZERO,
            name,
        }
    }

    /// Returns the connection. If there is none, makes one attempt to connect, after the back-off; `None` if that fails.
    pub(super) async fn get(&mut self) -> Option<MultiplexedConnection> {
        self.discard_if_closed().await;
        if self.is_outdated() {
            (self.conn, self.backoff) = (None, Duration::ZERO);
        }
        if self.conn.is_none() {
            tokio::select! {
                () = tokio::time::sleep(self.backoff) => {}
                () = changed_from(self.changes_at_attempt, self.primary_changes.clone()) => {
                    self.backoff = Duration::ZERO;
                }
            }
            self.changes_at_attempt = *self.primary_changes.borrow();
            match self.connector.connect(CONNECT_TIMEOUT, self.response_timeout).await {
                Ok(opened) => {
                    tracing::debug!(connection = self.name, "connected to Redis");
                    self.conn = Some(opened);
                    self.answered_at = Instant::now();
                }
                Err(error) => self.record_failure(&error),
            }
        }
        self.conn.as_ref().map(|(conn, _)| conn.clone())
    }

    /// Awaits an answer of the connection.
    ///
    /// # Errors
    /// If the primary has changed since the connection was opened: the old primary may never answer.
    pub(super) async fn answer<T>(&self, answer: impl Future<Output = T>) -> RedisResult<T> {
        let changes = self.conn.as_ref().map_or(0, |(_, changes)| *changes);
        before_change(changes, self.primary_changes.clone(), answer).await
    }

    /// Returns whether the primary has changed since the connection was opened.
    fn is_outdated(&self) -> bool {
        self.conn.as_ref().is_some_and(|(_, changes)| *changes != *self.primary_changes.borrow())
    }

    /// Pings an idle connection, and discards it if it does not answer.
    async fn discard_if_closed(&mut self) {
        let is_idle = self.answered_at.elapsed() >= PING_AFTER_IDLE;
        let Some((conn, _)) = self.conn.as_ref().filter(|_| is_idle) else { return };
        let (mut conn, ping) = (conn.clone(), redis::cmd("PING"));
        let answer: RedisResult<()> = self.answer(ping.query_async(&mut conn)).await.flatten();
        match answer {
            Err(error) if error.is_io_error() => self.discard(&error),
            // If the server answers with an error, the connection works.
            _ => self.record_answer(),
        }
    }

    fn record_answer(&mut self) {
        (self.answered_at, self.is_replacement) = (Instant::now(), false);
    }

    /// Discards a connection that was closed.
    fn discard(&mut self, error: &RedisError) {
        tracing::debug!(connection = self.name, error = %error, "Redis connection was closed, reconnecting");
        (self.conn, self.is_replacement) = (None, true);
    }

    /// Records that a command was answered.
    pub(super) fn record_success(&mut self) {
        self.record_answer();
        if self.backoff > Duration::from_millis(200) {
            tracing::info!(connection = self.name, "Redis answers again");
        }
        self.backoff = Duration::ZERO;
    }

    /// Records an error. The next call of [`Self::get`] replaces the connection, because the server may be down or no longer
    /// the primary. The back-off prevents a busy loop.
    pub(super) fn record_failure(&mut self, error: &RedisError) {
        // A connection that waits for a blocking command may be closed as idle, too.
        let was_usable = !self.is_replacement || self.answered_at.elapsed() >= PING_AFTER_IDLE;
        if self.conn.is_some() && was_usable && self.backoff.is_zero() && is_closed(error) {
            return self.discard(error);
        }
        self.conn = None;
        if self.backoff.is_zero() {
            tracing::warn!(connection = self.name, error = %error, "Redis connection failed, reconnecting");
        }
        let next = (self.backoff * 2).max(Duration::from_millis(100));
        self.backoff = next.min(MAX_BACKOFF);
    }
}

/// Awaits an answer of a connection that was opened when the number of changes of the primary was `changes`.
///
/// # Errors
/// If the number changes, or has changed, before the answer is ready: the old primary may never answer.
pub(super) async fn before_change<T>(
    changes: u64,
    primary_changes: watch::Receiver<u64>,
    answer: impl Future<Output = T>,
) -> RedisResult<T> {
    tokio::select! {
        biased;
        answer = answer => Ok(answer),
        () = changed_from(changes, primary_changes) => {
            let changed = "another server has become the primary of Redis";
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, changed).into())
        }
    }
}

/// Waits until the number of changes of the primary is not `before`.
async fn changed_from(before: u64, mut primary_changes: watch::Receiver<u64>) {
    let has_changed = primary_changes.wait_for(|changes| *changes != before).await.is_ok();
    if !has_changed {
        // The sender is dropped, so the number does not change again.
        std::future::pending::<()>().await;
    }
}

/// Returns whether an error is an I/O error other than a time-out, such as a closed or refused connection.
pub(super) fn is_closed(error: &RedisError) -> bool {
    error.is_io_error() && !error.is_timeout()
}
