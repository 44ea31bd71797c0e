//! The jobs of this product, one file each, and the table of jobs that a worker runs.

mod example_task;
mod housekeeping;
mod process_data;
mod relay_outbox;
mod send_email;
mod send_email_message;

pub use example_task::ExampleTask;
pub use housekeeping::Housekeeping;
pub use process_data::ProcessData;
pub use relay_outbox::RelayOutbox;
pub use send_email::SendEmail;
pub use send_email_message::SendLetter;

use crate::{
    app::App,
    mail::SendError,
    queue::{BoxError, EnqueueBy, Failure, JobState, JobType, MayRun, Origin},
    services::{outbox::SendEmailMessage, user_jobs},
};

/// The context of a running job; `ctx.state` is the application.
pub type Context = crate::queue::Context<App>;
/// What a job returns: its result, as JSON, or a failure.
pub type JobResult<T = serde_json::Value> = Result<T, crate::queue::Failure>;

impl JobState for App {
    async fn may_run(&self, origin: &Origin) -> Result<MayRun, BoxError> {
        Ok(user_jobs::may_run(self, origin).await?)
    }
}

/// The queue of the product's own jobs. Every worker serves it first, and users can never put a job there.
pub const SYSTEM_QUEUE: &str = "system";

/// The jobs that a worker can run. To add a job, add a file and a row here.
pub const ALL: &[JobType<App>] = &[
    JobType::of::<ExampleTask>(),
    JobType::of::<SendEmail>(),
    JobType::of::<ProcessData>(),
    JobType::of::<SendEmailMessage>(),
    JobType::of::<SendLetter>(),
    JobType::of::<RelayOutbox>(),
    JobType::of::<Housekeeping>(),
];

/// Converts an error of sending a mail. A permanent error is not retried.
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
