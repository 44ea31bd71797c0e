//! What the author of a task works with: the trait that it implements and what it is handed.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{envelope::Origin, failure::Failure, schedule::Schedule, signals::JobSignals};

/// A task: its arguments are the fields, its behaviour is [`run`](Job::run).
///
/// It runs at least once: a worker that dies in the middle has it run again by another, so `run` must bear
/// repetition.
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// What a task reaches of the application.
    type State: Clone + Send + Sync + 'static;
    /// Kept as the result for [`RESULT_TTL`](Job::RESULT_TTL).
    type Output: Serialize + Send;

    /// The name on the wire. Changing it orphans the jobs that are queued.
    const NAME: &'static str;
    const QUEUE: &'static str = "default";
    /// How often it is tried in all before it is put with the failed ones.
    const MAX_ATTEMPTS: u32 = 3;
    /// The wait after the first failure; it doubles with each, with jitter, up to an hour.
    const BACKOFF: Duration = Duration::from_secs(5);
    /// How long one attempt may take.
    const TIMEOUT: Duration = Duration::from_secs(180);
    /// How long the outcome can be read.
    const RESULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
    /// When it is run by itself, for a task that is.
    const SCHEDULE: Option<Schedule<Self>> = None;

    fn run(self, ctx: Context<Self::State>) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// What a running job knows besides its arguments.
#[derive(Clone)]
pub struct Context<S> {
    pub state: S,
    pub job_id: Arc<str>,
    /// From 1.
    pub attempt: u32,
    /// Whose job it is and what asked for it; hand it on to jobs that this one enqueues.
    pub origin: Origin,
    pub(super) stop: JobSignals,
}

impl<S> Context<S> {
    /// Ends when the job should stop: it was cancelled, timed out, or the worker is shutting down. A job that
    /// does not heed it is dropped at its next await, a second later.
    pub async fn stopped(&self) {
        self.stop.token().cancelled().await;
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.token().is_cancelled()
    }

    /// Says how far the job has come, for its status to show within a second or two. Costs nothing to call often:
    /// only the last word of each second is sent.
    pub fn progress(&self, percent: u8, message: impl Into<String>) {
        self.stop.report(percent.min(100), message.into());
    }
}
