//! The client of the queue: enqueues jobs, and inspects and operates queues.

use std::{sync::Arc, time::Duration};

use redis::{FromRedisValue, Script, ScriptInvocation, aio::ConnectionLike};

use super::{
    batcher::Batcher, connector::Connector, error::Result, owner::OwnerLimits, push_batches::PushBatches,
    push_client::PushClient, script_client::ScriptClient, status_batches::StatusBatches,
};

/// The settings of a [`Queue`].
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// Prefix of every key in Redis. Redis Cluster needs a hash tag, such as `{rq}`.
    pub prefix: String,
    /// How long Redis may take to answer one attempt. All attempts of one call of a script together have twice this time. To
    /// enqueue a batch of jobs takes up to three times this time, including the wait for replicas.
    pub timeout: Duration,
}

/// The job queue; clones share its connections.
#[derive(Clone)]
pub struct Queue {
    scripts: ScriptClient,
    pushes: PushClient,
    push_batches: Batcher<PushBatches>,
    status_batches: Batcher<StatusBatches>,
    connector: Arc<dyn Connector>,
    owner_limits: Option<OwnerLimits>,
}

impl Queue {
    /// Creates a client that sends its commands on `connection`.
    ///
    /// `connection` may send a command again if its answer was lost, because the client's scripts are safe to repeat. Workers,
    /// [`server`](Self::server), and pushes that wait for replicas open connections of their own with `connector`.
    pub fn new(
        connection: impl ConnectionLike + Clone + Send + Sync + 'static,
        connector: impl Connector,
        options: &QueueOptions,
    ) -> Self {
        let scripts = ScriptClient::new(connection, &options.prefix, options.timeout);
        let pushes = PushClient::new(scripts.clone());
        Self {
            push_batches: Batcher::new(PushBatches(pushes.clone())),
            status_batches: Batcher::new(StatusBatches(scripts.clone())),
            pushes,
            scripts,
            connector: Arc::new(connector),
            owner_limits: None,
        }
    }

    /// Makes each call that enqueues wait until `replicas` replicas of Redis have the jobs, at most for
    /// [`QueueOptions::timeout`]. After this time, the call fails with [`Error::Unavailable`](super::Error::Unavailable), and
    /// the jobs may run all the same. With 0, no call waits.
    pub fn wait_for_replicas(self, replicas: u32) -> Self {
        let pushes = self.pushes.wait_for_replicas(&self.connector, replicas);
        Self { push_batches: Batcher::new(PushBatches(pushes.clone())), pushes, ..self }
    }

    /// Limits how much each owner may enqueue with this client. Prepared jobs count, but no limit refuses them.
    pub fn limit_owners(self, limits: OwnerLimits) -> Self {
        Self { owner_limits: Some(limits), ..self }
    }

    /// Returns a client of another prefix on the same connection. The client does not wait for replicas.
    pub(super) fn with_prefix(&self, prefix: &str) -> Self {
        let scripts = self.scripts.with_prefix(prefix);
        let pushes = PushClient::new(scripts.clone());
        Self {
            push_batches: Batcher::new(PushBatches(pushes.clone())),
            status_batches: Batcher::new(StatusBatches(scripts.clone())),
            pushes,
            scripts,
            ..self.clone()
        }
    }

    pub(super) fn owner_limits(&self) -> Option<OwnerLimits> {
        self.owner_limits
    }

    pub(super) fn connector(&self) -> &Arc<dyn Connector> {
        &self.connector
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

    pub(super) fn pushes(&self) -> &PushClient {
        &self.pushes
    }

    pub(super) fn push_batches(&self) -> &Batcher<PushBatches> {
        &self.push_batches
    }

    pub(super) fn status_batches(&self) -> &Batcher<StatusBatches> {
        &self.status_batches
    }

    /// Returns a call of a script. The caller adds the arguments.
    pub(super) fn prepare_call(&self, script: &'static Script) -> ScriptInvocation<'static> {
        self.scripts.prepare(script)
    }

    /// Runs a call, like [`ScriptClient::run`].
    pub(super) async fn run<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T> {
        self.scripts.run(call).await
    }
}
