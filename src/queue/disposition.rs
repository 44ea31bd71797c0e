//! What is to become of a job whose delivery is over.

use std::{sync::Arc, time::Duration};

use super::envelope::{ErrorRecord, record};

/// A delivery that is over, and what is to become of the job.
pub(super) struct CompletedDelivery {
    pub(super) id: Arc<str>,
    pub(super) token: Arc<str>,
    pub(super) lease: Arc<str>,
    pub(super) queue: Arc<str>,
    pub(super) disposition: Disposition,
}

pub(super) enum Disposition {
    Finished {
        outcome: String,
        ttl: u64,
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
    /// Left to others, `most` times.
    Unknown {
        after: Duration,
        most: u64,
        error: String,
    },
    Dead {
        error: String,
    },
    /// Back to the queue as if it had not been fetched; refused by Redis where somebody else has it by now.
    Release,
}

impl Disposition {
    pub(super) fn dead(message: &str, detail: &str, at: i64) -> Self {
        let error = ErrorRecord { message: message.into(), detail: Some(detail.into()), at };
        Self::Dead { error: record(&error) }
    }
}
