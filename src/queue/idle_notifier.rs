//! The task that wakes an idle worker when there may be jobs.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{connector::Connector, reconnecting_connection::ReconnectingConnection};

/// How long Redis waits for a wake-up before it answers. The worker then fetches anyway.
const BLOCK_TIMEOUT_SECS: f64 = 5.0;

/// Notifies a worker when there may be jobs to fetch.
///
/// Blocks on the keys `wake:<queue>`, not on the lists of jobs: a blocking pop removes the element even if its answer is
/// lost, and a lost job could not be recovered.
pub(super) struct IdleNotifier {
    /// The worker notifies this to ask for one notification of `woken`.
    pub(super) arm: Arc<Notify>,
    /// Notified when there may be jobs to fetch.
    pub(super) woken: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl IdleNotifier {
    pub(super) fn start(connector: &Arc<dyn Connector>, prefix: &str, queues: &[&str]) -> Self {
        let (arm, woken) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let keys: Vec<_> = queues.iter().map(|queue| format!("{prefix}:wake:{queue}")).collect();
        let mut connection = ReconnectingConnection::blocking(connector, "notifier");
        let (armed, notify) = (arm.clone(), woken.clone());
        let task = tokio::spawn(async move {
            loop {
                armed.notified().await;
                if let Some(mut conn) = connection.get().await {
                    let mut command = redis::cmd("BZPOPMIN");
                    command.arg(&keys).arg(BLOCK_TIMEOUT_SECS);
                    let answer = command.query_async::<redis::Value>(&mut conn);
                    match connection.answer(answer).await.flatten() {
                        Ok(_) => connection.record_success(),
                        Err(error) => connection.record_failure(&error),
                    }
                }
                // Also wakes the worker after an error: its next fetch then waits for Redis.
                notify.notify_one();
            }
        });
        Self { arm, woken, _task: AbortOnDropHandle::new(task) }
    }
}
