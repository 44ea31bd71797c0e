//! Types and functions that the job operations of users and admins share.

use poem_openapi::{Enum, Object, payload::Json, types::Example};

use crate::{
    api::{ids::JobId, problem::Result},
    app::App,
    error::Error,
    queue::{Cancel, JobStatus, State},
    services::job_outbox,
};

/// The state of a job.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase", rename = "JobState")]
pub(in crate::api) enum StateOut {
    Queued,
    Scheduled,
    /// The job waits for other jobs.
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

/// The job id in the examples of the OpenAPI document.
pub(in crate::api) const EXAMPLE_ID: &str = "019a8c1e7d3a7c2e9b1f5d4c3b2a1908";

/// The result of a cancellation.
#[derive(Object)]
#[oai(example)]
pub(in crate::api) struct Canceled {
    /// What was done, for people.
    message: String,
    job_id: JobId,
    /// `canceled`, or `started` if the running job was signaled to stop.
    status: StateOut,
}

impl Example for Canceled {
    fn example() -> Self {
        Self { message: "Job canceled".into(), job_id: JobId(EXAMPLE_ID.into()), status: StateOut::Canceled }
    }
}

/// Returns a job of any owner, without its payload.
///
/// # Errors
/// [`Error::NotFound`] if there is no such job, or the id is invalid; those of [`job_outbox::find`].
pub(in crate::api) async fn find(app: &App, id: &JobId) -> Result<JobStatus> {
    look_up(app, id, false).await
}

/// Returns a job of any owner, with its payload.
///
/// # Errors
/// As [`find`].
pub(in crate::api) async fn find_with_payload(app: &App, id: &JobId) -> Result<JobStatus> {
    look_up(app, id, true).await
}

async fn look_up(app: &App, JobId(id): &JobId, with_payload: bool) -> Result<JobStatus> {
    let job = if is_id(id) { job_outbox::find(app, id, with_payload).await? } else { None };
    Ok(job.ok_or(Error::NotFound("Job"))?)
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Returns the response to the cancellation of a job.
///
/// # Errors
/// [`Error::NotFound`] if there is no such job; [`Error::Conflict`] if it has already ended.
pub(in crate::api) fn canceled(result: Cancel, job_id: JobId) -> Result<Json<Canceled>> {
    let (message, status) = match result {
        Cancel::Canceled => ("Job canceled", StateOut::Canceled),
        Cancel::Requested => ("The job was asked to stop", StateOut::Started),
        Cancel::Ended => return Err(Error::Conflict("Job has already ended").into()),
        Cancel::Unknown => return Err(Error::NotFound("Job").into()),
    };
    Ok(Json(Canceled { message: message.into(), job_id, status }))
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::ToJSON;
    use serde_json::json;

    use super::*;

    #[test]
    fn job_states_are_spelled_as_in_the_queue() {
        for state in State::ALL {
            assert_eq!(StateOut::from(state).to_json(), Some(json!(state.as_str())));
        }
    }
}
