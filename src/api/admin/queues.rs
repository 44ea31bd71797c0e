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
        conditional::{IfMatch, TaggedVolatile, Volatile},
        extract::{Admin, Body, Cursor, Limit},
        ids::QueueName,
        problem::Result,
        respond::ArrayPage,
        tag::Tag,
    },
    app::App,
    error::Error,
    queue::{QueueChanges, QueueInfo, Rate, State, Totals},
    services::queue_admin,
};

/// Operations of admins on the queues.
pub(in crate::api) struct Queues(pub(super) App);

/// A rate limit for started jobs, over all workers: a token bucket of `jobs` tokens that refills in `per_seconds`.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct RateLimit {
    /// Size of the bucket: the number of jobs that can start at once when the bucket is full.
    #[oai(validator(minimum(value = "1"), maximum(value = "4294967295")))]
    jobs: u32,
    /// Seconds in which an empty bucket becomes full again.
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

/// Numbers of jobs since the queue was created.
#[derive(Object)]
#[oai(rename = "QueueTotals", example)]
struct TotalsOut {
    enqueued: u64,
    /// Failed jobs that were put back into the queue.
    requeued: u64,
    finished: u64,
    /// Jobs whose last attempt has failed, including jobs that were requeued since.
    failed: u64,
    /// Canceled jobs, including jobs that were purged while they waited.
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

/// A queue: its numbers of jobs, its latency, its totals and its settings.
#[derive(Object)]
#[oai(rename = "Queue", example)]
struct QueueOut {
    name: String,
    /// Whether the queue is paused: workers take no jobs from a paused queue.
    paused: bool,
    /// Number of jobs that wait for a worker.
    queued: u64,
    /// Number of jobs that are due later, such as retries.
    scheduled: u64,
    /// Number of jobs that wait for other jobs.
    deferred: u64,
    /// Number of jobs that workers have taken and not completed: running jobs, and jobs that wait for a slot of their worker.
    started: u64,
    /// Number of stored jobs that have failed and are not retried.
    failed: u64,
    /// Age in seconds of the oldest of these jobs: the first queued job without a group, and the first queued job of each group.
    /// The age counts from the enqueuing, so it includes the time of a delay and of retries. Null if no job is queued.
    #[oai(nullable)]
    latency_seconds: Option<f64>,
    totals: TotalsOut,
    /// Maximum number of running jobs, over all workers; null without a limit.
    #[oai(nullable)]
    concurrency_limit: Option<u32>,
    /// The rate limit of started jobs; null without a limit.
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

impl Volatile for QueueOut {
    const VOLATILE_FIELDS: &[&str] =
        &["queued", "scheduled", "deferred", "started", "failed", "latency_seconds", "totals"];
}

/// A change of a queue. Absent fields are not changed.
#[derive(Object)]
#[oai(deny_unknown_fields, example)]
struct QueueChange {
    /// `true` pauses the queue, `false` resumes it.
    paused: Option<bool>,
    /// Maximum number of running jobs, over all workers; `null` removes the limit.
    #[oai(nullable, validator(minimum(value = "1"), maximum(value = "100000")))]
    concurrency_limit: MaybeUndefined<u32>,
    /// The rate limit; `null` removes it.
    #[oai(nullable)]
    rate_limit: MaybeUndefined<RateLimit>,
}

impl From<QueueChange> for QueueChanges {
    fn from(change: QueueChange) -> Self {
        let QueueChange { paused, concurrency_limit, rate_limit } = change;
        Self {
            paused,
            concurrency_limit: (!concurrency_limit.is_undefined()).then(|| concurrency_limit.take()),
            rate_limit: (!rate_limit.is_undefined()).then(|| rate_limit.take().map(Into::into)),
        }
    }
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

/// The number of affected jobs.
#[derive(Object)]
#[oai(example)]
struct JobCount {
    count: u64,
}

impl Example for JobCount {
    fn example() -> Self {
        Self { count: 3 }
    }
}

/// A state whose jobs can be deleted.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase")]
enum PurgeableState {
    Queued,
    Scheduled,
    /// The job waits for other jobs.
    Deferred,
    Failed,
}

impl From<PurgeableState> for State {
    fn from(state: PurgeableState) -> Self {
        match state {
            PurgeableState::Queued => Self::Queued,
            PurgeableState::Scheduled => Self::Scheduled,
            PurgeableState::Deferred => Self::Deferred,
            PurgeableState::Failed => Self::Failed,
        }
    }
}

impl Queues {
    /// Returns a queue.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an invalid name; [`Error::NotFound`] if the queue does not exist; [`Error::Unavailable`] if
    /// Redis does not answer.
    async fn find(&self, name: &str) -> Result<QueueInfo> {
        check_queue("name", name)?;
        Ok(self.0.queue.queue(name).await?.ok_or(Error::NotFound("Queue"))?)
    }
}

#[OpenApi(prefix_path = "/admin", tag = "Tag::Admin")]
impl Queues {
    /// Returns all queues, also empty ones.
    ///
    /// The queues are sorted by name. Without `limit`, all queues are on one page.
    #[oai(path = "/queues", method = "get", operation_id = "list_queues")]
    async fn list(
        &self,
        _admin: Admin,
        cursor: Cursor,
        limit: Query<Option<Limit>>,
    ) -> Result<ArrayPage<QueueOut>> {
        ArrayPage::of(&cursor, limit.0, self.0.queue.queues().await?, |queue| queue.name.clone())
    }

    /// Returns a queue.
    ///
    /// `If-Match` of `PATCH /admin/queues/{name}` compares only the name, `paused` and the limits.
    #[oai(path = "/queues/:name", method = "get", operation_id = "read_queue")]
    async fn read(
        &self,
        _admin: Admin,
        /// The name of the queue: letters, digits, `-`, `_` and `.`.
        #[oai(validator(max_length = 100))]
        name: Path<QueueName>,
    ) -> Result<TaggedVolatile<QueueOut>> {
        Ok(TaggedVolatile(self.find(&name.0.0).await?.into()))
    }

    /// Pauses or resumes a queue, or changes its limits.
    ///
    /// Running jobs continue, and jobs can still be enqueued. Without `If-Match`, a queue that the change pauses or limits need
    /// not exist yet. Fails with 404 `not_found` for any other change of an unknown queue. With `If-Match`, fails with 412
    /// `precondition_failed` if the queue does not exist, or its settings are not those of a listed `ETag`.
    #[oai(path = "/queues/:name", method = "patch", operation_id = "change_queue")]
    async fn change(
        &self,
        Admin(actor): Admin,
        /// The name of the queue: letters, digits, `-`, `_` and `.`.
        #[oai(validator(max_length = 100))]
        name: Path<QueueName>,
        if_match: IfMatch,
        Body(change): Body<QueueChange>,
    ) -> Result<TaggedVolatile<QueueOut>> {
        let QueueName(name) = name.0;
        check_queue("name", &name)?;
        let condition = if_match.on_stable::<QueueOut, _>();
        queue_admin::change_queue(&self.0, &actor, &name, &change.into(), &condition).await?;
        Ok(TaggedVolatile(self.find(&name).await?.into()))
    }

    /// Puts all failed jobs of a queue back into it.
    ///
    /// The number of attempts of each job is reset. Jobs that fail during the operation are not requeued.
    #[oai(path = "/queues/:name/requeue", method = "post", operation_id = "requeue_queue")]
    async fn requeue(
        &self,
        Admin(actor): Admin,
        /// The name of the queue: letters, digits, `-`, `_` and `.`.
        #[oai(validator(max_length = 100))]
        name: Path<QueueName>,
    ) -> Result<Json<JobCount>> {
        let queue = self.find(&name.0.0).await?;
        let count = queue_admin::requeue_failed(&self.0, &actor, &queue).await?;
        Ok(Json(JobCount { count }))
    }

    /// Deletes the jobs of a queue in one state.
    ///
    /// Jobs that are created during the operation are not deleted, and neither are jobs whose last attempt fails during the
    /// operation.
    #[oai(path = "/queues/:name/jobs", method = "delete", operation_id = "purge_queue")]
    async fn purge(
        &self,
        Admin(actor): Admin,
        /// The name of the queue: letters, digits, `-`, `_` and `.`.
        #[oai(validator(max_length = 100))]
        name: Path<QueueName>,
        /// The state of the jobs to delete.
        status: Query<PurgeableState>,
    ) -> Result<Json<JobCount>> {
        let queue = self.find(&name.0.0).await?;
        let count = queue_admin::purge(&self.0, &actor, &queue, status.0.into()).await?;
        Ok(Json(JobCount { count }))
    }
}
