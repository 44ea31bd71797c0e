//! The jobs of this product, one file each, and the table that a worker runs them from.

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

use crate::{app::App, queue::JobType, services::outbox::SendEmailMessage};

/// What a running job knows besides its arguments; `ctx.state` is the application.
pub type Context = crate::queue::Context<App>;
pub type JobResult<T = serde_json::Value> = Result<T, crate::queue::Failure>;

/// Every task that a worker can run. A new one is its file and a row here.
pub const ALL: &[JobType<App>] = &[
    JobType::of::<ExampleTask>(),
    JobType::of::<SendEmail>(),
    JobType::of::<ProcessData>(),
    JobType::of::<SendEmailMessage>(),
    JobType::of::<SendLetter>(),
    JobType::of::<RelayOutbox>(),
    JobType::of::<Housekeeping>(),
];
