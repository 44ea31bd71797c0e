//! Redis for caching: a typed cache-aside that all replicas share.
//!
//! ```ignore
//! let total: i64 = app.cache.get_or_load("users:total", Duration::from_secs(5), async || count(&app).await).await?;
//! app.cache.invalidate("users:total").await; // after the commit of a change
//! ```
//!
//! For values that are read often, cost a lot to compute and may be stale for up to their time to live: a reader that began
//! before an [`invalidate`](Cache::invalidate) may store its old value after it. Not for what decides who may do what: the
//! values are plain JSON, and can be changed by any client of Redis.

use std::{sync::Arc, time::Duration};

use quick_cache::sync::Cache as Flights;
use redis::{Cmd, FromRedisValue};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, Result},
    redis_pool::{CircuitBreaker, RedisPool},
};

/// Redis is waited for no longer: by then the value has been computed.
const REDIS_TIMEOUT: Duration = Duration::from_millis(100);
/// Keys that are loaded at the same time by one process and share the load; more load by themselves.
const MAX_FLIGHTS: usize = 1_000;

/// The cache; a clone shares it. Keys in Redis are `<prefix>:cache:<key>`.
#[derive(Clone)]
pub struct Cache {
    redis: RedisPool,
    breaker: CircuitBreaker,
    prefix: Arc<str>,
    /// What is being loaded; the value is the JSON that its callers are answered with, `None` if the load failed.
    flights: Arc<Flights<String, Option<Arc<str>>>>,
}

impl Cache {
    pub fn new(redis: RedisPool, prefix: &str) -> Self {
        Self {
            redis,
            breaker: CircuitBreaker::new(REDIS_TIMEOUT),
            prefix: format!("{prefix}:cache:").into(),
            flights: Arc::new(Flights::new(MAX_FLIGHTS)),
        }
    }

    /// Returns the cached value of `key`; without one, what `load` returns, and stores that for `ttl` (at least a
    /// millisecond). Concurrent callers in this process share one load. Without Redis every call loads.
    ///
    /// # Errors
    /// Those of `load`, and [`Error::Unavailable`] if the load that this call shares failed. Never because Redis is
    /// unreachable or holds something else than a `T`.
    pub async fn get_or_load<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        ttl: Duration,
        load: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        let key = format!("{}{key}", self.prefix);
        let flight = match self.flights.get_value_or_guard_async(&key).await {
            Ok(Some(json)) => match serde_json::from_str(&json) {
                Ok(value) => return Ok(value),
                Err(_) => return load().await,
            },
            Ok(None) => return Err(Error::unavailable("Cache", "the load of a concurrent request failed")),
            Err(guard) => guard,
        };
        let mut landed = None;
        let result = async {
            if let Some(json) = self.command::<Option<String>>(Cmd::get(&key)).await.flatten()
                && let Ok(value) = serde_json::from_str(&json)
            {
                landed = Some(json.into());
                return Ok(value);
            }
            let value = load().await?;
            let json: Arc<str> = serde_json::to_string(&value).map_err(Error::internal)?.into();
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
            self.command::<()>(Cmd::pset_ex(&key, &*json, ttl)).await;
            landed = Some(json);
            Ok(value)
        }
        .await;
        // Answers those who wait; whoever asks later looks into Redis again.
        let _ = flight.insert(landed);
        self.flights.remove(&key);
        result
    }

    /// Discards the value of `key`; call it after the commit of what changes the value. Without Redis the value stays
    /// until its time to live is over.
    pub async fn invalidate(&self, key: &str) {
        self.command::<()>(Cmd::del(format!("{}{key}", self.prefix))).await;
    }

    async fn command<T: FromRedisValue>(&self, command: Cmd) -> Option<T> {
        self.redis.try_command(&command, &self.breaker).await.ok()
    }
}
