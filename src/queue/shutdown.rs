//! The stages of a worker's shutdown.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What the jobs that were told to stop, and the last flush, may take when the grace is over.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(2);
const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The stages of stopping.
pub(super) struct Shutdown {
    pub(super) begun: CancellationToken,
    pub(super) grace_over: CancellationToken,
    /// Not even the last flush may go on.
    pub(super) over: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Shutdown {
    pub(super) fn watch(begun: CancellationToken, hurry: CancellationToken, grace: Duration) -> Self {
        let (grace_over, over) = (CancellationToken::new(), CancellationToken::new());
        let (stop, end, last) = (begun.clone(), grace_over.clone(), over.clone());
        let task = tokio::spawn(async move {
            stop.cancelled().await;
            tracing::info!(grace_s = grace.as_secs(), "worker stopping: running jobs may finish");
            tokio::select! {
                () = tokio::time::sleep(grace) => {}
                () = hurry.cancelled() => {}
            }
            end.cancel();
            tokio::time::sleep(STOP_TIMEOUT + FINAL_FLUSH_TIMEOUT).await;
            last.cancel();
        });
        Self { begun, grace_over, over, _task: AbortOnDropHandle::new(task) }
    }
}
