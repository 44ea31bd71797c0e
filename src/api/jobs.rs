use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::Example,
};
use serde_json::{Value, json};

use super::{
    extract::{Body, CurrentUser, SignedIn},
    problem::Result,
    tag::Tag,
};
use crate::{
    app::App,
    context::RequestContext,
    error::Error,
    jobs::{ExampleTask, ProcessData, SendEmail},
    models::session::Identity,
    queue::{Cancel, Job, JobStatus, State},
    services::{self, sessions::is_admin},
};

pub(super) struct Jobs(pub(super) App);

#[derive(Object)]
#[oai(skip_serializing_if_is_none, example)]
struct Enqueued {
    message: String,
    /// Ask for its state at `/jobs/{id}/status`.
    job_id: String,
    task: String,
    /// What the job was given.
    parameters: Option<Value>,
}

impl Example for Enqueued {
    fn example() -> Self {
        Self {
            message: "Job enqueued".into(),
            job_id: "019a8c1e7d3a7c2e9b1f5d4c3b2a1908".into(),
            task: "example_task".into(),
            parameters: Some(json!({ "name": "my-task", "duration": 5 })),
        }
    }
}

#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase", rename = "JobState")]
pub(super) enum StateOut {
    Queued,
    Scheduled,
    /// It waits for other jobs.
    Deferred,
    Started,
    Finished,
    Failed,
    Canceled,
}

impl From<State> for StateOut {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Scheduled => Self::Scheduled,
            State::Deferred => Self::Deferred,
            State::Started => Self::Started,
            State::Finished => Self::Finished,
            State::Failed => Self::Failed,
            State::Canceled => Self::Canceled,
        }
    }
}

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
            job_id: Enqueued::example().job_id,
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

#[derive(Object)]
#[oai(example)]
pub(super) struct Canceled {
    message: String,
    job_id: String,
    status: StateOut,
}

impl Example for Canceled {
    fn example() -> Self {
        Self {
            message: "Job canceled".into(),
            job_id: Enqueued::example().job_id,
            status: StateOut::Canceled,
        }
    }
}

/// The job of that id, whoever's it is. Only what an id can look like reaches Redis.
pub(super) async fn find(app: &App, id: &str) -> Result<JobStatus> {
    let known = match id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => app.queue.status(id).await?,
        false => None,
    };
    Ok(known.ok_or(Error::NotFound("Job"))?)
}

/// Cancels a job, and says what came of it.
pub(super) async fn cancel(app: &App, id: String) -> Result<Json<Canceled>> {
    let (message, status) = match app.queue.cancel(&id).await? {
        Cancel::Canceled => ("Job canceled", StateOut::Canceled),
        Cancel::Requested => ("The job was asked to stop", StateOut::Started),
        Cancel::Ended => return Err(Error::Conflict("Job has already ended").into()),
        Cancel::Unknown => return Err(Error::NotFound("Job").into()),
    };
    Ok(Json(Canceled { message: message.into(), job_id: id, status }))
}

impl Jobs {
    async fn enqueue<J: Job>(
        &self,
        context: &RequestContext,
        job: &J,
        message: &str,
        parameters: Option<Value>,
    ) -> Result<Json<Enqueued>> {
        let job_id = self.0.queue.enqueue(job, context.origin(context.actor)).await?;
        Ok(Json(Enqueued { message: message.into(), job_id, task: J::NAME.into(), parameters }))
    }

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
    /// Enqueue a job that takes a while.
    #[oai(path = "/example", method = "post", operation_id = "enqueue_example")]
    async fn example(
        &self,
        caller: CurrentUser,
        /// Any name.
        #[oai(validator(min_length = 1, max_length = 255))]
        name: Query<String>,
        /// Seconds that it takes.
        #[oai(
            default = "default_duration_seconds",
            validator(minimum(value = "0"), maximum(value = "3600"))
        )]
        duration: Query<i64>,
    ) -> Result<Json<Enqueued>> {
        let duration = u32::try_from(duration.0).map_err(Error::internal)?;
        let job = ExampleTask { name: name.0, duration };
        let parameters = json!({ "name": job.name, "duration": job.duration });
        self.enqueue(&caller.context, &job, "Example job enqueued", Some(parameters)).await
    }

    /// Enqueue a mail.
    ///
    /// Once an SMTP server is configured, only admins may write to other addresses than their own, confirmed one (403):
    /// this is no open relay.
    #[oai(path = "/send-email", method = "post", operation_id = "enqueue_send_email")]
    async fn send_email(
        &self,
        caller: SignedIn,
        /// The address of the recipient.
        #[oai(validator(min_length = 3, max_length = 255))]
        to: Query<String>,
        #[oai(validator(min_length = 1, max_length = 255))] subject: Query<String>,
        /// Plain text.
        #[oai(validator(max_length = 100000))]
        body: Query<String>,
    ) -> Result<Json<Enqueued>> {
        let user = &caller.identity.user;
        let to = services::users::normalize_email(&to.0);
        services::users::check_email(&to).map_err(|msg| Error::invalid("to", msg))?;
        // An address that is not confirmed may be anybody's.
        let own = to == user.email && user.email_verified_at.is_some();
        let permitted = is_admin(&self.0, &caller.identity) || own;
        if self.0.mailer.is_real() && !permitted {
            let error = if to == user.email { Error::EmailNotVerified } else { Error::Forbidden };
            return Err(error.into());
        }
        let job = SendEmail { to, subject: subject.0, body: body.0, permitted };
        self.enqueue(&caller.context, &job, "Email job enqueued", None).await
    }

    /// Enqueue a document to be processed.
    #[oai(path = "/process-data", method = "post", operation_id = "enqueue_process_data")]
    async fn process_data(
        &self,
        caller: CurrentUser,
        Body(data): Body<BTreeMap<String, Value>>,
    ) -> Result<Json<Enqueued>> {
        let job = ProcessData { data: data.into_iter().collect() };
        self.enqueue(&caller.context, &job, "Data processing job enqueued", None).await
    }

    /// Where a job stands.
    #[oai(path = "/:id/status", method = "get", operation_id = "read_job_status")]
    async fn status(
        &self,
        caller: SignedIn,
        /// The `job_id` that enqueuing answered.
        id: Path<String>,
    ) -> Result<Json<StatusOut>> {
        let job = self.visible(&caller.identity, &id.0).await?;
        // What went wrong inside may name hosts, paths and people.
        let error =
            if is_admin(&self.0, &caller.identity) { job.error_detail.or(job.error) } else { job.error };
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
        caller: SignedIn,
        /// The `job_id` that enqueuing answered.
        id: Path<String>,
    ) -> Result<Json<Canceled>> {
        self.visible(&caller.identity, &id.0).await?;
        cancel(&self.0, id.0).await
    }
}

fn default_duration_seconds() -> i64 {
    5
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::ToJSON;

    use super::*;

    #[test]
    fn job_states_are_spelled_as_in_the_queue() {
        for state in State::ALL {
            assert_eq!(StateOut::from(state).to_json(), Some(json!(state.as_str())));
        }
    }
}
