//! What enqueues, looks and operates.

use std::time::Duration;

use redis::{RedisError, ScriptInvocation};

use super::{combine::Combiner, scripts};
use crate::{
    config::Redis,
    error::{Error, Result},
    redis_pool::RedisPool,
};

/// The job queue; a clone shares its connections.
#[derive(Clone)]
pub struct Queue {
    redis: RedisPool,
    prefix: String,
    combiner: Combiner,
}

impl Queue {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// When `REDIS_URL` cannot be read.
    pub fn new(settings: &Redis) -> anyhow::Result<Self> {
        let redis = RedisPool::new(settings)?;
        Ok(Self { redis, prefix: settings.queue_prefix.clone(), combiner: Combiner::default() })
    }

    /// The connections, for who else needs Redis.
    pub fn redis(&self) -> &RedisPool {
        &self.redis
    }

    pub(super) fn client(&self) -> &redis::Client {
        self.redis.client()
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn timeout(&self) -> Duration {
        self.redis.timeout()
    }

    pub(super) fn combiner(&self) -> &Combiner {
        &self.combiner
    }

    /// Calls a script of the queue.
    pub(super) async fn invoke<T, F>(&self, call: F) -> Result<T>
    where
        T: redis::FromRedisValue,
        F: Fn() -> ScriptInvocation<'static>,
    {
        self.redis.invoke(call, refusal).await
    }
}

/// The one thing that a script refuses.
fn refusal(error: &RedisError) -> Option<Error> {
    if error.code() != Some(scripts::NO_JOB) {
        return None;
    }
    let id = error.detail().and_then(|text| text.split_whitespace().next()).unwrap_or_default();
    Some(Error::invalid("place", "after", format!("there is no job {id} (any more)")))
}
