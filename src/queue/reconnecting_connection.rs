//! A connection of a worker that reconnects after an error.

use std::time::Duration;

use redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection};

/// Longer than any script takes, and shorter than the default lease.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// A dedicated connection that reconnects with back-off.
pub(super) struct ReconnectingConnection {
    client: redis::Client,
    config: AsyncConnectionConfig,
    conn: Option<MultiplexedConnection>,
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
        Self { client: client.clone(), config, conn: None, backoff: Duration::ZERO, name }
    }

    /// Returns the connection. If there is none, makes one attempt to connect, after the back-off; `None` if that fails.
    pub(super) async fn get(&mut self) -> Option<MultiplexedConnection> {
        if self.conn.is_none() {
            tokio::time::sleep(self.backoff).await;
            match self.client.get_multiplexed_async_connection_with_config(&self.config).await {
                Ok(conn) => self.conn = Some(conn),
                Err(error) => self.record_failure(&error),
            }
        }
        self.conn.clone()
    }

    /// Reports that a command was answered.
    pub(super) fn record_success(&mut self) {
        if self.backoff > Duration::from_millis(200) {
            tracing::info!(connection = self.name, "Redis answers again");
        }
        self.backoff = Duration::ZERO;
    }

    /// Reports an error, after which the connection is replaced. A new connection helps with every cause: a lost
    /// connection, `LOADING`, `READONLY` after a failover. The back-off prevents a busy loop.
    pub(super) fn record_failure(&mut self, error: &RedisError) {
        self.conn = None;
        if self.backoff.is_zero() {
            tracing::warn!(connection = self.name, error = %error, "Redis connection failed, reconnecting");
        }
        let next = (self.backoff * 2).max(Duration::from_millis(100));
        self.backoff = next.min(MAX_BACKOFF);
    }
}
