//! Waits, while the worker is idle, for something to do.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::reconnecting_connection::ReconnectingConnection;

/// How long it waits before the worker looks by itself, in seconds.
const BLOCK_TIMEOUT_SECS: f64 = 5.0;

/// Says when there may be something to fetch. It waits for a marker, never for a job: a blocking command whose
/// answer is lost would take the job with it.
pub(super) struct IdleNotifier {
    pub(super) arm: Arc<Notify>,
    pub(super) woke: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl IdleNotifier {
    pub(super) fn start(client: &redis::Client, prefix: &str, queues: &[String]) -> Self {
        let (arm, woke) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let keys: Vec<_> = queues.iter().map(|queue| format!("{prefix}:wake:{queue}")).collect();
        let mut connection = ReconnectingConnection::blocking(client, "notifier");
        let (armed, awake) = (arm.clone(), woke.clone());
        let task = tokio::spawn(async move {
            loop {
                armed.notified().await;
                let Some(mut conn) = connection.get().await else {
                    // The worker looks by itself, and finds the same.
                    awake.notify_one();
                    continue;
                };
                let mut command = redis::cmd("BZPOPMIN");
                command.arg(&keys).arg(BLOCK_TIMEOUT_SECS);
                match command.query_async::<redis::Value>(&mut conn).await {
                    Ok(_) => connection.worked(),
                    Err(error) => connection.failed(&error),
                }
                awake.notify_one();
            }
        });
        Self { arm, woke, _task: AbortOnDropHandle::new(task) }
    }
}
