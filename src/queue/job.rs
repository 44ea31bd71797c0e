//! The trait that jobs implement, and the context in which they run.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    envelope::Origin, error::BoxError, failure::Failure, owner::EnqueueBy, schedule::Schedule,
    signals::JobSignals,
};

/// The part of the application that jobs use.
pub trait JobState: Clone + Send + Sync + 'static {
    /// Returns whether a job may run. A worker calls this before each run of a job with an owner or a scope. If the job may
    /// not run, the worker cancels it. After an error, the job is delivered again after 5 seconds.
    fn may_run(&self, _origin: &Origin) -> impl Future<Output = Result<MayRun, BoxError>> + Send {
        async { Ok(MayRun::Yes) }
    }
}

/// Whether a job may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayRun {
    Yes,
    /// The job is canceled for this reason, which its owner can read.
    No(&'static str),
}

/// A job: its fields are the arguments, [`run`](Job::run) is what it does.
///
/// Delivery is at least once: a job may run again, for example after a crash of its worker. So `run` must be idempotent.
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The part of the application that the job can use.
    type State: JobState;
    /// The result. [`RESULT_TTL`](Job::RESULT_TTL) says how long it is kept.
    type Output: Serialize + Send;

    /// The name in Redis. If it changes, jobs that are queued under the old name fail about an hour after their first fetch,
    /// unless a worker still knows the old name.
    const NAME: &'static str;
    /// The queue: 1 to 100 letters, digits, `-`, `_` and `.`.
    const QUEUE: &'static str = "default";
    /// Who may enqueue the job and, for jobs of users, the largest size of the arguments. By default, users may not enqueue it.
    const ENQUEUE_BY: EnqueueBy = EnqueueBy::System;
    /// The number of failed attempts after which the job has failed for good. Crashes of workers are counted apart: the third
    /// crash also fails the job. A crash does not count if the job was fetched ahead of free slots.
    const MAX_ATTEMPTS: u32 = 3;
    /// The wait after the first failure. It doubles with each failure, up to an hour, with jitter.
    const BACKOFF: Duration = Duration::from_secs(5);
    /// The time limit of one attempt.
    const TIMEOUT: Duration = Duration::from_secs(180);
    /// How long the outcome is kept after the job has finished or its worker has canceled it: 8 s to 366 days. The outcome may be
    /// deleted up to about an eighth of this time later. A limit of [`Retention`](super::Retention) or a nearly full Redis may
    /// shorten the time.
    const RESULT_TTL: Duration = Duration::from_secs(60 * 60);
    /// When the job runs periodically. `None` if it does not.
    const SCHEDULE: Option<Schedule<Self>> = None;

    /// Returns whether a run with this result had nothing to do. The end of such a run is logged at `debug` instead of `info`, so
    /// that a job with a schedule does not fill the log.
    fn had_nothing_to_do(_result: &Value) -> bool {
        false
    }

    /// Runs one attempt.
    ///
    /// # Errors
    /// A [`Failure`], which also says what happens next: by default a retry.
    fn run(self, ctx: Context<Self::State>) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// The context in which one attempt of a job runs.
#[derive(Clone)]
pub struct Context<S> {
    pub state: S,
    pub job_id: Arc<str>,
    /// The number of this attempt, from 1. Attempts whose worker crashed count, unless the job was fetched ahead of free slots.
    /// Snoozed and released attempts do not count.
    pub attempt: u32,
    /// The owner, the scope and the request of the job. Pass the origin on to jobs that this job enqueues, but without the
    /// owner if users may not enqueue them.
    pub origin: Origin,
    pub(super) signals: JobSignals,
}

impl<S> Context<S> {
    /// Waits until the job must stop: it was canceled or timed out, its lease was lost, or its worker shuts down and the
    /// grace period is over. One second later, the job is dropped at its next `await`. A job whose lease was lost does not get
    /// this second.
    pub async fn stopped(&self) {
        self.signals.token().cancelled().await;
    }

    /// Returns whether the job must stop, as described at [`stopped`](Self::stopped).
    pub fn is_stopped(&self) -> bool {
        self.signals.token().is_cancelled()
    }

    /// Reports progress, which the status of the job shows within about two seconds. Frequent calls are cheap: a
    /// heartbeat sends only the latest report. A `percent` above 100 counts as 100. A `message` of more than 8 KiB is
    /// shortened.
    pub fn progress(&self, percent: u8, message: impl Into<String>) {
        self.signals.report(percent.min(100), message.into());
    }
}
