//! A connection of a worker that reconnects after an error.

use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, RedisError, RedisResult, aio::MultiplexedConnection};

/// Longer than any script takes, and shorter than the default lease.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A connection that was idle for longer is pinged before it is used. Servers close idle connections after a second or more.
const PING_AFTER_IDLE: Duration = Duration::from_millis(500);

/// A dedicated connection that reconnects with back-off.
///
/// Servers, poolers and firewalls close idle connections. So a closed connection is replaced without a warning, unless it
/// is closed at once again. A failure to replace it is logged.
pub(super) struct ReconnectingConnection {
    client: redis::Client,
    config: AsyncConnectionConfig,
    conn: Option<MultiplexedConnection>,
    /// When Redis last answered, or accepted the connection.
    answered_at: Instant,
    /// Whether the connection replaces a closed one, and Redis has not answered since.
    is_replacement: bool,
    backoff: Duration,
    /// Its name in the log.
    name: &'static str,
}

impl ReconnectingConnection {
    pub(super) fn new(client: &redis::Client, name: &'static str) -> Self {
        Self::with_timeout(client, name, RESPONSE_TIMEOUT)
    }

    /// Creates a connection for commands that block for up to 10 s.
    pub(super) fn blocking(client: &redis::Client, name: &'static str) -> Self {
        Self::with_timeout(client, name, 2 * RESPONSE_TIMEOUT)
    }

    fn with_timeout(client: &redis::Client, name: &'static str, timeout: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(timeout));
        Self {
            client: client.clone(),
            config,
            conn: None,
            answered_at: Instant::now(),
            is_replacement: false,
            backoff: Duration::ZERO,
            name,
        }
    }

    /// Returns the connection. If there is none, makes one attempt to connect, after the back-off; `None` if that fails.
    pub(super) async fn get(&mut self) -> Option<MultiplexedConnection> {
        self.discard_if_closed().await;
        if self.conn.is_none() {
            tokio::time::sleep(self.backoff).await;
            match self.client.get_multiplexed_async_connection_with_config(&self.config).await {
                Ok(conn) => {
                    tracing::debug!(connection = self.name, "connected to Redis");
                    self.conn = Some(conn);
                    self.answered_at = Instant::now();
                }
                Err(error) => self.record_failure(&error),
            }
        }
        self.conn.clone()
    }

    /// Pings an idle connection, and discards it if it does not answer.
    async fn discard_if_closed(&mut self) {
        let is_idle = self.answered_at.elapsed() >= PING_AFTER_IDLE;
        let Some(conn) = self.conn.as_mut().filter(|_| is_idle) else { return };
        let answer: RedisResult<()> = redis::cmd("PING").query_async(conn).await;
        match answer {
            Err(error) if error.is_io_error() => self.discard(&error),
            // Also an error of the server shows that the connection works.
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

    /// Reports that a command was answered.
    pub(super) fn record_success(&mut self) {
        self.record_answer();
        if self.backoff > Duration::from_millis(200) {
            tracing::info!(connection = self.name, "Redis answers again");
        }
        self.backoff = Duration::ZERO;
    }

    /// Reports an error, after which the connection is replaced. A new connection helps with every cause: a lost
    /// connection, `LOADING`, `READONLY` after a failover. The back-off prevents a busy loop.
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

/// Returns whether an error says that a connection was closed, unlike one that does not answer in time.
pub(super) fn is_closed(error: &RedisError) -> bool {
    error.is_io_error() && !error.is_timeout()
}
