use chrono::{DateTime, Utc};
use poem_openapi::{Object, OpenApi, param::Path, payload::Json, types::Example};
use serde_json::{Value, json};

use super::state::{Canceled, EXAMPLE_ID, StateOut, cancel, find};
use crate::{
    api::{extract::CurrentUser, problem::Result, tag::Tag},
    app::App,
    error::Error,
    models::session::Identity,
    queue::JobStatus,
    services::actor::is_admin,
};

pub(in crate::api) struct Jobs(pub(super) App);

/// Where a job stands.
#[derive(Object)]
#[oai(rename = "JobStatus", example)]
struct StatusOut {
    job_id: String,
    status: StateOut,
    /// What the task returned, once it has finished; kept for a day.
    result: Value,
    /// Why the last attempt failed.
    #[oai(nullable)]
    error: Option<String>,
    progress: Value,
    /// Attempts begun.
    attempts: u32,
    queue: String,
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
            job_id: EXAMPLE_ID.into(),
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

impl Jobs {
    /// The job, where it is the user's own or the user is an admin; to others it does not exist.
    async fn visible(&self, who: &Identity, id: &str) -> Result<JobStatus> {
        let job = find(&self.0, id).await?;
        match is_admin(&self.0, who) || job.owner == Some(who.user.id) {
            true => Ok(job),
            false => Err(Error::NotFound("Job").into()),
        }
    }
}

#[OpenApi(prefix_path = "/jobs", tag = "Tag::Jobs")]
impl Jobs {
    /// Where a job stands.
    #[oai(path = "/:id/status", method = "get", operation_id = "read_job_status")]
    async fn status(
        &self,
        CurrentUser(actor): CurrentUser,
        /// The `job_id` that enqueuing answered.
        id: Path<String>,
    ) -> Result<Json<StatusOut>> {
        let job = self.visible(actor.identity(), &id.0).await?;
        // What went wrong inside may name hosts, paths and people.
        let error =
            if is_admin(&self.0, actor.identity()) { job.error_detail.or(job.error) } else { job.error };
        Ok(Json(StatusOut {
            job_id: id.0,
            status: job.state.into(),
            result: job.result.unwrap_or_default(),
            error,
            progress: job.progress.unwrap_or_default(),
            attempts: job.attempts,
            queue: job.queue,
            task: job.task,
            enqueued_at: job.enqueued_at,
            started_at: job.started_at,
            ended_at: job.ended_at,
        }))
    }

    /// Cancel a job.
    ///
    /// One that waits is cancelled at once, one that runs is asked to stop. Fails with 409 `conflict` where it
    /// has ended.
    #[oai(path = "/:id", method = "delete", operation_id = "cancel_job")]
    async fn cancel(
        &self,
        CurrentUser(actor): CurrentUser,
        /// The `job_id` that enqueuing answered.
        id: Path<String>,
    ) -> Result<Json<Canceled>> {
        self.visible(actor.identity(), &id.0).await?;
        cancel(&self.0, id.0).await
    }
}
