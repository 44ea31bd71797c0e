//! The methods of the client that read the state of queues and jobs.

use chrono::{DateTime, Utc};
use redis::{FromRedisValue, ParsingError, Value};
use serde::{Deserialize, Serialize};

use super::{
    client::Queue,
    error::{Error, Result},
    rate::Rate,
    scripts,
    state::State,
    status::JobStatus,
    status_batches::JOBS_PER_STATUS_CALL,
};

/// Maximum number of jobs that one call reads without payloads and results.
const SMALL_JOBS_PER_STATUS_CALL: usize = 200;
/// Maximum size in bytes of an envelope that a list has with its payload.
const MAX_LISTED_ENVELOPE_BYTES: usize = 16 * 1024;
/// Maximum number of ids in a [`JobPosition`].
const MAX_LAST_JOBS: usize = 5;
/// Maximum number of jobs before a page. No queue holds that many jobs.
const MAX_OFFSET: u64 = 1_000_000_000;

/// The state of a queue.
#[derive(Debug, Clone, Serialize)]
pub struct QueueInfo {
    pub name: String,
    /// When this was read, by the clock of Redis.
    pub seen_at: DateTime<Utc>,
    pub paused: bool,
    pub queued: u64,
    pub scheduled: u64,
    pub deferred: u64,
    pub started: u64,
    pub failed: u64,
    /// Age of the oldest job among those that are next in the queue or in one of its groups, in seconds since the job was
    /// created. Includes the time of a delay or of retries. `None` if no job is queued.
    pub latency_seconds: Option<f64>,
    pub totals: Totals,
    /// How many jobs may run at once, in all workers together. `None` for no limit.
    pub concurrency_limit: Option<u32>,
    /// `None` for no limit.
    pub rate_limit: Option<Rate>,
}

/// Totals since the queue was created. Purged jobs count as canceled, unless they had failed. The sum of `enqueued` and
/// `requeued` is the sum of `finished`, `failed` and `canceled`, plus the number of jobs that still wait or run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Totals {
    pub enqueued: u64,
    pub requeued: u64,
    pub finished: u64,
    pub failed: u64,
    pub canceled: u64,
}

/// Where a page of jobs begins: the number of jobs before it, and the ids of the last of them, the last one first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct JobPosition(u64, Vec<String>);

impl JobPosition {
    /// Returns the position after the first `offset` jobs.
    pub fn at(offset: u64) -> Self {
        Self(offset, Vec::new())
    }

    /// Returns whether the position is within the limits. A client may send any position.
    pub fn is_valid(&self) -> bool {
        self.0 <= MAX_OFFSET && self.1.len() <= MAX_LAST_JOBS
    }
}

/// The answer of the script `inspect` for one queue: fields in a fixed order.
struct Row(Vec<Value>);

impl Row {
    fn field<T: FromRedisValue>(&self, index: usize) -> Result<T, ParsingError> {
        T::from_redis_value(self.0.get(index).cloned().unwrap_or(Value::Nil))
    }

    fn parse(&self, now: i64) -> Result<QueueInfo, ParsingError> {
        let (oldest, concurrency, rate): (String, String, String) =
            (self.field(6)?, self.field(13)?, self.field(14)?);
        // Ids are UUIDs of version 7, which begin with a time in milliseconds.
        let enqueued_at = i64::from_str_radix(oldest.get(..12).unwrap_or_default(), 16).ok();
        Ok(QueueInfo {
            name: self.field(0)?,
            seen_at: DateTime::from_timestamp_millis(now).unwrap_or_default(),
            queued: self.field(1)?,
            scheduled: self.field(2)?,
            deferred: self.field(3)?,
            failed: self.field(4)?,
            paused: self.field(5)?,
            latency_seconds: enqueued_at.map(|at| (now - at).max(0) as f64 / 1_000.0),
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
    /// Returns all queues, also empty ones, sorted by name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call; [`Error::Internal`] if this version cannot
    /// read the answer.
    pub async fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.inspect(None).await
    }

    /// Returns one queue; `None` if it does not exist. A queue exists from its first job, pause or limit until it is moved to
    /// another prefix or server.
    ///
    /// # Errors
    /// As [`Self::queues`].
    pub async fn queue(&self, name: &str) -> Result<Option<QueueInfo>> {
        Ok(self.inspect(Some(name)).await?.pop())
    }

    async fn inspect(&self, name: Option<&str>) -> Result<Vec<QueueInfo>> {
        let mut call = self.prepare_call(&scripts::INSPECT);
        call.arg("queues").arg(name);
        let (now, rows): (i64, Vec<Vec<Value>>) = self.run(&call).await?;
        let parse = |row| Row(row).parse(now).map_err(Error::internal);
        rows.into_iter().map(parse).collect()
    }

    /// Returns the status of a job; `None` if it does not exist or has expired.
    ///
    /// # Errors
    /// As [`Self::queues`].
    pub async fn status(&self, id: &str) -> Result<Option<JobStatus>> {
        Ok(self.read_statuses(&[id.to_owned()], usize::MAX, usize::MAX).await?.pop())
    }

    /// As [`Self::status`], without the payload, which may have a megabyte. For callers that do not show the payload.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn status_without_payload(&self, id: &str) -> Result<Option<JobStatus>> {
        match self.status_batches().read(id).await? {
            Some(answer) => JobStatus::parse(id, answer),
            None => Ok(self.read_statuses(&[id.to_owned()], 0, usize::MAX).await?.pop()),
        }
    }

    /// Returns the status of each of these jobs that exists, without payloads and results. Reads up to 200 jobs in one call
    /// of Redis.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn statuses(&self, ids: &[String]) -> Result<Vec<JobStatus>> {
        let mut jobs = Vec::with_capacity(ids.len());
        for ids in ids.chunks(SMALL_JOBS_PER_STATUS_CALL) {
            jobs.extend(self.read_statuses(ids, 0, 0).await?);
        }
        Ok(jobs)
    }

    /// Returns up to `count` jobs of a queue in one state, after the first `offset`. Failed jobs are sorted by the time of
    /// their failure, latest first. Scheduled and deferred jobs are sorted by the time at which they are due, and started
    /// jobs by the time at which their leases expire. Queued jobs without a group come first, then each group. A returned job
    /// may have another state by now, for example if it was canceled.
    ///
    /// The payload of an envelope of more than 16 KiB is omitted; [`status`](Self::status) has it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for finished and canceled jobs, which have no list; and as [`Self::queues`].
    pub async fn list(&self, queue: &str, state: State, offset: u64, count: u64) -> Result<Vec<JobStatus>> {
        self.list_with(queue, state, offset, count, MAX_LISTED_ENVELOPE_BYTES).await
    }

    /// As [`Self::list`], without payloads.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn list_without_payloads(
        &self,
        queue: &str,
        state: State,
        offset: u64,
        count: u64,
    ) -> Result<Vec<JobStatus>> {
        self.list_with(queue, state, offset, count, 0).await
    }

    async fn list_with(
        &self,
        queue: &str,
        state: State,
        offset: u64,
        count: u64,
        max_envelope: usize,
    ) -> Result<Vec<JobStatus>> {
        let (_, ids) = self.page_ids(queue, state, &JobPosition::at(offset), count).await?;
        self.all_statuses(&ids, max_envelope).await
    }

    /// Returns up to `count` jobs of a queue in one state after a position, like [`Self::list`], and the position of the next
    /// page, `None` after the last page.
    ///
    /// A page continues where the previous page has ended, if one of the last five jobs of that page has moved by at most
    /// 1,000 places in the list. Otherwise, jobs may be repeated or omitted.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn page(
        &self,
        queue: &str,
        state: State,
        after: &JobPosition,
        count: u64,
    ) -> Result<(Vec<JobStatus>, Option<JobPosition>)> {
        let (begin, mut ids) = self.page_ids(queue, state, after, count + 1).await?;
        let has_more = ids.len() as u64 > count;
        ids.truncate(count as usize);
        let last: Vec<_> = ids.iter().rev().take(MAX_LAST_JOBS).cloned().collect();
        let next = JobPosition(begin + ids.len() as u64, last);
        let jobs = self.all_statuses(&ids, MAX_LISTED_ENVELOPE_BYTES).await?;
        Ok((jobs, Some(next).filter(|next| has_more && next.is_valid())))
    }

    /// Returns where a page begins, and the ids of its jobs.
    async fn page_ids(
        &self,
        queue: &str,
        state: State,
        JobPosition(offset, last): &JobPosition,
        count: u64,
    ) -> Result<(u64, Vec<String>)> {
        if matches!(state, State::Finished | State::Canceled) {
            let message = "finished and canceled jobs are not listed; get one by its id";
            return Err(Error::invalid("status", message));
        }
        let mut call = self.prepare_call(&scripts::INSPECT);
        call.arg("page").arg(queue).arg(state.as_str()).arg(*offset).arg(count).arg(last.as_slice());
        self.run(&call).await
    }

    async fn all_statuses(&self, ids: &[String], max_envelope: usize) -> Result<Vec<JobStatus>> {
        let mut jobs = Vec::with_capacity(ids.len());
        for ids in ids.chunks(JOBS_PER_STATUS_CALL) {
            jobs.extend(self.read_statuses(ids, max_envelope, usize::MAX).await?);
        }
        Ok(jobs)
    }

    /// Returns the status of each job that exists. Omits the payload of an envelope of more than `max_envelope` bytes, and
    /// the result of an outcome of more than `max_outcome` bytes.
    async fn read_statuses(
        &self,
        ids: &[String],
        max_envelope: usize,
        max_outcome: usize,
    ) -> Result<Vec<JobStatus>> {
        let mut call = self.prepare_call(&scripts::STATUS);
        call.arg(max_envelope).arg(max_outcome).arg(ids);
        let answers: Vec<Vec<Value>> = self.run(&call).await?;
        ids.iter().zip(answers).filter_map(|(id, answer)| JobStatus::parse(id, answer).transpose()).collect()
    }
}

impl QueueInfo {
    /// Returns how many jobs are in a state; 0 for finished and canceled jobs, which have no list.
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
