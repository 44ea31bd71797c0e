//! The options of a worker, and the summary of its run.

use std::time::Duration;

use super::queues::Queues;

/// The options of a worker.
#[derive(Debug, Clone)]
pub struct Options {
    pub queues: Queues,
    /// Maximum number of jobs that run at once.
    pub concurrency: usize,
    /// How long after the fetch of a job, or the last heartbeat of its worker, other workers recover the job. The worker itself
    /// stops the job when 80 % of this time has passed.
    pub lease: Duration,
    /// How long running jobs may continue after the worker was told to stop.
    pub grace: Duration,
    /// Whether the worker exits when it runs no job and finds none that may start. It still waits for rate limits.
    pub burst: bool,
    /// Whether the worker runs a scheduler, for delayed and periodic jobs, the jobs of crashed workers, and the deletion of
    /// records that have expired or exceed `retention`.
    pub scheduler: bool,
    /// A queue that comes before `queues`, whether or not it is one of them.
    pub reserved: Option<ReservedQueue>,
    /// How many jobs of one owner may run at once, in all workers together. `None` or 0 for no limit.
    pub max_running_per_owner: Option<u32>,
    pub retention: Retention,
}

/// How much Redis keeps about finished and canceled jobs, in all queues together. Beyond a limit, the oldest buckets of
/// records (see `scripts/lib.lua`) are deleted before they expire, but never the newest bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Number of outcomes, which have the results.
    pub outcomes: u64,
    /// Total size of the outcomes in bytes.
    pub outcome_bytes: u64,
    /// Number of finished and canceled jobs whose state is kept. A push needs the states of its dependencies and, to skip jobs
    /// that an earlier push has enqueued, of its own jobs.
    pub states: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { outcomes: 1_000_000, outcome_bytes: 256 * 1024 * 1024, states: 5_000_000 }
    }
}

/// A queue that a worker serves first, with slots that are reserved for its jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedQueue {
    pub name: String,
    /// How many slots other queues leave free. They may use at least one slot, even if all are reserved.
    pub slots: usize,
}

impl Options {
    /// Returns how many jobs of queues that are not reserved may run at once.
    pub(super) fn shared_slots(&self) -> usize {
        let reserved_slots = self.reserved.as_ref().map_or(0, |reserved| reserved.slots);
        self.concurrency.saturating_sub(reserved_slots).max(1)
    }

    /// Returns the name of the reserved queue.
    pub(super) fn reserved_name(&self) -> Option<&str> {
        self.reserved.as_ref().map(|reserved| reserved.name.as_str())
    }

    /// Returns the names of the queues that are not reserved.
    pub(super) fn shared_names(&self) -> Vec<&str> {
        let names = self.queues.names().iter().map(String::as_str);
        names.filter(|name| Some(*name) != self.reserved_name()).collect()
    }

    /// Returns the reserved queue and then the queues as they were configured, with weights if there are any.
    pub(super) fn describe_queues(&self) -> String {
        match self.reserved_name() {
            Some(reserved) => format!("{reserved},{}", self.queues),
            None => self.queues.to_string(),
        }
    }
}

/// How many jobs a worker has fetched, by result. A job counts again after each fetch. Snoozed jobs, jobs with an unknown task,
/// and jobs that only waited for a slot do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub finished: u64,
    /// Failed attempts, including those that are retried.
    pub failed: u64,
    pub canceled: u64,
    /// Jobs without a result, because the worker shut down or lost the lease.
    pub released: u64,
}
