//! What is said to and by a running job.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::limits::truncate;

/// Why a running job has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    Canceled,
    /// The worker is stopping: the job goes back to the queue.
    Shutdown,
    /// The lease is gone: somebody else runs the job, and what becomes of this run does not count.
    Lost,
}

/// What is said to and by one running job: that it has to stop, where the first reason counts, and how far it has
/// come.
#[derive(Debug, Clone, Default)]
pub(super) struct JobSignals(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    token: CancellationToken,
    reason: OnceLock<StopReason>,
    /// The last word that was not sent yet.
    progress: Mutex<Option<Progress>>,
    reported: AtomicBool,
}

/// How far a job has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Progress {
    percent: u8,
    message: String,
}

impl JobSignals {
    pub(super) fn now(&self, reason: StopReason) {
        let _ = self.0.reason.set(reason);
        self.0.token.cancel();
    }

    pub(super) fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    pub(super) fn reason(&self) -> Option<StopReason> {
        self.0.reason.get().copied()
    }

    pub(super) fn report(&self, percent: u8, mut message: String) {
        truncate(&mut message);
        self.0.reported.store(true, Ordering::Relaxed);
        *self.0.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(Progress { percent, message });
    }

    /// Whether there may be a word of it in Redis.
    pub(super) fn has_reported(&self) -> bool {
        self.0.reported.load(Ordering::Relaxed)
    }

    pub(super) fn unsent(&self) -> Option<String> {
        // Most never report: they are not locked for it.
        let progress = self
            .has_reported()
            .then(|| self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).take());
        serde_json::to_string(&progress??).ok()
    }
}
