//! Operations on jobs and queues: cancel, requeue, purge, pause, limit.

use uuid::Uuid;

use super::{
    client::Queue,
    error::{Error, Result},
    inspect::QueueInfo,
    outcome::ended_origin,
    owner::PurgedOwner,
    prepared::PreparedJob,
    rate::Rate,
    scripts,
    state::State,
};

/// Maximum number of jobs that one call of a script requeues, and about how many one call examines for a purge.
const JOBS_PER_CALL: u64 = 1_000;

/// The result of [`Queue::cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    Canceled,
    /// The job is running. The next heartbeat of its worker tells it to stop.
    Requested,
    /// The job had finished, failed or been canceled before, or its envelope is malformed.
    Ended,
    /// No job with this id is known.
    Unknown,
}

/// Changes of the settings of a queue. `None` keeps a setting; the inner `None` removes a limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueueChanges {
    /// Whether workers take no jobs of the queue. Running jobs continue, and jobs can still be enqueued.
    pub paused: Option<bool>,
    /// How many jobs of the queue may run at once, in all workers together.
    pub concurrency_limit: Option<Option<u32>>,
    /// How many jobs of the queue may start per period, in all workers together: a token bucket, see [`Rate`].
    pub rate_limit: Option<Option<Rate>>,
}

// The following functions return the values of settings in the form of the script `control`.
fn paused_value(paused: bool) -> &'static str {
    if paused { "1" } else { "" }
}

fn concurrency_value(limit: Option<u32>) -> String {
    limit.map(|limit| limit.to_string()).unwrap_or_default()
}

fn rate_value(rate: Option<Rate>) -> String {
    rate.map(|rate| format!("{}/{}", rate.jobs, rate.per.as_millis())).unwrap_or_default()
}

impl Queue {
    /// Cancels a waiting job at once, and tells a running job to stop. Jobs that wait for a canceled job fail, unless their
    /// [`after_failures`](super::EnqueueOptions::after_failures) is set.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn cancel(&self, id: &str) -> Result<Cancel> {
        self.cancel_or_record(id, "").await
    }

    /// As [`cancel`](Self::cancel), for a job that another process may be about to enqueue with
    /// [`enqueue_prepared`](Self::enqueue_prepared). An unknown job is recorded as canceled: it is not enqueued while Redis keeps
    /// the record. Returns [`Cancel::Canceled`] also if the job had been canceled before.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn cancel_prepared(&self, job: &PreparedJob) -> Result<Cancel> {
        let origin = job.origin();
        let record = format!("c{}", ended_origin(origin.owner, origin.scope.as_deref()));
        self.cancel_or_record(&job.id, &record).await
    }

    /// Cancels a job. If the job is unknown and `record` is not empty, `record` is stored as its state.
    async fn cancel_or_record(&self, id: &str, record: &str) -> Result<Cancel> {
        let call_id = Uuid::new_v4().simple().to_string();
        let mut call = self.prepare_call(&scripts::CANCEL);
        call.arg(id).arg(&call_id).arg(record);
        let answer: String = self.run(&call).await?;
        Ok(match answer.as_str() {
            "canceled" => Cancel::Canceled,
            "requested" => Cancel::Requested,
            "ended" => Cancel::Ended,
            _ => Cancel::Unknown,
        })
    }

    /// Puts a failed job back into its queue and resets its failures and crashes. The job does not get its unique key back, and
    /// jobs that have failed because they waited for it stay failed. Returns false if the job is unknown or has not failed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn requeue(&self, id: &str) -> Result<bool> {
        let call_id = Uuid::new_v4().simple().to_string();
        let mut call = self.prepare_call(&scripts::REQUEUE);
        call.arg("").arg(&call_id).arg(id);
        let n: u64 = self.run(&call).await?;
        Ok(n > 0)
    }

    /// Puts the failed jobs of a queue back into the queue, each as [`requeue`](Self::requeue) does. Jobs that fail after
    /// `queue` was read stay failed. Returns how many jobs went back. The number may be too low if an answer of Redis was lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn requeue_failed(&self, queue: &QueueInfo) -> Result<u64> {
        let mut total = 0;
        loop {
            let mut call = self.prepare_call(&scripts::REQUEUE);
            call.arg(&queue.name).arg(queue.seen_at.timestamp_millis()).arg(JOBS_PER_CALL);
            let n: u64 = self.run(&call).await?;
            total += n;
            if n == 0 {
                return Ok(total);
            }
        }
    }

    /// Deletes the jobs of a queue that are in one state: queued, scheduled, deferred or failed. Keeps failed jobs that have
    /// failed, and other jobs that were created, after `queue` was read. Jobs that wait for a deleted job fail, unless their
    /// [`after_failures`](super::EnqueueOptions::after_failures) is set. Returns how many jobs were deleted. The number may be
    /// too low if an answer of Redis was lost.
    ///
    /// # Errors
    /// [`Error::Invalid`] for any other state; [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn purge(&self, queue: &QueueInfo, state: State) -> Result<u64> {
        if !matches!(state, State::Queued | State::Scheduled | State::Deferred | State::Failed) {
            return Err(Error::invalid(
                "status",
                "only queued, scheduled, deferred and failed jobs can be purged",
            ));
        }
        let started_at = queue.seen_at.timestamp_millis();
        // Ids begin with the time of their creation: milliseconds, as 12 hexadecimal digits. `g` sorts after all digits.
        let last_id = format!("{started_at:012x}g");
        let (mut total, mut remaining) = (0, Vec::<String>::new());
        loop {
            // A call that examined only jobs from after the start of the purge deletes nothing, although earlier jobs may
            // remain. So the script returns the remaining work.
            let mut call = self.prepare_call(&scripts::PURGE);
            call.arg(&queue.name).arg(state.as_str()).arg(JOBS_PER_CALL).arg(started_at).arg(&last_id);
            call.arg(&remaining);
            let (n, rest): (u64, Vec<String>) = self.run(&call).await?;
            total += n;
            remaining = rest;
            if remaining.is_empty() {
                return Ok(total);
            }
        }
    }

    /// Deletes the jobs of an owner that are queued, scheduled, deferred or failed, and tells the owner's running jobs to stop.
    /// Jobs that wait for a deleted job fail, as with [`purge`](Self::purge). The returned numbers may be too low if an answer
    /// of Redis was lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn purge_owner(&self, owner: i64) -> Result<PurgedOwner> {
        let mut purged = PurgedOwner::default();
        let mut remaining = "lists".to_owned();
        while !remaining.is_empty() {
            let mut call = self.prepare_call(&scripts::PURGE_OWNER);
            call.arg(owner).arg(JOBS_PER_CALL).arg(&remaining);
            let (deleted, stopping, rest): (u64, u64, String) = self.run(&call).await?;
            purged.deleted += deleted;
            purged.stopping += stopping;
            remaining = rest;
        }
        Ok(purged)
    }

    /// Changes settings of a queue in one step. The queue need not exist yet. With `expected`, returns false and changes nothing
    /// if the settings of the queue differ from those in `expected`, unless they already have the new values.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the rate has no jobs or no period; [`Error::Unavailable`] if Redis does not answer in time or
    /// refuses the call.
    pub async fn change(
        &self,
        queue: &str,
        changes: &QueueChanges,
        expected: Option<&QueueInfo>,
    ) -> Result<bool> {
        let rate = changes.rate_limit.flatten();
        if rate.is_some_and(|rate| rate.jobs == 0 || rate.per.as_millis() == 0) {
            return Err(Error::invalid("rate_limit", "must be at least one job in at least a millisecond"));
        }
        let required = expected.map(|info| {
            let (concurrency, rate) =
                (concurrency_value(info.concurrency_limit), rate_value(info.rate_limit));
            format!("{}|{concurrency}|{rate}", paused_value(info.paused))
        });
        let mut call = self.prepare_call(&scripts::CONTROL);
        call.arg(queue).arg(required.unwrap_or_default());
        if let Some(paused) = changes.paused {
            call.arg("paused").arg(paused_value(paused));
        }
        if let Some(limit) = changes.concurrency_limit {
            call.arg("concurrency").arg(concurrency_value(limit));
        }
        if let Some(rate) = changes.rate_limit {
            call.arg("rate").arg(rate_value(rate));
        }
        let changed: u8 = self.run(&call).await?;
        Ok(changed == 1)
    }

    /// Stops workers from fetching jobs of a queue. Jobs that were fetched before may still run, and jobs can still be enqueued.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn pause(&self, queue: &str) -> Result<()> {
        let changes = QueueChanges { paused: Some(true), ..QueueChanges::default() };
        self.change(queue, &changes, None).await.map(drop)
    }

    /// Lets workers take jobs of a paused queue again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn resume(&self, queue: &str) -> Result<()> {
        let changes = QueueChanges { paused: Some(false), ..QueueChanges::default() };
        self.change(queue, &changes, None).await.map(drop)
    }

    /// Limits how many jobs of a queue run at once, in all workers together; `None` removes the limit.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time or refuses the call.
    pub async fn limit_concurrency(&self, queue: &str, limit: Option<u32>) -> Result<()> {
        let changes = QueueChanges { concurrency_limit: Some(limit), ..QueueChanges::default() };
        self.change(queue, &changes, None).await.map(drop)
    }

    /// Limits how many jobs of a queue start per period, in all workers together, by the token bucket of [`Rate`]. `None`
    /// removes the limit.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn limit_rate(&self, queue: &str, rate: Option<Rate>) -> Result<()> {
        let changes = QueueChanges { rate_limit: Some(rate), ..QueueChanges::default() };
        self.change(queue, &changes, None).await.map(drop)
    }
}
