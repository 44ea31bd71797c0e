//! The records of a job that has finished or was canceled. Redis keeps the outcome for at least `RESULT_TTL`, or an hour if the
//! job was canceled while it waited, and the state, owner and scope for at least a day. The limits of
//! [`Retention`](super::Retention) or a nearly full Redis may shorten these times.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{envelope::Envelope, state::State};

/// The outcome of a job that has finished or was canceled by its worker. The JSON names are short, because Redis holds many
/// outcomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    #[serde(rename = "t")]
    pub(super) task: String,
    #[serde(rename = "q")]
    pub(super) queue: String,
    /// `None` for the result `null`, for a canceled job, or if the script `status` omits the result.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    /// Why the job was discarded or canceled. `None` if no reason is known, or the job has finished.
    #[serde(rename = "why", default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    #[serde(rename = "n")]
    pub(super) attempts: u32,
    /// When the envelope was created, since the epoch. `None` if the id of the job contains this time.
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    pub(super) enqueued_at_ms: Option<i64>,
    /// Time from the creation of the envelope to the fetch of the last attempt.
    #[serde(rename = "w")]
    pub(super) waited_ms: i64,
    /// Run time of the last attempt.
    #[serde(rename = "d")]
    pub(super) ran_ms: i64,
}

/// The outcome of a job that was canceled while it waited. `scripts/lib.lua` writes it.
#[derive(Debug, Deserialize)]
pub(super) struct CanceledRecord {
    pub(super) attempts: u32,
    /// When the job was canceled, in milliseconds since the epoch.
    pub(super) ended: i64,
    pub(super) envelope: Envelope,
}

/// Returns the owner and the scope of a job, as they follow the letter in the record of its final state: `12`, `12|tenant-7`
/// or `|tenant-7`. Empty for a job with neither.
pub(super) fn ended_origin(owner: Option<i64>, scope: Option<&str>) -> String {
    let owner = owner.map(|owner| owner.to_string()).unwrap_or_default();
    match scope {
        Some(scope) => format!("{owner}|{scope}"),
        None => owner,
    }
}

/// Parses the record of a job's final state, owner and scope, such as `f12|tenant-7`. `None` if no known letter comes first.
pub(super) fn parse_ended(record: &str) -> Option<(State, Option<i64>, Option<String>)> {
    let origin = record.get(1..)?;
    let state = match record.as_bytes()[0] {
        b'f' => State::Finished,
        b'c' => State::Canceled,
        _ => return None,
    };
    let (owner, scope) = match origin.split_once('|') {
        Some((owner, scope)) => (owner, Some(scope.to_owned())),
        None => (origin, None),
    };
    Some((state, owner.parse().ok(), scope))
}

/// Returns when the id of a job was created, in milliseconds since the epoch. `None` if the id is not a UUID with a time.
pub(super) fn time_of_id(id: &str) -> Option<i64> {
    let (seconds, nanoseconds) = Uuid::try_parse(id).ok()?.get_timestamp()?.to_unix();
    Some(seconds as i64 * 1_000 + i64::from(nanoseconds / 1_000_000))
}

/// An outcome, in the form for jobs that were canceled while they waited, or in the form for all others.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum StoredOutcome {
    Canceled(CanceledRecord),
    Ran(Outcome),
}
