//! When a task runs by itself, as its author says it.

use serde_json::Value;

/// When a task runs by itself, and with what arguments.
pub struct Schedule<J> {
    cron: &'static str,
    zone: &'static str,
    job: fn() -> J,
    missed: Missed,
}

/// What becomes of slots that were over while no worker ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// They are made up for by one run.
    RunOnce,
    /// They are left out.
    Skip,
}

impl<J> Schedule<J> {
    /// Five fields, as in crontab(5): minute, hour, day of the month, month, day of the week; and the name of a
    /// time zone of the IANA database, like `Europe/Berlin` or `UTC`.
    pub const fn new(cron: &'static str, zone: &'static str, job: fn() -> J) -> Self {
        Self { cron, zone, job, missed: Missed::RunOnce }
    }

    pub const fn missed(self, missed: Missed) -> Self {
        Self { missed, ..self }
    }

    /// The arguments of one run.
    pub(super) fn job(&self) -> J {
        (self.job)()
    }

    /// `payload` writes the arguments of one run.
    pub(super) const fn erased(&self, payload: fn() -> serde_json::Result<Value>) -> ErasedSchedule {
        ErasedSchedule { cron: self.cron, zone: self.zone, missed: self.missed, payload }
    }
}

/// A schedule, the type of its task forgotten.
#[derive(Clone, Copy)]
pub(super) struct ErasedSchedule {
    pub(super) cron: &'static str,
    pub(super) zone: &'static str,
    pub(super) missed: Missed,
    pub(super) payload: fn() -> serde_json::Result<Value>,
}
