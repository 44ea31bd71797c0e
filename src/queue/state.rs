//! The states of a job.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The state of a job, named as in RQ, the job queue for Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Scheduled,
    /// The job waits for other jobs.
    Deferred,
    Started,
    Finished,
    Failed,
    Canceled,
}

impl State {
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Scheduled,
        Self::Deferred,
        Self::Started,
        Self::Finished,
        Self::Failed,
        Self::Canceled,
    ];

    /// Returns the name of the state in scripts, in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
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

    /// Parses the name of a state. `None` if no state has this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| de::Error::custom(format!("unknown job state {name:?}")))
    }
}
