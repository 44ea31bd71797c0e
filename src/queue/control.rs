//! What operators do to jobs and queues: cancel, requeue, purge, pause, limit.

use uuid::Uuid;

use super::{
    client::Queue,
    error::{Error, Result},
    inspect::QueueInfo,
    rate::Rate,
    scripts,
    state::State,
};

/// Jobs moved by one call of a script.
const JOBS_PER_CALL: u64 = 1_000;

/// What cancelling did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    Canceled,
    /// The job runs and was asked to stop.
    Requested,
    /// The job has ended already.
    Ended,
    Unknown,
}

impl Queue {
    /// Cancels a job that waits at once, and asks one that runs to stop.
    pub async fn cancel(&self, id: &str) -> Result<Cancel> {
        let by = Uuid::new_v4().simple().to_string();
        let mut call = self.prepare(&scripts::CANCEL);
        call.arg(id).arg(&by);
        let answer: String = self.run(&call).await?;
        Ok(match answer.as_str() {
            "canceled" => Cancel::Canceled,
            "requested" => Cancel::Requested,
            "ended" => Cancel::Ended,
            _ => Cancel::Unknown,
        })
    }

    /// Puts a failed job back into its queue, its failures forgotten; false where it has not failed.
    pub async fn requeue(&self, id: &str) -> Result<bool> {
        let by = Uuid::new_v4().simple().to_string();
        let mut call = self.prepare(&scripts::REQUEUE);
        call.arg("").arg(&by).arg(id);
        let n: u64 = self.run(&call).await?;
        Ok(n > 0)
    }

    /// Puts back all that had failed in a queue when it was looked at; those that fail later stay.
    pub async fn requeue_failed(&self, queue: &QueueInfo) -> Result<u64> {
        let mut total = 0;
        loop {
            let mut call = self.prepare(&scripts::REQUEUE);
            call.arg(&queue.name).arg(queue.seen_at.timestamp_millis()).arg(JOBS_PER_CALL);
            let n: u64 = self.run(&call).await?;
            total += n;
            if n == 0 {
                return Ok(total);
            }
        }
    }

    /// Throws away what waited in a queue (queued, scheduled, deferred) or had failed there when it was looked at.
    /// What is enqueued or fails later stays.
    ///
    /// # Errors
    /// [`Error::Invalid`] for any other state.
    pub async fn purge(&self, queue: &QueueInfo, state: State) -> Result<u64> {
        if !matches!(state, State::Queued | State::Scheduled | State::Deferred | State::Failed) {
            return Err(Error::invalid("status", "only jobs that wait or have failed can be purged"));
        }
        let begun = queue.seen_at.timestamp_millis();
        // Ids begin with the time that they were made, in milliseconds.
        let last = format!("{begun:012x}g");
        let (mut total, mut left) = (0, Vec::<String>::new());
        loop {
            // A call that throws nothing away may have seen new jobs only: it says itself what is left to look at.
            let mut call = self.prepare(&scripts::PURGE);
            call.arg(&queue.name).arg(state.as_str()).arg(JOBS_PER_CALL).arg(begun).arg(&last).arg(&left);
            let (n, rest): (u64, Vec<String>) = self.run(&call).await?;
            total += n;
            left = rest;
            if left.is_empty() {
                return Ok(total);
            }
        }
    }

    /// Lets workers take nothing more from a queue; what runs goes on, and enqueuing too.
    pub async fn pause(&self, queue: &str) -> Result<()> {
        self.control(queue, "pause", "").await
    }

    pub async fn resume(&self, queue: &str) -> Result<()> {
        self.control(queue, "resume", "").await
    }

    /// How many jobs of a queue may run at once, in all workers together.
    pub async fn limit_concurrency(&self, queue: &str, most: Option<u32>) -> Result<()> {
        self.control(queue, "concurrency", &most.map(|most| most.to_string()).unwrap_or_default()).await
    }

    /// How many jobs of a queue may begin in a time, in all workers together.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a rate of no jobs or in no time.
    pub async fn limit_rate(&self, queue: &str, rate: Option<Rate>) -> Result<()> {
        if rate.is_some_and(|rate| rate.jobs == 0 || rate.per.as_millis() == 0) {
            return Err(Error::invalid("rate_limit", "at least one job, in at least a millisecond"));
        }
        let text = rate.map(|rate| format!("{}/{}", rate.jobs, rate.per.as_millis()));
        self.control(queue, "rate", &text.unwrap_or_default()).await
    }

    async fn control(&self, queue: &str, what: &str, value: &str) -> Result<()> {
        let mut call = self.prepare(&scripts::CONTROL);
        call.arg(queue).arg(what).arg(value);
        self.run(&call).await
    }
}
