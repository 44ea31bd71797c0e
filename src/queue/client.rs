//! What enqueues, looks and operates.

use std::time::Duration;

use redis::{FromRedisValue, Script, ScriptInvocation, aio::ConnectionLike};

use super::{batcher::EnqueueBatcher, error::Result, script_client::ScriptClient};

/// The settings of a queue's client.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// Prefix of every key in Redis; `{rq}` with Redis Cluster.
    pub prefix: String,
    /// How long Redis may take to answer an attempt; a call makes two at most.
    pub timeout: Duration,
}

/// The job queue; a clone shares its connections.
#[derive(Clone)]
pub struct Queue {
    scripts: ScriptClient,
    batcher: EnqueueBatcher,
    client: redis::Client,
}

impl Queue {
    /// Sends commands on `connection`, which may repeat one whose answer was lost. Workers open connections of their
    /// own with `client`.
    pub fn new(
        connection: impl ConnectionLike + Clone + Send + Sync + 'static,
        client: redis::Client,
        options: &QueueOptions,
    ) -> Self {
        let scripts = ScriptClient::new(connection, &options.prefix, options.timeout);
        Self { batcher: EnqueueBatcher::new(scripts.clone()), scripts, client }
    }

    pub(super) fn client(&self) -> &redis::Client {
        &self.client
    }

    pub(super) fn prefix(&self) -> &str {
        self.scripts.prefix()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.scripts.timeout()
    }

    pub(super) fn scripts(&self) -> &ScriptClient {
        &self.scripts
    }

    pub(super) fn batcher(&self) -> &EnqueueBatcher {
        &self.batcher
    }

    /// A call of a script, to be given its arguments.
    pub(super) fn prepare(&self, script: &'static Script) -> ScriptInvocation<'static> {
        self.scripts.prepare(script)
    }

    /// Runs a call, as [`ScriptClient::run`].
    pub(super) async fn run<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T> {
        self.scripts.run(call).await
    }
}
