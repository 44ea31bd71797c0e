use chrono::{DateTime, Utc};
use poem_openapi::{Object, OpenApi, param::Path, payload::Json, types::Example};
use serde_json::{Value, json};

use super::state::{Canceled, EXAMPLE_ID, StateOut, canceled, find};
use crate::{
    api::{conditional::Tagged, extract::CurrentUser, ids::JobId, problem::Result, tag::Tag},
    app::App,
    error::Error,
    models::session::Identity,
    queue::JobStatus,
    services::{
        actor::is_admin,
        job_outbox,
        org_access::{self, OrgAccess},
        org_jobs,
        permissions::Permission,
        queue_admin,
    },
};

/// Operations of users on their jobs.
pub(in crate::api) struct Jobs(pub(super) App);

/// The status of a job.
#[derive(Object)]
#[oai(rename = "JobStatus", example)]
pub(in crate::api) struct StatusOut {
    job_id: JobId,
    status: StateOut,
    /// The result of a finished job. By default, the result is stored for about one hour, and is null from then on.
    result: Value,
    /// The last error of the job, or the reason why it was canceled. Null if none is stored, and for a finished job.
    #[oai(nullable)]
    error: Option<String>,
    /// The progress that the running task has reported. Null if the job is not running.
    progress: Value,
    /// Number of attempts, including the current one. An attempt that a worker has postponed or given back to the queue does not
    /// count.
    attempts: u32,
    /// The name of the queue. Empty if only the state of the ended job is still stored, or the stored job is malformed.
    queue: String,
    /// The name of the task that the job runs, such as `example_task`. Empty if only the state of the ended job is still stored,
    /// or the stored job is malformed.
    task: String,
    #[oai(nullable)]
    enqueued_at: Option<DateTime<Utc>>,
    #[oai(nullable)]
    started_at: Option<DateTime<Utc>>,
    #[oai(nullable)]
    ended_at: Option<DateTime<Utc>>,
}

impl Example for StatusOut {
    fn example() -> Self {
        let at = |second: i64| DateTime::from_timestamp(1_767_225_600 + second, 0);
        Self {
            job_id: JobId(EXAMPLE_ID.into()),
            status: StateOut::Finished,
            result: json!({ "task_name": "my-task", "duration": 5, "status": "completed" }),
            error: None,
            progress: Value::Null,
            attempts: 1,
            queue: "default".into(),
            task: "example_task".into(),
            enqueued_at: at(0),
            started_at: at(1),
            ended_at: at(6),
        }
    }
}

impl StatusOut {
    /// Creates the status of a job. Ignores [`JobStatus::error_detail`], which only admins may see.
    pub(in crate::api) fn new(job_id: JobId, job: JobStatus) -> Self {
        Self {
            job_id,
            status: job.state.into(),
            result: job.result.unwrap_or_default(),
            error: job.error,
            progress: job.progress.unwrap_or_default(),
            attempts: job.attempts,
            queue: job.queue,
            task: job.task,
            enqueued_at: job.enqueued_at,
            started_at: job.started_at,
            ended_at: job.ended_at,
        }
    }
}

/// The reason why a caller may see a job.
enum Visibility {
    Owned,
    /// The caller has the permission in the organization of the job.
    InOrg(OrgAccess),
    /// The caller is an admin, and not the owner.
    ToAdmin,
}

impl Jobs {
    /// Returns a job, and the reason why the caller may see it. The owner and admins may see a job without an
    /// organization. Only the members with `permission` may see a job of an organization.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such job, if the caller is not a member of the job's organization, or if a job without
    /// an organization does not belong to the caller and the caller is not an admin; those of [`org_access::check`] for a
    /// member; those of [`find`].
    async fn find_visible(
        &self,
        identity: &Identity,
        id: &JobId,
        permission: Permission,
    ) -> Result<(JobStatus, Visibility)> {
        const NOT_FOUND: Error = Error::NotFound("Job");
        let job = find(&self.0, id).await?;
        let visible = match &job.scope {
            Some(scope) => {
                let org_id = org_jobs::org_of(scope).ok_or(NOT_FOUND)?;
                match org_access::check(identity, org_id, permission) {
                    Ok(access) => Visibility::InOrg(access),
                    Err(Error::NotFound(_)) => return Err(NOT_FOUND.into()),
                    Err(error) => return Err(error.into()),
                }
            }
            None if job.owner == Some(identity.user.id) => Visibility::Owned,
            None if is_admin(&self.0, identity) => Visibility::ToAdmin,
            None => return Err(NOT_FOUND.into()),
        };
        Ok((job, visible))
    }
}

#[OpenApi(prefix_path = "/jobs", tag = "Tag::Jobs")]
impl Jobs {
    /// Returns the status of a job.
    ///
    /// Fails with 404 `not_found` if the job is unknown or has expired, or if the caller is neither the owner of the job nor an
    /// admin. For a job of an organization, the caller needs the permission `job:read` in the organization instead.
    #[oai(path = "/:id/status", method = "get", operation_id = "read_job_status")]
    async fn status(
        &self,
        CurrentUser(actor): CurrentUser,
        /// The `job_id` of the response to the enqueue request.
        id: Path<JobId>,
    ) -> Result<Tagged<StatusOut>> {
        let (mut job, visible) = self.find_visible(actor.identity(), &id.0, Permission::JobRead).await?;
        // Only admins see the details of an error, because the details may contain host names, paths and personal data.
        // For a job of an organization, this operation does not show the details, not even to admins.
        let is_member = matches!(visible, Visibility::InOrg(_));
        if !is_member && is_admin(&self.0, actor.identity()) {
            job.error = job.error_detail.take().or(job.error);
        }
        Ok(Tagged(StatusOut::new(id.0, job)))
    }

    /// Cancels a job.
    ///
    /// A waiting job is canceled at once. A running job is signaled to stop. Fails with 409 `conflict` if the job has
    /// already ended. For a job of an organization, the caller needs the permission `job:write` in the organization.
    #[oai(path = "/:id", method = "delete", operation_id = "cancel_job")]
    async fn cancel(
        &self,
        CurrentUser(actor): CurrentUser,
        /// The `job_id` of the response to the enqueue request.
        id: Path<JobId>,
    ) -> Result<Json<Canceled>> {
        let (job, visible) = self.find_visible(actor.identity(), &id.0, Permission::JobWrite).await?;
        let result = match visible {
            Visibility::Owned => job_outbox::cancel(&self.0, &id.0.0).await?,
            Visibility::InOrg(access) => org_jobs::cancel(&self.0, actor.context(), &access, &job).await?,
            Visibility::ToAdmin => queue_admin::cancel_job(&self.0, &actor.as_admin(&self.0)?, &job).await?,
        };
        canceled(result, id.0)
    }
}
