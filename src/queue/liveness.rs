//! Whether the loop of a worker is running.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How often a waiting worker records that it is running.
pub(super) const RECORD_INTERVAL: Duration = Duration::from_secs(1);

/// Counts how many times a worker has recorded that it is running; clones share the count.
///
/// The count grows about once a second or faster while the worker waits for jobs or for slots, and within about 20 seconds while
/// Redis does not answer. If it stays the same for longer, the loop hangs, or the async runtime is too busy to run it.
#[derive(Clone, Default)]
pub struct Liveness(Arc<AtomicU64>);

impl Liveness {
    /// Returns how many times the worker has recorded that it is running.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Records that the worker is running.
    pub fn record(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Records once a second that the worker is running, for as long as this future is polled. Never returns. For waits
    /// outside of the loop, such as the wait for Redis at the start.
    pub async fn record_regularly(&self) {
        loop {
            self.record();
            tokio::time::sleep(RECORD_INTERVAL).await;
        }
    }
}
