//! Where a job stands, as its owner and admins see it.

use chrono::{DateTime, Utc};
use redis::FromRedisValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::job::{Envelope, ErrorRecord};
use crate::error::{Error, Result};

/// RQ's words for the states of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Queued,
    Scheduled,
    Started,
    Finished,
    Failed,
    Canceled,
}

#[derive(Debug, Clone)]
pub struct JobStatus {
    pub state: State,
    pub task: String,
    pub queue: String,
    pub owner: Option<i64>,
    pub result: Option<Value>,
    /// The last error, in words that the owner may read.
    pub error: Option<String>,
    /// The last error with everything that is known of it; for admins.
    pub error_detail: Option<String>,
    pub progress: Option<Value>,
    /// Attempts begun, the running one included.
    pub attempts: u32,
    pub enqueued_at: Option<DateTime<Utc>>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// What is kept of a job that has ended well or was cancelled. Times are in milliseconds since the epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) state: State,
    pub(super) task: String,
    pub(super) queue: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Value>,
    pub(super) attempts: u32,
    pub(super) enqueued: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) started: Option<i64>,
    pub(super) ended: i64,
}

fn time(ms: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(ms)
}

impl From<Outcome> for JobStatus {
    fn from(done: Outcome) -> Self {
        Self {
            state: done.state,
            task: done.task,
            queue: done.queue,
            owner: done.owner,
            result: done.result,
            error: None,
            error_detail: None,
            progress: None,
            attempts: done.attempts,
            enqueued_at: time(done.enqueued),
            started_at: done.started.and_then(time),
            ended_at: time(done.ended),
        }
    }
}

/// The answer of the status script for a job that has not ended.
type Live = (String, String, Option<u32>, Option<u32>, Option<String>, Option<String>, Option<String>);

impl JobStatus {
    /// Reads the answer of the status script; `None` where no such job is known.
    pub(super) fn read(answer: Vec<redis::Value>) -> Result<Option<Self>> {
        match answer.len() {
            0 => Ok(None),
            2 => {
                let (_, text): (String, String) = decode(answer)?;
                let done: Outcome = serde_json::from_str(&text).map_err(Error::internal)?;
                Ok(Some(done.into()))
            }
            _ => Self::live(decode(answer)?).map(Some),
        }
    }

    fn live((state, envelope, failures, crashes, error, progress, extra): Live) -> Result<Self> {
        let envelope: Envelope = serde_json::from_str(&envelope).map_err(Error::internal)?;
        let error: Option<ErrorRecord> = error.and_then(|text| serde_json::from_str(&text).ok());
        let state = match state.as_str() {
            "started" => State::Started,
            "failed" => State::Failed,
            "scheduled" => State::Scheduled,
            _ => State::Queued,
        };
        let before = failures.unwrap_or(0) + crashes.unwrap_or(0);
        // `token|worker|started` while it runs, else the time of death or the due time.
        let started = extra.as_deref().and_then(|holder| holder.rsplit('|').next()?.parse().ok());
        let died = extra.as_deref().and_then(|ms| ms.parse::<f64>().ok());
        Ok(Self {
            state,
            task: envelope.task,
            queue: envelope.queue,
            owner: envelope.owner,
            result: None,
            error: error.as_ref().map(|error| error.message.clone()),
            error_detail: error.and_then(|error| error.detail),
            progress: progress.and_then(|text| serde_json::from_str(&text).ok()),
            attempts: before + u32::from(state == State::Started),
            enqueued_at: time(envelope.at),
            started_at: started.filter(|_| state == State::Started).and_then(time),
            ended_at: died.filter(|_| state == State::Failed).and_then(|ms| time(ms as i64)),
        })
    }
}

fn decode<T: FromRedisValue>(answer: Vec<redis::Value>) -> Result<T> {
    redis::from_redis_value(redis::Value::Array(answer)).map_err(Error::internal)
}
