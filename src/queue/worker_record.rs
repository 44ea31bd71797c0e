//! The workers that live: what each says of itself with every heartbeat.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{client::Queue, error::Result, scripts};

/// A worker that has not been heard of for that long is not shown any more.
const LISTED_AFTER_HEARTBEAT: Duration = Duration::from_secs(30);

/// What a worker says of itself.
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

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A worker that lives.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerInfo {
    pub id: String,
    pub host: String,
    pub pid: u32,
    pub version: String,
    /// As it was told: in order, with weights where it has some.
    pub queues: String,
    pub concurrency: usize,
    /// Jobs it runs now.
    pub running: usize,
    pub started_at: Option<DateTime<Utc>>,
    pub last_beat_at: Option<DateTime<Utc>>,
    /// How long ago that was, in seconds, by Redis's clock.
    pub silent_seconds: f64,
}

impl Queue {
    /// The workers that were heard of within the last half minute.
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let mut call = self.prepare(&scripts::INSPECT);
        call.arg("workers").arg(LISTED_AFTER_HEARTBEAT.as_millis() as u64);
        let (now, rows): (i64, Vec<(String, String, i64)>) = self.run(&call).await?;
        let read = |(id, text, beat): (String, String, i64)| {
            let card: WorkerRecord = serde_json::from_str(&text).unwrap_or_default();
            WorkerInfo {
                id,
                host: card.host,
                pid: card.pid,
                version: card.version,
                queues: card.queues,
                concurrency: card.concurrency,
                running: card.running,
                started_at: Some(card.started).filter(|ms| *ms > 0).and_then(DateTime::from_timestamp_millis),
                last_beat_at: DateTime::from_timestamp_millis(beat),
                silent_seconds: (now - beat).max(0) as f64 / 1_000.0,
            }
        };
        Ok(rows.into_iter().map(read).collect())
    }
}
