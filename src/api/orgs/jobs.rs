//! The jobs of an organization.

use chrono::{DateTime, Utc};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::Example,
};
use serde_json::Value;

use crate::{
    api::{
        conditional::Tagged,
        extract::{Cursor, Limit, OrgMember, Text},
        ids::JobId,
        jobs::{Canceled, EXAMPLE_ID, StateOut, StatusOut, canceled, find},
        paths::ORG_PATH,
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    services::{
        org_jobs::{self, ListedJob},
        permissions::perm,
    },
};

/// Operations on the jobs of an organization.
pub(in crate::api) struct OrgJobs(pub(super) App);

/// A job of an organization.
#[derive(Object)]
#[oai(rename = "OrgJob", example)]
struct OrgJobOut {
    job_id: JobId,
    /// The name of the task that the job runs.
    task: String,
    /// Null if the state is no longer stored. The state of a finished or canceled job is usually stored for a day, and the state
    /// of a failed job for at most 90 days.
    #[oai(nullable)]
    status: Option<StateOut>,
    /// The last error of the job, or the reason why it was canceled. Null if none is stored, and for a finished job.
    #[oai(nullable)]
    error: Option<String>,
    /// The progress that the running task has reported. Null if the job is not running.
    progress: Value,
    /// Id of the user who enqueued the job, or of the creator of the API key that enqueued it; null if the account was erased.
    #[oai(nullable)]
    created_by: Option<i64>,
    created_at: DateTime<Utc>,
    #[oai(nullable)]
    started_at: Option<DateTime<Utc>>,
    #[oai(nullable)]
    ended_at: Option<DateTime<Utc>>,
}

impl Example for OrgJobOut {
    fn example() -> Self {
        let at = |second: i64| DateTime::from_timestamp(1_767_225_600 + second, 0);
        Self {
            job_id: JobId(EXAMPLE_ID.into()),
            task: "import_products".into(),
            status: Some(StateOut::Finished),
            error: None,
            progress: Value::Null,
            created_by: Some(1),
            created_at: at(0).unwrap_or_default(),
            started_at: at(1),
            ended_at: at(3),
        }
    }
}

impl From<ListedJob> for OrgJobOut {
    fn from(ListedJob { job, state, status }: ListedJob) -> Self {
        let (mut error, mut progress, mut started_at, mut ended_at) = (None, None, None, None);
        if let Some(status) = status {
            (error, progress) = (status.error, status.progress);
            (started_at, ended_at) = (status.started_at, status.ended_at);
        }
        Self {
            job_id: JobId(job.job_id()),
            task: job.task,
            status: state.map(Into::into),
            error,
            progress: progress.unwrap_or_default(),
            created_by: job.created_by,
            created_at: job.created_at,
            started_at,
            ended_at,
        }
    }
}

impl PageItem for OrgJobOut {
    const PAGE: &str = "OrgJobPage";
    const PAGE_DESCRIPTION: &str = "A page of the jobs of an organization, the newest first.";
}

#[OpenApi(prefix_path = ORG_PATH, tag = "Tag::Jobs")]
impl OrgJobs {
    /// Returns the jobs of the organization, the newest first.
    ///
    /// A nightly job removes jobs that are older than 30 days from the list. Needs the permission `job:read`.
    #[oai(path = "/jobs", method = "get", operation_id = "list_org_jobs")]
    async fn list(
        &self,
        org: OrgMember<perm::JobRead>,
        /// Only jobs that run this task, such as `import_products`.
        #[oai(validator(max_length = 100))]
        task: Query<Option<Text>>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Page<OrgJobOut>> {
        let task = task.0.as_ref().map(Text::as_ref);
        let jobs = org_jobs::list(&self.0, org.access(), task, cursor.after()?, limit.rows()).await?;
        Ok(Page::of(&cursor, limit.0, jobs, |listed| listed.job.id))
    }

    /// Returns the status of a job of the organization, with its result.
    ///
    /// Needs the permission `job:read`. Fails with 404 `not_found` if the state of the job is no longer stored.
    #[oai(path = "/jobs/:id", method = "get", operation_id = "read_org_job")]
    async fn read(
        &self,
        org: OrgMember<perm::JobRead>,
        /// The `job_id` of the response to the enqueue request.
        id: Path<JobId>,
    ) -> Result<Tagged<StatusOut>> {
        org_jobs::ensure_of_org(&self.0, org.access(), &id.0.0).await?;
        let job = find(&self.0, &id.0).await?;
        Ok(Tagged(StatusOut::new(id.0, job)))
    }

    /// Cancels a job of the organization.
    ///
    /// Needs the permission `job:write`. A waiting job is canceled at once. A running job is signaled to stop. Fails with
    /// 409 `conflict` if the job has already ended.
    #[oai(path = "/jobs/:id", method = "delete", operation_id = "cancel_org_job")]
    async fn cancel(
        &self,
        org: OrgMember<perm::JobWrite>,
        /// The `job_id` of the response to the enqueue request.
        id: Path<JobId>,
    ) -> Result<Json<Canceled>> {
        org_jobs::ensure_of_org(&self.0, org.access(), &id.0.0).await?;
        let job = find(&self.0, &id.0).await?;
        canceled(org_jobs::cancel(&self.0, org.context(), org.access(), &job).await?, id.0)
    }
}
