//! Signals to and from a running job.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::limits::truncate;

/// Why a running job must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    Canceled,
    /// The worker shuts down. Unless the job still succeeds, it goes back to the queue.
    Shutdown,
    /// The lease is about to expire, is no longer renewed, or is gone from Redis. Another worker may run the job, and Redis may
    /// reject the result of this run.
    Lost,
}

/// The signals of one fetched job: the request to stop, and the progress that the job reports. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct JobSignals(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    token: CancellationToken,
    reason: OnceLock<StopReason>,
    /// The latest report that has not been sent.
    progress: Mutex<Option<Progress>>,
    has_reported: AtomicBool,
}

/// The progress of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Progress {
    percent: u8,
    message: String,
}

impl JobSignals {
    /// Tells the job to stop. The first reason counts.
    pub(super) fn stop(&self, reason: StopReason) {
        let _ = self.0.reason.set(reason);
        self.0.token.cancel();
    }

    /// Returns a token that is canceled when the job must stop.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Returns why the job must stop. `None` without a call of [`stop`](Self::stop), also if the job has timed out.
    pub(super) fn reason(&self) -> Option<StopReason> {
        self.0.reason.get().copied()
    }

    /// Stores progress for the next heartbeat.
    pub(super) fn report(&self, percent: u8, mut message: String) {
        truncate(&mut message);
        self.0.has_reported.store(true, Ordering::Relaxed);
        *self.0.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(Progress { percent, message });
    }

    /// Returns whether Redis may have progress of the job.
    pub(super) fn has_reported(&self) -> bool {
        self.0.has_reported.load(Ordering::Relaxed)
    }

    /// Takes the progress that has not been sent, as JSON.
    pub(super) fn take_progress(&self) -> Option<String> {
        // Most jobs never report progress, so their mutex is not locked.
        let progress = self
            .has_reported()
            .then(|| self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).take());
        serde_json::to_string(&progress??).ok()
    }
}
