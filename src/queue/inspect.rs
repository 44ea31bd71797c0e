//! Looking at queues and jobs.

use chrono::{DateTime, Utc};
use redis::{FromRedisValue, ParsingError, Value};
use serde::Serialize;

use super::{
    client::Queue,
    error::{Error, Result},
    rate::Rate,
    scripts,
    state::State,
    status::JobStatus,
};

/// Jobs looked at by one call, since each may be large.
const JOBS_PER_STATUS_CALL: usize = 20;
const MAX_LISTED_PAYLOAD_BYTES: usize = 16 * 1024;

/// One queue: what is in it, what has been, and how it is worked off.
#[derive(Debug, Clone, Serialize)]
pub struct QueueInfo {
    pub name: String,
    /// When it was looked at, by Redis's clock.
    pub seen_at: DateTime<Utc>,
    pub paused: bool,
    pub queued: u64,
    pub scheduled: u64,
    pub deferred: u64,
    pub started: u64,
    pub failed: u64,
    /// How long ago the first in line was enqueued, in seconds; a delay or a retry that it went through is part of it.
    pub latency_seconds: Option<f64>,
    pub totals: Totals,
    /// How many may run at once, in all workers together.
    pub concurrency_limit: Option<u32>,
    pub rate_limit: Option<Rate>,
}

/// Counted since the queue began. What was enqueued or requeued has finished, failed or been cancelled, or is there.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Totals {
    pub enqueued: u64,
    pub requeued: u64,
    pub finished: u64,
    pub failed: u64,
    pub canceled: u64,
}

/// The answer of the script for one queue, in its order.
struct Row(Vec<Value>);

impl Row {
    fn field<T: FromRedisValue>(&self, index: usize) -> Result<T, ParsingError> {
        T::from_redis_value(self.0.get(index).cloned().unwrap_or(Value::Nil))
    }

    fn parse(&self, now: i64) -> Result<QueueInfo, ParsingError> {
        let (oldest, concurrency, rate): (String, String, String) =
            (self.field(6)?, self.field(13)?, self.field(14)?);
        // Ids are UUIDs of version 7, which begin with the time in milliseconds.
        let since = i64::from_str_radix(oldest.get(..12).unwrap_or_default(), 16).ok();
        Ok(QueueInfo {
            name: self.field(0)?,
            seen_at: DateTime::from_timestamp_millis(now).unwrap_or_default(),
            queued: self.field(1)?,
            scheduled: self.field(2)?,
            deferred: self.field(3)?,
            failed: self.field(4)?,
            paused: self.field(5)?,
            latency_seconds: since.map(|since| (now - since).max(0) as f64 / 1_000.0),
            started: self.field::<i64>(7)?.max(0) as u64,
            totals: Totals {
                enqueued: self.field(8)?,
                requeued: self.field(9)?,
                finished: self.field(10)?,
                failed: self.field(11)?,
                canceled: self.field(12)?,
            },
            concurrency_limit: concurrency.parse().ok(),
            rate_limit: Rate::parse(&rate),
        })
    }
}

impl Queue {
    /// Every queue that was ever used.
    pub async fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.inspect(None).await
    }

    /// One queue; `None` where it was never used.
    pub async fn queue(&self, name: &str) -> Result<Option<QueueInfo>> {
        Ok(self.inspect(Some(name)).await?.pop())
    }

    async fn inspect(&self, name: Option<&str>) -> Result<Vec<QueueInfo>> {
        let mut call = self.prepare(&scripts::INSPECT);
        call.arg("queues").arg(name);
        let (now, rows): (i64, Vec<Vec<Value>>) = self.run(&call).await?;
        let parse = |row| Row(row).parse(now).map_err(Error::internal);
        rows.into_iter().map(parse).collect()
    }

    /// Where a job stands; `None` where no such job is known (any more).
    pub async fn status(&self, id: &str) -> Result<Option<JobStatus>> {
        Ok(self.statuses(&[id.to_owned()], usize::MAX).await?.pop())
    }

    /// Some of the jobs of a queue that are in one state: those that failed last come first, those that are next
    /// otherwise. Those that have ended well or were cancelled are known by their id alone. A payload of more
    /// than 16 KiB is left out; [`status`](Self::status) has it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the states that cannot be listed.
    pub async fn list(&self, queue: &str, state: State, offset: u64, count: u64) -> Result<Vec<JobStatus>> {
        if matches!(state, State::Finished | State::Canceled) {
            let words = "jobs that have finished or were cancelled are not listed: ask for one by its id";
            return Err(Error::invalid("status", words));
        }
        let mut call = self.prepare(&scripts::INSPECT);
        call.arg("page").arg(queue).arg(state.as_str()).arg(offset).arg(count);
        let ids: Vec<String> = self.run(&call).await?;
        let mut jobs = Vec::with_capacity(ids.len());
        for some in ids.chunks(JOBS_PER_STATUS_CALL) {
            jobs.extend(self.statuses(some, MAX_LISTED_PAYLOAD_BYTES).await?);
        }
        Ok(jobs)
    }

    /// Leaves out those that are not known, and the payloads of `large` jobs.
    async fn statuses(&self, ids: &[String], large: usize) -> Result<Vec<JobStatus>> {
        let mut call = self.prepare(&scripts::STATUS);
        call.arg(large).arg(ids);
        let answers: Vec<Vec<Value>> = self.run(&call).await?;
        ids.iter().zip(answers).filter_map(|(id, answer)| JobStatus::parse(id, answer).transpose()).collect()
    }
}

impl QueueInfo {
    /// How many of its jobs are in a state that can be listed.
    pub fn count(&self, state: State) -> u64 {
        match state {
            State::Queued => self.queued,
            State::Scheduled => self.scheduled,
            State::Deferred => self.deferred,
            State::Started => self.started,
            State::Failed => self.failed,
            State::Finished | State::Canceled => 0,
        }
    }
}
