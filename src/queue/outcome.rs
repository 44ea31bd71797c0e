//! The JSON that Redis keeps about a job that has ended.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{envelope::Envelope, state::State};

/// The outcome of a job that has finished, or was canceled while it ran. The JSON names are short, because Redis holds
/// many outcomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The first field: scripts look at it.
    pub(super) state: State,
    #[serde(rename = "t")]
    pub(super) task: String,
    #[serde(rename = "q")]
    pub(super) queue: String,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<i64>,
    /// `None` for the result `null`.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    /// Why the job was discarded or canceled, if a reason is known.
    #[serde(rename = "why", default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(rename = "n")]
    pub(super) attempts: u32,
    /// Since the epoch.
    #[serde(rename = "at")]
    pub(super) enqueued_at_ms: i64,
    /// From `enqueued_at_ms` until the last attempt was fetched.
    #[serde(rename = "w")]
    pub(super) waited_ms: i64,
    /// Run time of the last attempt.
    #[serde(rename = "d")]
    pub(super) ran_ms: i64,
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
