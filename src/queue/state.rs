//! The states of a job.

use serde::{Deserialize, Serialize};

/// RQ's words for the states of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Queued,
    Scheduled,
    /// It waits for other jobs.
    Deferred,
    Started,
    Finished,
    Failed,
    Canceled,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Scheduled => "scheduled",
            Self::Deferred => "deferred",
            Self::Started => "started",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}
