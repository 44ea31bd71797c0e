//! A connection of the worker's that comes back after a fault.

use std::time::Duration;

use redis::{AsyncConnectionConfig, RedisError, aio::MultiplexedConnection};

/// Longer than any script takes, shorter than a lease.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

pub(super) struct ReconnectingConnection {
    client: redis::Client,
    config: AsyncConnectionConfig,
    conn: Option<MultiplexedConnection>,
    backoff: Duration,
    what: &'static str,
}

impl ReconnectingConnection {
    pub(super) fn new(client: &redis::Client, what: &'static str) -> Self {
        Self::with_timeout(client, what, RESPONSE_TIMEOUT)
    }

    /// For commands that block on purpose, for less than 10 s.
    pub(super) fn blocking(client: &redis::Client, what: &'static str) -> Self {
        Self::with_timeout(client, what, 2 * RESPONSE_TIMEOUT)
    }

    fn with_timeout(client: &redis::Client, what: &'static str, timeout: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(timeout));
        Self { client: client.clone(), config, conn: None, backoff: Duration::ZERO, what }
    }

    /// The connection; if there is none one attempt is made, after a pause where the last one failed.
    pub(super) async fn get(&mut self) -> Option<MultiplexedConnection> {
        if self.conn.is_none() {
            tokio::time::sleep(self.backoff).await;
            match self.client.get_multiplexed_async_connection_with_config(&self.config).await {
                Ok(conn) => self.conn = Some(conn),
                Err(error) => self.failed(&error),
            }
        }
        self.conn.clone()
    }

    /// Notes that a command was answered.
    pub(super) fn worked(&mut self) {
        if self.backoff > Duration::from_millis(200) {
            tracing::info!(connection = self.what, "Redis is back");
        }
        self.backoff = Duration::ZERO;
    }

    /// Notes a fault: whatever it was (a lost connection, LOADING, READONLY after a failover), a new connection
    /// after a pause is the cure, and the pause keeps a lasting fault from a busy loop.
    pub(super) fn failed(&mut self, error: &RedisError) {
        self.conn = None;
        if self.backoff.is_zero() {
            tracing::warn!(connection = self.what, error = %error, "Redis connection failed, trying again");
        }
        let next = (self.backoff * 2).max(Duration::from_millis(100));
        self.backoff = next.min(MAX_BACKOFF);
    }
}
