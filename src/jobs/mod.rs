//! The jobs of this product, and the list of jobs that a worker can run.

mod announce_key_expiry;
mod example_task;
mod housekeeping;
mod import_products;
mod process_data;
mod relay_outbox;
mod send_email;
mod send_email_message;

pub use announce_key_expiry::AnnounceKeyExpiry;
pub use example_task::ExampleTask;
pub use housekeeping::Housekeeping;
pub use import_products::ImportProducts;
pub use process_data::ProcessData;
pub use relay_outbox::RelayOutbox;
pub use send_email::SendEmail;
pub use send_email_message::SendLetter;

use std::sync::Arc;

use crate::{
    app::App,
    context::RequestContext,
    error::Error,
    mail::SendError,
    queue::{BoxError, EnqueueBy, Failure, JobState, JobType, MayRun, Origin},
    services::{
        org_access::OrgAccess,
        org_jobs,
        outbox::{SendEmailMessage, SendNewEmailMessage},
        permissions::Permission,
        user_jobs,
    },
};

/// The context of a running job; `ctx.state` is the application.
pub type Context = crate::queue::Context<App>;
/// The return type of a job: its result, by default JSON, or a failure.
pub type JobResult<T = serde_json::Value> = Result<T, crate::queue::Failure>;

impl JobState for App {
    async fn may_run(&self, origin: &Origin) -> Result<MayRun, BoxError> {
        Ok(match origin.scope {
            None => user_jobs::may_run(self, origin).await?,
            Some(_) => org_jobs::may_run(self, origin).await?,
        })
    }
}

impl Context {
    /// Returns the access of the job's owner to the organization of this job. The owner must have `permission`. Reads
    /// the membership again, because it may have changed since the job was enqueued.
    ///
    /// # Errors
    /// A failure, which `run` must return. It cancels the job if the owner is not an active member with the permission, or if
    /// the organization is suspended or scheduled for deletion. After any other error, the job is retried while attempts
    /// remain.
    pub async fn org(&self, permission: Permission) -> JobResult<OrgAccess> {
        org_jobs::access(&self.state, &self.origin, permission).await.map_err(org_failure)
    }

    /// Returns the context of the request that enqueued the job. Audit entries of a change with this context contain the owner
    /// of the job, the API key and the id of the request.
    pub fn request(&self) -> RequestContext {
        let text = |value: &Option<String>| value.as_deref().map(Arc::from);
        RequestContext {
            actor: self.origin.owner,
            api_key: self.origin.api_key,
            request_id: text(&self.origin.request_id),
            trace: text(&self.origin.traceparent),
            ..RequestContext::default()
        }
    }
}

/// Converts an error of an operation in an organization to a failure. The failure cancels the job if its owner is not an active
/// member with the permission, or if the organization is suspended or scheduled for deletion. After any other error, the job is
/// retried while attempts remain.
fn org_failure(error: Error) -> Failure {
    match org_jobs::refusal(&error) {
        Some(reason) => Failure::discard(reason),
        None => error.into(),
    }
}

/// The queue of the product's own jobs. If `WORKER_SYSTEM_QUEUE` is on, a worker serves this queue first. Users cannot
/// enqueue jobs in it.
pub const SYSTEM_QUEUE: &str = "system";

/// The jobs that a worker can run. To add a job, add a file to `src/jobs` and a row here.
pub const ALL: &[JobType<App>] = &[
    JobType::of::<ExampleTask>(),
    JobType::of::<SendEmail>(),
    JobType::of::<ProcessData>(),
    JobType::of::<ImportProducts>(),
    JobType::of::<SendEmailMessage>(),
    JobType::of::<SendNewEmailMessage>(),
    JobType::of::<SendLetter>(),
    JobType::of::<RelayOutbox>(),
    JobType::of::<Housekeeping>(),
    JobType::of::<AnnounceKeyExpiry>(),
];

/// Converts an error of the mailer to a failure. A permanent error is not retried.
fn send_failure(error: SendError) -> Failure {
    match error.is_permanent() {
        true => Failure::from(error).permanent(),
        false => Failure::from(error),
    }
}

// Fails the build if users can enqueue a job in the queue `system`.
const _: () = {
    let mut i = 0;
    while i < ALL.len() {
        let is_of_users = matches!(ALL[i].enqueue_by, EnqueueBy::User { .. });
        assert!(
            !is_of_users || !equal(ALL[i].queue, SYSTEM_QUEUE),
            "users may not enqueue jobs in the system queue"
        );
        i += 1;
    }
};

/// Compares two texts at compile time.
const fn equal(a: &str, b: &str) -> bool {
    let (a, b, mut i) = (a.as_bytes(), b.as_bytes(), 0);
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}
