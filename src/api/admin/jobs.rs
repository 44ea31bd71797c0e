use chrono::{DateTime, Utc};
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    registry::{MetaSchema, MetaSchemaRef},
    types::{Example, Type},
};
use serde_json::{Value, json};

use super::queue_name::check_queue;
use crate::{
    api::{
        conditional::Tagged,
        extract::{Admin, Cursor, Limit, Offset},
        ids::{JobId, QueueName},
        jobs::{Canceled, EXAMPLE_ID, StateOut, canceled, find, find_with_payload},
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    queue::{JobPosition, JobStatus, State},
    services::queue_admin,
};

/// Operations of admins on all jobs.
pub(in crate::api) struct Jobs(pub(super) App);

/// A job as admins see it.
#[derive(Object)]
#[oai(rename = "Job", example)]
struct JobOut {
    job_id: JobId,
    status: StateOut,
    /// The name of the task that the job runs. Empty if only the state of an ended job is still stored, or the stored job is
    /// malformed.
    task: String,
    /// The queue of the job. Empty if only the state of an ended job is still stored, or the stored job is malformed.
    queue: String,
    /// Id of the user who owns the job; null if the job has no owner or is malformed.
    #[oai(nullable)]
    owner: Option<i64>,
    /// The organization that the job belongs to, such as `org:7`; null if the job belongs to none or is malformed.
    #[oai(nullable)]
    scope: Option<String>,
    /// The arguments. Null for a job of an organization or a malformed job, and if the arguments are no longer stored, such as
    /// after the job has finished. In the list of jobs, also null if the stored job has more than 16 KiB.
    payload: Value,
    /// The group of the job. Workers take jobs from the groups of a queue in turn. Null without a group, for a malformed job, and
    /// if the group is no longer stored, such as after the job has finished.
    #[oai(nullable)]
    group: Option<String>,
    /// Id of the request that enqueued the job. Null without a request, for a malformed job, and if the id is no longer stored,
    /// such as after the job has finished.
    #[oai(nullable)]
    request_id: Option<String>,
    /// Id of the worker that has taken the job; null unless the status is `started`.
    #[oai(nullable)]
    worker: Option<String>,
    /// The result of a finished job. By default, the result is stored for about one hour. Null if the result is not stored, and
    /// for a job of an organization.
    result: Value,
    /// The last error of the job, or the reason why it was canceled, as the owner of the job sees it. Null if none is stored, and
    /// for a finished job.
    #[oai(nullable)]
    error: Option<String>,
    /// The last error of the job with all details. Null if no details are stored, and for a finished or canceled job.
    #[oai(nullable)]
    error_detail: Option<String>,
    /// The progress that the running task has reported. Null if the job is not running, and for a job of an organization.
    progress: Value,
    /// Number of attempts, including the current one. An attempt that a worker has postponed or given back to the queue does not
    /// count.
    attempts: u32,
    #[oai(nullable)]
    enqueued_at: Option<DateTime<Utc>>,
    /// When a scheduled job is due; null for a job in another state.
    #[oai(nullable)]
    due_at: Option<DateTime<Utc>>,
    #[oai(nullable)]
    started_at: Option<DateTime<Utc>>,
    #[oai(nullable)]
    ended_at: Option<DateTime<Utc>>,
}

impl Example for JobOut {
    fn example() -> Self {
        let at = |second: i64| DateTime::from_timestamp(1_767_225_600 + second, 0);
        Self {
            job_id: JobId(EXAMPLE_ID.into()),
            status: StateOut::Failed,
            task: "send_email_task".into(),
            queue: "default".into(),
            owner: Some(1),
            scope: None,
            payload: json!({ "to": "ada@example.com", "subject": "Hi", "body": "Hello", "permitted": true }),
            group: None,
            request_id: Some("01a203c5-1357-763a-a32d-0c63a944ff19".into()),
            worker: None,
            result: Value::Null,
            error: Some("The job failed".into()),
            error_detail: Some("Mail server is unavailable: connection refused".into()),
            progress: Value::Null,
            attempts: 6,
            enqueued_at: at(0),
            due_at: None,
            started_at: None,
            ended_at: at(465),
        }
    }
}

impl From<JobStatus> for JobOut {
    fn from(mut job: JobStatus) -> Self {
        // Only members of an organization may see its data, which these fields may contain.
        if job.scope.is_some() {
            (job.payload, job.result, job.progress) = (None, None, None);
        }
        Self {
            job_id: JobId(job.id),
            status: job.state.into(),
            task: job.task,
            queue: job.queue,
            owner: job.owner,
            scope: job.scope,
            payload: job.payload.unwrap_or_default(),
            group: job.group,
            request_id: job.request_id,
            worker: job.worker,
            result: job.result.unwrap_or_default(),
            error: job.error,
            error_detail: job.error_detail,
            progress: job.progress.unwrap_or_default(),
            attempts: job.attempts,
            enqueued_at: job.enqueued_at,
            due_at: job.due_at,
            started_at: job.started_at,
            ended_at: job.ended_at,
        }
    }
}

impl PageItem for JobOut {
    const PAGE: &str = "JobPage";
    const PAGE_DESCRIPTION: &str = "A page of the jobs of a queue in one state.";

    fn example_item() -> Option<Self> {
        Some(Self::example())
    }

    fn deprecated_fields() -> Vec<(&'static str, MetaSchemaRef, Value)> {
        let total = MetaSchema { description: Some("Number of jobs on all pages."), ..MetaSchema::ANY };
        let offset = "Number of jobs before this page. Absent if the request has a cursor.";
        let offset = MetaSchema { description: Some(offset), ..MetaSchema::ANY };
        vec![
            ("total", u64::schema_ref().merge(total), json!(1)),
            ("offset", u64::schema_ref().merge(offset), json!(0)),
        ]
    }
}

/// A job that was put back into its queue.
#[derive(Object)]
#[oai(example)]
struct Requeued {
    job_id: JobId,
    status: StateOut,
}

impl Example for Requeued {
    fn example() -> Self {
        Self { job_id: JobId(EXAMPLE_ID.into()), status: StateOut::Queued }
    }
}

/// A state whose jobs can be listed. Finished and canceled jobs can only be read by id.
#[derive(Enum, Clone, Copy, Default)]
#[oai(rename_all = "lowercase")]
enum ListedState {
    Queued,
    Scheduled,
    /// The job waits for other jobs.
    Deferred,
    Started,
    #[default]
    Failed,
}

impl From<ListedState> for State {
    fn from(state: ListedState) -> Self {
        match state {
            ListedState::Queued => Self::Queued,
            ListedState::Scheduled => Self::Scheduled,
            ListedState::Deferred => Self::Deferred,
            ListedState::Started => Self::Started,
            ListedState::Failed => Self::Failed,
        }
    }
}

#[OpenApi(prefix_path = "/admin", tag = "Tag::Admin")]
impl Jobs {
    /// Returns the jobs of a queue in one state.
    ///
    /// Failed jobs are sorted by the time of the failure, the newest first. Scheduled and deferred jobs are sorted by the time
    /// at which they are due. Queued jobs without a group come first, then the jobs of each group. Started jobs have no fixed
    /// order.
    ///
    /// A page of scheduled, deferred or failed jobs continues where the previous page has ended, even if up to 1,000 jobs were
    /// added or removed between the two requests. If none of the last 5 jobs of the previous page is still in the list, the
    /// page may repeat jobs. If one of these 5 jobs was removed and added again, such as by a retry, the page may repeat or omit
    /// jobs. Pages of started jobs, and of queued jobs with groups, may repeat or omit jobs, because the order
    /// of these jobs can change.
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    async fn list(
        &self,
        _admin: Admin,
        /// The name of the queue: letters, digits, `-`, `_` and `.`.
        #[oai(default = "default_queue", validator(max_length = 100))]
        queue: Query<QueueName>,
        /// The state of the jobs.
        #[oai(default)]
        status: Query<ListedState>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
        /// Number of jobs to skip. Use `cursor`.
        #[oai(deprecated = true)]
        offset: Query<Option<Offset>>,
    ) -> Result<Page<JobOut>> {
        let QueueName(queue) = queue.0;
        check_queue("queue", &queue)?;
        let state = State::from(status.0);
        let after = cursor.after_valid(JobPosition::is_valid)?;
        if offset.0.is_some() {
            cursor.excludes("offset")?;
        }
        let skipped = offset.0.unwrap_or_default().0;
        let info = self.0.queue.queue(&queue).await?;
        let is_first = after.is_none();
        let begin = after.unwrap_or_else(|| JobPosition::at(skipped.into()));
        let (jobs, next) = self.0.queue.page(&queue, state, &begin, limit.0.0.into()).await?;
        let page = Page::new(&cursor, limit.0, jobs, next);
        let page = page.with_deprecated("total", info.map_or(0, |info| info.count(state)));
        Ok(if is_first { page.with_deprecated("offset", skipped) } else { page })
    }

    /// Returns a job of any owner, or without an owner.
    ///
    /// Fails with 404 `not_found` if the job is unknown, or if its state is no longer stored.
    #[oai(path = "/jobs/:id", method = "get", operation_id = "read_job")]
    async fn read(
        &self,
        _admin: Admin,
        /// The `job_id` of the response to the enqueue request.
        id: Path<JobId>,
    ) -> Result<Tagged<JobOut>> {
        Ok(Tagged(find_with_payload(&self.0, &id.0).await?.into()))
    }

    /// Puts a failed job back into its queue.
    ///
    /// The number of attempts is reset. Fails with 409 `conflict` if the job has not failed.
    #[oai(path = "/jobs/:id/requeue", method = "post", operation_id = "requeue_job")]
    async fn requeue(
        &self,
        Admin(actor): Admin,
        /// The `job_id` of the response to the enqueue request.
        id: Path<JobId>,
    ) -> Result<Json<Requeued>> {
        let job = find(&self.0, &id.0).await?;
        queue_admin::requeue_job(&self.0, &actor, &job).await?;
        Ok(Json(Requeued { job_id: id.0, status: StateOut::Queued }))
    }

    /// Cancels a job of any owner, or without an owner.
    ///
    /// A waiting job is canceled at once. A running job is signaled to stop. Fails with 409 `conflict` if the job has
    /// already ended.
    #[oai(path = "/jobs/:id", method = "delete", operation_id = "cancel_any_job")]
    async fn cancel(
        &self,
        Admin(actor): Admin,
        /// The `job_id` of the response to the enqueue request.
        id: Path<JobId>,
    ) -> Result<Json<Canceled>> {
        let job = find(&self.0, &id.0).await?;
        canceled(queue_admin::cancel_job(&self.0, &actor, &job).await?, id.0)
    }
}

fn default_queue() -> QueueName {
    QueueName("default".into())
}
