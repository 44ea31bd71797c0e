//! The list of running workers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{client::Queue, error::Result, scripts};

/// How long after its last heartbeat a worker is listed.
pub(super) const LISTED_FOR: Duration = Duration::from_secs(30);

/// The record that a worker stores about itself with every heartbeat.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct WorkerRecord {
    host: String,
    pid: u32,
    version: String,
    queues: String,
    concurrency: usize,
    /// Milliseconds since the epoch, by the worker's clock.
    started: i64,
    /// Jobs that are not completed: those that run, and those that wait for a slot.
    pub(super) running: usize,
}

impl WorkerRecord {
    pub(super) fn new(queues: String, concurrency: usize) -> Self {
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            queues,
            concurrency,
            started: Utc::now().timestamp_millis(),
            running: 0,
        }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A worker with a recent heartbeat.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerInfo {
    pub id: String,
    pub host: String,
    pub pid: u32,
    pub version: String,
    /// The reserved queue and then the queues as they were configured, with weights if there are any.
    pub queues: String,
    pub concurrency: usize,
    /// How many jobs the worker has fetched and not completed: those that run, and those that wait for a slot.
    pub running: usize,
    pub started_at: Option<DateTime<Utc>>,
    pub last_beat_at: Option<DateTime<Utc>>,
    /// Seconds since the last heartbeat, by the clock of Redis.
    pub silent_seconds: f64,
}

impl Queue {
    /// Returns the workers whose last heartbeat was in the last 30 seconds.
    ///
    /// # Errors
    /// [`Error::Unavailable`](super::Error::Unavailable) if Redis does not answer in time or refuses the call.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let mut call = self.prepare_call(&scripts::INSPECT);
        call.arg("workers").arg(LISTED_FOR.as_millis() as u64);
        let (now, rows): (i64, Vec<(String, String, i64)>) = self.run(&call).await?;
        let parse = |(id, text, beat): (String, String, i64)| {
            let record: WorkerRecord = serde_json::from_str(&text).unwrap_or_default();
            WorkerInfo {
                id,
                host: record.host,
                pid: record.pid,
                version: record.version,
                queues: record.queues,
                concurrency: record.concurrency,
                running: record.running,
                started_at: Some(record.started)
                    .filter(|ms| *ms > 0)
                    .and_then(DateTime::from_timestamp_millis),
                last_beat_at: DateTime::from_timestamp_millis(beat),
                silent_seconds: (now - beat).max(0) as f64 / 1_000.0,
            }
        };
        Ok(rows.into_iter().map(parse).collect())
    }
}
