//! Where a job stands, as its owner and admins see it.

use chrono::{DateTime, Utc};
use redis::FromRedisValue;
use serde::Serialize;
use serde_json::Value;

use super::{
    envelope::{Envelope, ErrorRecord},
    error::{Error, Result},
    outcome::{Outcome, StoredOutcome},
    state::State,
};

#[derive(Debug, Clone, Serialize)]
pub struct JobStatus {
    #[serde(rename = "job_id")]
    pub id: String,
    #[serde(rename = "status")]
    pub state: State,
    pub task: String,
    pub queue: String,
    pub owner: Option<i64>,
    /// What it was given; for admins, and not kept of one that has finished.
    pub payload: Option<Value>,
    pub group: Option<String>,
    pub request_id: Option<String>,
    /// The worker that runs it.
    pub worker: Option<String>,
    pub result: Option<Value>,
    /// The last error, in words that the owner may read.
    pub error: Option<String>,
    /// The last error with everything that is known of it; for admins.
    pub error_detail: Option<String>,
    pub progress: Option<Value>,
    /// Attempts begun, the running one included.
    pub attempts: u32,
    pub enqueued_at: Option<DateTime<Utc>>,
    /// When it is to begin, of one that is scheduled.
    pub due_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

fn time(ms: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms)
}

/// The answer of the status script for a job that has not ended: state, envelope, failures, crashes, error, progress,
/// holder or time.
type Live = (String, Vec<u8>, Option<u32>, Option<u32>, Option<String>, Option<String>, Option<String>);

impl JobStatus {
    /// Reads the answer of the status script; `None` where no such job is known.
    pub(super) fn parse(id: &str, answer: Vec<redis::Value>) -> Result<Option<Self>> {
        Ok(match &answer[..] {
            [] => None,
            [_, outcome] => {
                let text = String::from_redis_value_ref(outcome).map_err(Error::internal)?;
                Some(match serde_json::from_str(&text).map_err(Error::internal)? {
                    StoredOutcome::Canceled(gone) => Self {
                        attempts: gone.attempts,
                        ended_at: time(gone.ended),
                        ..Self::new(id, gone.state, gone.envelope)
                    },
                    StoredOutcome::Ran(done) => Self::ended(id, done),
                })
            }
            _ => {
                let live = Live::from_redis_value(redis::Value::Array(answer)).map_err(Error::internal)?;
                Some(Self::live(id, live))
            }
        })
    }

    fn new(id: &str, state: State, envelope: Envelope) -> Self {
        Self {
            id: id.to_owned(),
            state,
            task: envelope.task,
            queue: envelope.queue,
            owner: envelope.owner,
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

    fn ended(id: &str, done: Outcome) -> Self {
        let envelope = Envelope::new(&done.task, &done.queue, Value::Null, 0, done.enqueued);
        Self {
            owner: done.owner,
            payload: None,
            result: done.result,
            error: done.reason,
            attempts: done.attempts,
            started_at: done.started.and_then(time),
            ended_at: time(done.ended),
            ..Self::new(id, done.state, envelope)
        }
    }

    fn live(id: &str, (state, envelope, failures, crashes, error, progress, extra): Live) -> Self {
        // One that cannot be read still has its place among the failed, and is shown.
        let envelope =
            serde_json::from_slice(&envelope).unwrap_or_else(|_| Envelope::new("", "", Value::Null, 0, 0));
        let error: Option<ErrorRecord> = error.and_then(|text| serde_json::from_str(&text).ok());
        let progress = progress.and_then(|text| serde_json::from_str(&text).ok());
        let state = State::parse(&state).unwrap_or(State::Queued);
        let before = failures.unwrap_or(0) + crashes.unwrap_or(0);
        let mut status = Self {
            error: error.as_ref().map(|error| error.message.clone()),
            error_detail: error.and_then(|error| error.detail),
            progress,
            attempts: before + u32::from(state == State::Started),
            ..Self::new(id, state, envelope)
        };
        // `token|worker|started` while it runs, else the time of death or the due time.
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
