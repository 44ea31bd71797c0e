//! What happens to a job after its delivery.

use std::{sync::Arc, time::Duration};

use super::envelope::{ErrorRecord, to_json};

const MAX_BACKOFF: Duration = Duration::from_secs(60 * 60);

/// A delivery that has ended, to be settled in Redis.
pub(super) struct CompletedDelivery {
    pub(super) id: Arc<str>,
    pub(super) token: Arc<str>,
    pub(super) queue: Arc<str>,
    pub(super) disposition: Disposition,
}

/// What happens to a job after its delivery. Outcomes and errors are JSON; a `ttl` is in milliseconds.
pub(super) enum Disposition {
    Finished {
        outcome: String,
        ttl: u64,
        /// The owner and the scope, in the form of [`ended_origin`](super::outcome::ended_origin).
        origin: String,
        /// Whether Redis may hold attempts, progress or other records that must be deleted with the job.
        has_records: bool,
    },
    Canceled {
        outcome: String,
        ttl: u64,
        origin: String,
    },
    Retry {
        after: Duration,
        error: String,
    },
    Snooze {
        after: Duration,
    },
    /// This worker does not know the task, or the version of the envelope. The job is delivered again, to any worker, at most
    /// `max_redeliveries` times for this reason; the next time, it fails for good.
    UnknownTask {
        after: Duration,
        max_redeliveries: u64,
        error: String,
    },
    /// The job has failed for good.
    Dead {
        error: String,
    },
    /// The job goes back to the front of its queue or group, and no attempt is counted.
    Release,
}

impl Disposition {
    pub(super) fn is_release(&self) -> bool {
        matches!(self, Self::Release)
    }

    /// Creates [`Self::Dead`] with an error at `at`, in milliseconds since the epoch.
    pub(super) fn dead(message: &str, detail: &str, at: i64) -> Self {
        let error = ErrorRecord { message: message.into(), detail: Some(detail.into()), at };
        Self::Dead { error: to_json(&error) }
    }
}

/// Returns how long to wait before a retry: `base`, doubled with each failure after the first, up to an hour. A jitter of
/// ±25 %, which may exceed the hour, keeps jobs that failed together from retrying together.
pub(super) fn backoff(base: Duration, failures: u32) -> Duration {
    let full = base.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(MAX_BACKOFF);
    let jitter = (uuid::Uuid::new_v4().as_u128() % 1_000) as f32 / 1_000.0;
    full.mul_f32(0.75 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_a_limit() {
        let base = Duration::from_secs(5);
        for (failures, seconds) in [(1, 5.0), (2, 10.0), (3, 20.0), (40, 3600.0)] {
            for _ in 0..50 {
                let wait = backoff(base, failures).as_secs_f32();
                assert!((seconds * 0.74..=seconds * 1.26).contains(&wait), "{failures}: {wait}");
            }
        }
    }
}
