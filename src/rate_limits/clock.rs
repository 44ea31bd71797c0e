use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The value of `stopped_at` while the clock runs.
const RUNNING: u64 = u64::MAX;

/// A monotonic clock in nanoseconds since it was created.
pub struct Clock {
    created_at: Instant,
    stopped_at: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { created_at: Instant::now(), stopped_at: AtomicU64::new(RUNNING) }
    }

    pub(super) fn now(&self) -> u64 {
        match self.stopped_at.load(Ordering::Relaxed) {
            RUNNING => nanoseconds(self.created_at.elapsed()),
            stopped_at => stopped_at,
        }
    }

    /// Stops the clock at a time since its creation. Tests call this, so that their results do not depend on their speed.
    pub fn stop_at(&self, time: Duration) {
        self.stopped_at.store(nanoseconds(time), Ordering::Relaxed);
    }
}

/// Returns a duration in nanoseconds. A `u64` can hold 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(RUNNING - 1)
}
