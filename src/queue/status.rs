//! The status of a job.

use chrono::{DateTime, Utc};
use redis::FromRedisValue;
use serde::Serialize;
use serde_json::Value;

use super::{
    envelope::{Envelope, ErrorRecord},
    error::{Error, Result},
    outcome::{Outcome, StoredOutcome, parse_ended, time_of_id},
    state::State,
};

/// The status of a job.
#[derive(Debug, Clone, Serialize)]
pub struct JobStatus {
    #[serde(rename = "job_id")]
    pub id: String,
    #[serde(rename = "status")]
    pub state: State,
    /// The name of the job. Empty, like `queue`, if only the state of an ended job is kept, or the envelope is malformed.
    pub task: String,
    pub queue: String,
    pub owner: Option<i64>,
    pub scope: Option<String>,
    /// The arguments, which the API shows to admins only. JSON `null` if the call omits them, or the envelope is malformed.
    /// `None` if they are not kept: after the job has finished or was canceled by its worker, or if only the state is kept.
    pub payload: Option<Value>,
    pub group: Option<String>,
    pub request_id: Option<String>,
    /// The worker that runs the job.
    pub worker: Option<String>,
    pub result: Option<Value>,
    /// The last error, or the reason why the job was canceled, as the owner may read it.
    pub error: Option<String>,
    /// The last error with all details, which the API shows to admins only.
    pub error_detail: Option<String>,
    pub progress: Option<Value>,
    /// The number of attempts, counted like [`Context::attempt`](super::Context::attempt). Includes the running one.
    pub attempts: u32,
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When a scheduled job is due.
    pub due_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

fn time(ms: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms)
}

/// The answer of the status script for a job that has neither finished nor been canceled: state, envelope, failures, crashes,
/// error, progress, and its holder or a time.
type Live = (String, Vec<u8>, Option<u32>, Option<u32>, Option<String>, Option<String>, Option<String>);

impl JobStatus {
    /// Parses the answer of the status script; `None` for an unknown job.
    ///
    /// # Errors
    /// [`Error::Internal`] if the answer has another form, or the outcome is malformed. A malformed envelope is no error.
    pub(super) fn parse(id: &str, answer: Vec<redis::Value>) -> Result<Option<Self>> {
        Ok(match &answer[..] {
            [] => None,
            [_, ended, outcome] | [_, ended, outcome, _] => {
                let text = |value| String::from_redis_value_ref(value).map_err(Error::internal);
                let ended = text(ended)?;
                let (state, owner, scope) = parse_ended(&ended)
                    .ok_or_else(|| Error::internal(format!("{id} has ended as {ended:?}")))?;
                Some(Self { owner, scope, ..Self::ended(id, state, &text(outcome)?)? })
            }
            _ => {
                let live = Live::from_redis_value(redis::Value::Array(answer)).map_err(Error::internal)?;
                Some(Self::live(id, live))
            }
        })
    }

    pub(super) fn new(id: &str, state: State, envelope: Envelope) -> Self {
        Self {
            id: id.to_owned(),
            state,
            task: envelope.task,
            queue: envelope.queue,
            owner: envelope.owner,
            scope: envelope.scope,
            payload: Some(envelope.payload),
            group: envelope.group,
            request_id: envelope.req,
            worker: None,
            result: None,
            error: None,
            error_detail: None,
            progress: None,
            attempts: 0,
            enqueued_at: Some(envelope.at).filter(|at| *at > 0).and_then(time),
            due_at: None,
            started_at: None,
            ended_at: None,
        }
    }

    /// Creates the status of a job that has finished or was canceled. `outcome` is empty if only the state of the job is
    /// kept.
    fn ended(id: &str, state: State, outcome: &str) -> Result<Self> {
        let made_at = time_of_id(id).unwrap_or_default();
        if outcome.is_empty() {
            let envelope = Envelope::new("", "", Value::Null, 0, made_at);
            return Ok(Self { payload: None, ..Self::new(id, state, envelope) });
        }
        Ok(match serde_json::from_str(outcome).map_err(Error::internal)? {
            StoredOutcome::Canceled(record) => Self {
                attempts: record.attempts,
                ended_at: time(record.ended),
                ..Self::new(id, state, record.envelope)
            },
            StoredOutcome::Ran(outcome) => Self::ran(id, state, made_at, outcome),
        })
    }

    fn ran(id: &str, state: State, made_at: i64, outcome: Outcome) -> Self {
        let enqueued_at = outcome.enqueued_at_ms.unwrap_or(made_at);
        let envelope = Envelope::new(&outcome.task, &outcome.queue, Value::Null, 0, enqueued_at);
        let started_at = enqueued_at.saturating_add(outcome.waited_ms);
        Self {
            payload: None,
            result: outcome.result,
            error: outcome.reason,
            attempts: outcome.attempts,
            started_at: time(started_at),
            ended_at: time(started_at.saturating_add(outcome.ran_ms)),
            ..Self::new(id, state, envelope)
        }
    }

    fn live(id: &str, (state, envelope, failures, crashes, error, progress, extra): Live) -> Self {
        // A job with a malformed envelope fails when a worker fetches it. Its status must be readable all the same.
        let envelope =
            serde_json::from_slice(&envelope).unwrap_or_else(|_| Envelope::new("", "", Value::Null, 0, 0));
        let error: Option<ErrorRecord> = error.and_then(|text| serde_json::from_str(&text).ok());
        let progress = progress.and_then(|text| serde_json::from_str(&text).ok());
        let state = State::parse(&state).unwrap_or(State::Queued);
        let ended_attempts = failures.unwrap_or(0).saturating_add(crashes.unwrap_or(0));
        let mut status = Self {
            error: error.as_ref().map(|error| error.message.clone()),
            error_detail: error.and_then(|error| error.detail),
            progress,
            attempts: ended_attempts.saturating_add(u32::from(state == State::Started)),
            ..Self::new(id, state, envelope)
        };
        // `token|worker|started at` for a running job, else the time at which the job failed or is due.
        let Some(extra) = extra else { return status };
        if state == State::Started {
            let mut parts = extra.split('|').skip(1);
            status.worker = parts.next().map(str::to_owned);
            status.started_at = parts.next().and_then(|ms| time(ms.parse().ok()?));
        } else {
            let at = extra.parse::<f64>().ok().and_then(|ms| time(ms as i64));
            match state {
                State::Failed => status.ended_at = at,
                State::Scheduled => status.due_at = at,
                _ => {}
            }
        }
        status
    }
}

#[cfg(test)]
mod properties;
