//! How a worker runs, and what it did.

use std::time::Duration;

use super::queues::Queues;

#[derive(Debug, Clone)]
pub struct Options {
    pub queues: Queues,
    /// Jobs run at once.
    pub concurrency: usize,
    pub lease: Duration,
    /// How long running jobs may go on after `stop`.
    pub grace: Duration,
    /// End when the queues are empty.
    pub burst: bool,
    pub scheduler: bool,
}

/// What a worker did in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub finished: u64,
    /// Attempts that failed, those that are tried again included.
    pub failed: u64,
    pub canceled: u64,
    pub released: u64,
}
