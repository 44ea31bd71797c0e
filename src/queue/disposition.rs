//! What happens to a job after its delivery.

use std::{sync::Arc, time::Duration};

use super::envelope::{ErrorRecord, to_json};

/// A delivery that has ended, to be settled in Redis.
pub(super) struct CompletedDelivery {
    pub(super) id: Arc<str>,
    pub(super) token: Arc<str>,
    pub(super) lease: Arc<str>,
    pub(super) queue: Arc<str>,
    pub(super) disposition: Disposition,
}

/// What happens to a job after its delivery. Texts are JSON, times to live are in milliseconds.
pub(super) enum Disposition {
    Finished {
        outcome: String,
        ttl: u64,
        /// Whether Redis may have more about the job than its envelope.
        clear: bool,
    },
    Canceled {
        outcome: String,
        ttl: u64,
    },
    Retry {
        after: Duration,
        error: String,
    },
    Snooze {
        after: Duration,
    },
    /// This worker does not know the task: other workers get the job, until it was delivered `max_deliveries` times.
    UnknownTask {
        after: Duration,
        max_deliveries: u64,
        error: String,
    },
    /// The job has failed for good.
    Dead {
        error: String,
    },
    /// The job goes back to the queue as if it had not been fetched.
    Release,
}

impl Disposition {
    /// The job has failed for good at `at`, in milliseconds since the epoch.
    pub(super) fn dead(message: &str, detail: &str, at: i64) -> Self {
        let error = ErrorRecord { message: message.into(), detail: Some(detail.into()), at };
        Self::Dead { error: to_json(&error) }
    }
}
