//! What is kept of a job that is over.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{envelope::Envelope, state::State};

/// What is kept of a job that has ended well or was cancelled while it ran. Times are in milliseconds since the
/// epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) state: State,
    pub(super) task: String,
    pub(super) queue: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    /// Why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    pub(super) attempts: u32,
    pub(super) enqueued: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) started: Option<i64>,
    pub(super) ended: i64,
}

/// What is kept of a job that was cancelled while it waited; a script writes it.
#[derive(Debug, Deserialize)]
pub(super) struct CanceledRecord {
    pub(super) state: State,
    pub(super) attempts: u32,
    pub(super) ended: i64,
    pub(super) envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum StoredOutcome {
    Canceled(CanceledRecord),
    Ran(Outcome),
}
