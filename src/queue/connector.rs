//! How workers, and calls that need a connection of their own, connect to Redis.

use std::time::Duration;

use redis::{RedisFuture, RedisResult, aio::MultiplexedConnection};
use tokio::sync::watch;

/// Connects to the Redis server that accepts writes, called the primary. A single server counts as the primary, even if it is a
/// replica.
pub trait Connector: Send + Sync + 'static {
    /// Connects; `connect_timeout` limits each attempt. Commands fail if they are not answered within `response_timeout`. Also
    /// returns the value of [`Self::primary_changes`] for the primary to which it has connected.
    ///
    /// # Errors
    /// If no primary is known, or it does not answer in time or refuses the connection.
    fn connect(
        &self,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> RedisFuture<'_, (MultiplexedConnection, u64)>;

    /// Connects, and blocks the thread; `connect_timeout` limits each attempt. For threads without an async runtime.
    ///
    /// # Errors
    /// As [`Self::connect`].
    fn connect_blocking(&self, connect_timeout: Duration) -> RedisResult<redis::Connection>;

    /// Returns a channel whose value changes when the primary or its address has changed. The caller must then replace older
    /// connections: the old primary may still accept writes, which are lost.
    fn primary_changes(&self) -> watch::Receiver<u64>;
}
