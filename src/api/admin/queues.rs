use std::time::Duration;

use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::{Example, MaybeUndefined},
};

use super::queue_name::check_queue;
use crate::{
    api::{
        extract::{Admin, Body},
        problem::Result,
        tag::Tag,
    },
    app::App,
    error::Error,
    queue::{QueueInfo, Rate, State, Totals},
};

pub(in crate::api) struct Queues(pub(super) App);

/// So many jobs may begin in so much time, in all workers together.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct RateLimit {
    #[oai(validator(minimum(value = "1"), maximum(value = "4294967295")))]
    jobs: u32,
    #[oai(validator(minimum(value = "1"), maximum(value = "86400")))]
    per_seconds: u32,
}

impl Example for RateLimit {
    fn example() -> Self {
        Self { jobs: 100, per_seconds: 60 }
    }
}

impl From<Rate> for RateLimit {
    fn from(rate: Rate) -> Self {
        Self { jobs: rate.jobs, per_seconds: rate.per.as_secs_f64().ceil() as u32 }
    }
}

impl From<RateLimit> for Rate {
    fn from(limit: RateLimit) -> Self {
        Self { jobs: limit.jobs, per: Duration::from_secs(limit.per_seconds.into()) }
    }
}

/// Counted since the queue began.
#[derive(Object)]
#[oai(rename = "QueueTotals", example)]
struct TotalsOut {
    enqueued: u64,
    requeued: u64,
    finished: u64,
    failed: u64,
    canceled: u64,
}

impl Example for TotalsOut {
    fn example() -> Self {
        Self { enqueued: 5_120, requeued: 3, finished: 5_100, failed: 6, canceled: 2 }
    }
}

impl From<Totals> for TotalsOut {
    fn from(totals: Totals) -> Self {
        Self {
            enqueued: totals.enqueued,
            requeued: totals.requeued,
            finished: totals.finished,
            failed: totals.failed,
            canceled: totals.canceled,
        }
    }
}

/// A queue: what is in it, what has been, and how it is worked off.
#[derive(Object)]
#[oai(rename = "Queue", example)]
struct QueueOut {
    name: String,
    /// Whether workers take nothing from it.
    paused: bool,
    /// Jobs that wait for a worker.
    queued: u64,
    /// Jobs that wait for their time.
    scheduled: u64,
    /// Jobs that wait for other jobs.
    deferred: u64,
    /// Jobs that run.
    started: u64,
    /// Jobs that have failed for good and are kept to be looked at.
    failed: u64,
    /// How long the queued job that waits longest has waited.
    #[oai(nullable)]
    latency_seconds: Option<f64>,
    totals: TotalsOut,
    /// How many jobs may run at once, in all workers together.
    #[oai(nullable)]
    concurrency_limit: Option<u32>,
    #[oai(nullable)]
    rate_limit: Option<RateLimit>,
}

impl Example for QueueOut {
    fn example() -> Self {
        Self {
            name: "default".into(),
            paused: false,
            queued: 8,
            scheduled: 2,
            deferred: 0,
            started: 2,
            failed: 3,
            latency_seconds: Some(0.25),
            totals: TotalsOut::example(),
            concurrency_limit: Some(10),
            rate_limit: Some(RateLimit::example()),
        }
    }
}

impl From<QueueInfo> for QueueOut {
    fn from(info: QueueInfo) -> Self {
        Self {
            name: info.name,
            paused: info.paused,
            queued: info.queued,
            scheduled: info.scheduled,
            deferred: info.deferred,
            started: info.started,
            failed: info.failed,
            latency_seconds: info.latency_seconds,
            totals: info.totals.into(),
            concurrency_limit: info.concurrency_limit,
            rate_limit: info.rate_limit.map(Into::into),
        }
    }
}

/// What to change. What is absent stays as it is.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct QueueChange {
    paused: Option<bool>,
    /// How many jobs may run at once, in all workers together; `null` removes the limit.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "100000")))]
    concurrency_limit: MaybeUndefined<u32>,
    /// `null` removes the limit.
    #[oai(nullable)]
    rate_limit: MaybeUndefined<RateLimit>,
}

impl Example for QueueChange {
    fn example() -> Self {
        Self {
            paused: Some(false),
            concurrency_limit: MaybeUndefined::Value(10),
            rate_limit: MaybeUndefined::Value(RateLimit::example()),
        }
    }
}

#[derive(Object)]
#[oai(rename = "JobCount", example)]
struct Count {
    /// How many jobs it was done to.
    count: u64,
}

impl Example for Count {
    fn example() -> Self {
        Self { count: 3 }
    }
}

#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase", rename = "PurgeableState")]
enum Purgeable {
    Queued,
    Scheduled,
    /// They wait for other jobs.
    Deferred,
    Failed,
}

impl From<Purgeable> for State {
    fn from(state: Purgeable) -> Self {
        match state {
            Purgeable::Queued => Self::Queued,
            Purgeable::Scheduled => Self::Scheduled,
            Purgeable::Deferred => Self::Deferred,
            Purgeable::Failed => Self::Failed,
        }
    }
}

impl Queues {
    /// The queue, where it was ever used.
    async fn known(&self, name: &str) -> Result<QueueInfo> {
        check_queue("name", name)?;
        Ok(self.0.queue.queue(name).await?.ok_or(Error::NotFound("Queue"))?)
    }
}

#[OpenApi(prefix_path = "/admin", tag = "Tag::Admin")]
impl Queues {
    /// Every queue that was ever used.
    #[oai(path = "/queues", method = "get", operation_id = "list_queues")]
    async fn list(&self, _admin: Admin) -> Result<Json<Vec<QueueOut>>> {
        let queues = self.0.queue.queues().await?;
        Ok(Json(queues.into_iter().map(Into::into).collect()))
    }

    /// Pause, resume or limit a queue.
    ///
    /// What runs goes on, and enqueuing too. A queue that has not been used yet can be paused and limited ahead.
    #[oai(path = "/queues/:name", method = "patch", operation_id = "change_queue")]
    async fn change(
        &self,
        _admin: Admin,
        /// Letters, digits, `-`, `_` and `.`.
        #[oai(validator(max_length = 100))]
        name: Path<String>,
        Body(change): Body<QueueChange>,
    ) -> Result<Json<QueueOut>> {
        check_queue("name", &name.0)?;
        let queue = &self.0.queue;
        // A pause comes before the limits and a resumption after them, so that nothing begins in between.
        if change.paused == Some(true) {
            queue.pause(&name.0).await?;
        }
        if !change.concurrency_limit.is_undefined() {
            queue.limit_concurrency(&name.0, change.concurrency_limit.take()).await?;
        }
        if !change.rate_limit.is_undefined() {
            queue.limit_rate(&name.0, change.rate_limit.take().map(Into::into)).await?;
        }
        if change.paused == Some(false) {
            queue.resume(&name.0).await?;
        }
        Ok(Json(self.known(&name.0).await?.into()))
    }

    /// Put all failed jobs back into their queue.
    ///
    /// Their failures are forgotten. Those that fail again meanwhile stay.
    #[oai(path = "/queues/:name/requeue", method = "post", operation_id = "requeue_queue")]
    async fn requeue(
        &self,
        _admin: Admin,
        /// Letters, digits, `-`, `_` and `.`.
        #[oai(validator(max_length = 100))]
        name: Path<String>,
    ) -> Result<Json<Count>> {
        let queue = self.known(&name.0).await?;
        Ok(Json(Count { count: self.0.queue.requeue_failed(&queue).await? }))
    }

    /// Throw away the jobs of a queue that wait or have failed.
    #[oai(path = "/queues/:name/jobs", method = "delete", operation_id = "purge_queue")]
    async fn purge(
        &self,
        _admin: Admin,
        /// Letters, digits, `-`, `_` and `.`.
        #[oai(validator(max_length = 100))]
        name: Path<String>,
        /// Which of them.
        status: Query<Purgeable>,
    ) -> Result<Json<Count>> {
        let queue = self.known(&name.0).await?;
        let count = self.0.queue.purge(&queue, status.0.into()).await?;
        Ok(Json(Count { count }))
    }
}
