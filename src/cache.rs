//! A typed cache-aside in Redis, which all processes share.
//!
//! ```ignore
//! let total: i64 = app.cache.get_or_load("users:total", Duration::from_secs(5), async || count(&app).await).await?;
//! app.cache.invalidate("users:total").await; // after the commit of a change
//! ```
//!
//! Use it for values that are expensive to compute and may be stale for their time to live. A load that began
//! before a call of [`invalidate`](Cache::invalidate) can store the old value after that call. Do not use it
//! for permissions: the values are plain JSON, which every client of Redis can change.

use std::{sync::Arc, time::Duration};

use quick_cache::sync::Cache as Loads;
use redis::{Cmd, FromRedisValue};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, Result},
    redis_pool::{CircuitBreaker, RedisPool},
};

/// Time limit of a Redis command. When it ends, the cache continues without Redis: it loads the value, or no longer waits until
/// the value is stored or deleted.
const REDIS_TIMEOUT: Duration = Duration::from_millis(100);
/// Capacity of [`Cache::loads`]. It limits only finished loads, which are removed at once; loads in progress do not count.
const FINISHED_LOADS_CAPACITY: usize = 1_000;

/// The cache; clones share it. Keys in Redis are `<prefix>:cache:<key>`.
#[derive(Clone)]
pub struct Cache {
    redis: RedisPool,
    breaker: CircuitBreaker,
    prefix: Arc<str>,
    /// The loads in progress, by key. The value is the JSON for the waiting callers. `None` if the load or
    /// the serialization failed.
    loads: Arc<Loads<String, Option<Arc<str>>>>,
}

impl Cache {
    /// Creates the cache. `prefix` is `REDIS_KEY_PREFIX`.
    pub fn new(redis: RedisPool, prefix: &str) -> Self {
        Self {
            redis,
            breaker: CircuitBreaker::new(REDIS_TIMEOUT),
            prefix: format!("{prefix}:cache:").into(),
            loads: Arc::new(Loads::new(FINISHED_LOADS_CAPACITY)),
        }
    }

    /// Returns the cached value of `key`. If no value is cached, calls `load`, and stores and returns the loaded value. The
    /// value expires after `ttl`, or after one millisecond if `ttl` is shorter.
    ///
    /// Concurrent callers in this process share one load. If the cached value is not a `T`, this method calls `load` and
    /// replaces the value. If Redis is unavailable, this method calls `load` and does not store the value.
    ///
    /// # Errors
    /// Those of `load`; [`Error::Unavailable`] if the load that this call shares with a concurrent caller failed;
    /// [`Error::Internal`] if the value cannot be serialized.
    pub async fn get_or_load<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        ttl: Duration,
        load: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        let key = format!("{}{key}", self.prefix);
        let guard = match self.loads.get_value_or_guard_async(&key).await {
            Ok(Some(json)) => match serde_json::from_str(&json) {
                Ok(value) => return Ok(value),
                Err(_) => return load().await,
            },
            Ok(None) => return Err(Error::unavailable("Cache", "the load of a concurrent request failed")),
            Err(guard) => guard,
        };
        let mut loaded = None;
        let result = async {
            if let Some(json) = self.run_command::<Option<String>>(Cmd::get(&key)).await.flatten()
                && let Ok(value) = serde_json::from_str(&json)
            {
                loaded = Some(json.into());
                return Ok(value);
            }
            tracing::debug!(key, "not in the cache, loading");
            let value = load().await?;
            let json: Arc<str> = serde_json::to_string(&value).map_err(Error::internal)?.into();
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
            self.run_command::<()>(Cmd::pset_ex(&key, &*json, ttl)).await;
            loaded = Some(json);
            Ok(value)
        }
        .await;
        // Gives the result to the callers that wait for this load. Later callers read Redis again.
        let _ = guard.insert(loaded);
        self.loads.remove(&key);
        result
    }

    /// Deletes the value of `key`. Call it after the commit of a change. If Redis is unavailable, returns without an error, and
    /// the value can stay until its time to live ends.
    pub async fn invalidate(&self, key: &str) {
        tracing::debug!(key, "cached value invalidated");
        self.run_command::<()>(Cmd::del(format!("{}{key}", self.prefix))).await;
    }

    /// Runs a Redis command. Returns `None` if the command fails or is not answered in time, or if the circuit breaker is open.
    async fn run_command<T: FromRedisValue>(&self, command: Cmd) -> Option<T> {
        self.redis.try_command(&command, &self.breaker).await.ok()
    }
}
