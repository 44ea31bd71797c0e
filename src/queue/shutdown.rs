//! The stages of a worker's shutdown.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long jobs may take to stop after the grace period.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(2);
const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The stages of a worker's shutdown, each a token that is canceled when the stage begins.
pub(super) struct Shutdown {
    /// No more jobs are fetched; running jobs may finish.
    pub(super) requested: CancellationToken,
    /// Running jobs must stop.
    pub(super) grace_over: CancellationToken,
    /// The worker exits, even if Redis has not answered.
    pub(super) deadline: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Shutdown {
    /// Starts the stages when `requested` is canceled. Canceling `now` ends the grace period early.
    pub(super) fn watch(requested: CancellationToken, now: CancellationToken, grace: Duration) -> Self {
        let (grace_over, deadline) = (CancellationToken::new(), CancellationToken::new());
        let (first, second, third) = (requested.clone(), grace_over.clone(), deadline.clone());
        let task = tokio::spawn(async move {
            first.cancelled().await;
            tracing::info!(grace_s = grace.as_secs(), "worker stopping: running jobs may finish");
            tokio::select! {
                () = tokio::time::sleep(grace) => {}
                () = now.cancelled() => {}
            }
            second.cancel();
            tokio::time::sleep(STOP_TIMEOUT + FINAL_FLUSH_TIMEOUT).await;
            third.cancel();
        });
        Self { requested, grace_over, deadline, _task: AbortOnDropHandle::new(task) }
    }
}
