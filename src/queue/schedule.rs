//! When a job runs periodically.

use serde_json::Value;

/// When a job runs periodically, and with which arguments.
pub struct Schedule<J> {
    cron: &'static str,
    zone: &'static str,
    job: fn() -> J,
    missed: Missed,
}

/// What happens to runs that no scheduler could enqueue when they were due, such as while no worker was running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// One run replaces all of them.
    RunOnce,
    /// Runs that are more than a minute late are skipped.
    Skip,
}

impl<J> Schedule<J> {
    /// Creates a schedule from a cron expression and an IANA time zone such as `Europe/Berlin`; `job` makes the arguments
    /// of each run. The expression has five fields as in crontab(5): minute, hour, day of the month, month, day of the
    /// week.
    pub const fn new(cron: &'static str, zone: &'static str, job: fn() -> J) -> Self {
        Self { cron, zone, job, missed: Missed::RunOnce }
    }

    /// Sets what happens to missed runs; by default one run replaces them.
    pub const fn missed(self, missed: Missed) -> Self {
        Self { missed, ..self }
    }

    /// Creates the arguments of one run.
    pub(super) fn job(&self) -> J {
        (self.job)()
    }

    /// Erases the type; `payload` serializes the arguments of one run.
    pub(super) const fn erase(&self, payload: fn() -> serde_json::Result<Value>) -> ErasedSchedule {
        ErasedSchedule { cron: self.cron, zone: self.zone, missed: self.missed, payload }
    }
}

/// A [`Schedule`] with its type erased.
#[derive(Clone, Copy)]
pub(super) struct ErasedSchedule {
    pub(super) cron: &'static str,
    pub(super) zone: &'static str,
    pub(super) missed: Missed,
    pub(super) payload: fn() -> serde_json::Result<Value>,
}
