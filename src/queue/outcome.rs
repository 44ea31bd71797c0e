//! The JSON that Redis keeps about a job that has ended.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{envelope::Envelope, state::State};

/// The outcome of a job that has finished, or was canceled while it ran. Times are in milliseconds since the epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) state: State,
    pub(super) task: String,
    pub(super) queue: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    /// Why the job was discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    pub(super) attempts: u32,
    pub(super) enqueued: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) started: Option<i64>,
    pub(super) ended: i64,
}

/// The outcome of a job that was canceled while it waited. A script writes it.
#[derive(Debug, Deserialize)]
pub(super) struct CanceledRecord {
    pub(super) state: State,
    pub(super) attempts: u32,
    pub(super) ended: i64,
    pub(super) envelope: Envelope,
}

/// Either kind of outcome.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum StoredOutcome {
    Canceled(CanceledRecord),
    Ran(Outcome),
}
