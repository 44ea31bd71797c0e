//! The options of a worker, and the summary of its run.

use std::time::Duration;

use super::queues::Queues;

/// The options of a worker.
#[derive(Debug, Clone)]
pub struct Options {
    pub queues: Queues,
    /// How many jobs run at once.
    pub concurrency: usize,
    /// How long after its last heartbeat a worker keeps its jobs.
    pub lease: Duration,
    /// How long running jobs may continue after the worker was told to stop.
    pub grace: Duration,
    /// Whether the worker exits when the queues are empty.
    pub burst: bool,
    /// Whether the worker runs a scheduler, for delayed and periodic jobs and those of crashed workers.
    pub scheduler: bool,
}

/// How many jobs a worker ran, by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub finished: u64,
    /// Failed attempts, including those that are retried.
    pub failed: u64,
    pub canceled: u64,
    /// Jobs that went back to the queue.
    pub released: u64,
}
