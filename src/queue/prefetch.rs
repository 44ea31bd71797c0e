//! The jobs that a worker fetches before it has free slots for them.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::delivery::Delivery;

/// Minimum ratio of the round trip to the run time at which prefetching pays off. Below it, the slots are rarely idle.
const MIN_ROUND_TRIP_PER_RUN: f64 = 0.1;
/// Maximum number of jobs that wait for a slot.
const MAX_WAITING_JOBS: usize = 500;
/// If no waiting job starts for this long, all of them go back to their queues, where another worker may have a free slot.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// The weight of a new value in the exponential moving averages of run times and round trips.
const NEW_VALUE_WEIGHT: f64 = 0.125;

/// Fetched jobs that wait for a slot, and how many to fetch.
///
/// Without prefetching, the slot of a short job would be mostly idle: the job ends long before the next round trip fetches
/// another. While jobs are short, the
/// worker prefetches about twice as many jobs as end between two round trips, up to [`MAX_WAITING_JOBS`].
#[derive(Default)]
pub(super) struct Prefetch {
    waiting: VecDeque<Delivery>,
    /// When a job was added while none waited, or when a waiting job last started, whichever is later. `None` if no job waits.
    stalled_since: Option<Instant>,
    /// How many jobs should wait.
    target: usize,
    mean_run_seconds: f64,
    mean_round_trip_seconds: f64,
}

impl Prefetch {
    /// Returns how many more jobs to fetch ahead.
    pub(super) fn missing(&self) -> usize {
        self.target.saturating_sub(self.waiting.len())
    }

    /// Records the time that a job ran.
    pub(super) fn record_run(&mut self, took: Duration) {
        self.mean_run_seconds += NEW_VALUE_WEIGHT * (took.as_secs_f64() - self.mean_run_seconds);
    }

    /// Records the time of a round trip, and how many jobs have ended since the previous round trip.
    pub(super) fn record_round_trip(&mut self, took: Duration, ended: usize) {
        self.mean_round_trip_seconds +=
            NEW_VALUE_WEIGHT * (took.as_secs_f64() - self.mean_round_trip_seconds);
        let pays = self.mean_round_trip_seconds > MIN_ROUND_TRIP_PER_RUN * self.mean_run_seconds;
        // Jobs may end in bursts. So while prefetching pays off, one round trip lowers the target by at most an eighth, rounded
        // up.
        let lower = self.target - self.target.div_ceil(8);
        self.target = if pays { (2 * ended).clamp(lower, MAX_WAITING_JOBS) } else { 0 };
    }

    /// Adds a job that waits for a slot.
    pub(super) fn add(&mut self, delivery: Delivery) {
        self.stalled_since.get_or_insert_with(Instant::now);
        self.waiting.push_back(delivery);
    }

    /// Removes and returns the job that has waited longest.
    pub(super) fn next(&mut self) -> Option<Delivery> {
        let next = self.waiting.pop_front();
        self.stalled_since = (!self.waiting.is_empty()).then(Instant::now);
        next
    }

    /// Returns when the waiting jobs must go back to their queues, if none of them starts before. `None` if no job waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stalled_since.map(|since| since + MAX_WAIT)
    }

    /// Removes and returns all waiting jobs. No more jobs are fetched ahead until other jobs have ended.
    pub(super) fn take_all(&mut self) -> VecDeque<Delivery> {
        (self.target, self.stalled_since) = (0, None);
        std::mem::take(&mut self.waiting)
    }
}
