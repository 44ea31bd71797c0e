//! What a job is: the trait a task implements, what it is handed, and how it travels.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    cron::{Periodic, Schedule},
    enqueue::Origin,
    error::{BoxError, chain},
    lease::Stop,
};

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
    pub(super) stop: Stop,
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

/// Why an attempt did not finish, and what is to become of the job. Any error becomes one by `?`, and is tried
/// again; its text is shown to admins only, since it may name hosts, paths or people. Say something to the owner
/// with [`Failure::new`].
#[derive(Debug)]
pub struct Failure {
    message: Option<String>,
    source: Option<BoxError>,
    pub(super) then: Then,
}

/// What becomes of a job whose attempt did not finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Tried again while there are attempts left: after this long, or by the task's back-off.
    Retry(Option<Duration>),
    /// Put back for this long; the attempt does not count.
    Snooze(Duration),
    /// Put with the failed ones at once, for somebody to look at.
    Fail,
    /// Dropped: canceled, with the message as the reason.
    Discard,
}

impl Failure {
    /// A failure whose message the owner of the job may read.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), source: None, then: Then::Retry(None) }
    }

    /// Not now: come back after `wait`. No attempt is counted, so say it of what will pass, like a rate limit or
    /// a lock that is taken.
    pub fn snooze(wait: Duration) -> Self {
        Self { message: None, source: None, then: Then::Snooze(wait) }
    }

    /// There is nothing to be done any more, and nothing for anybody to look at.
    pub fn discard(reason: impl Into<String>) -> Self {
        Self { then: Then::Discard, ..Self::new(reason) }
    }

    /// Tried again after `wait`, instead of by the task's back-off.
    pub fn retry_in(self, wait: Duration) -> Self {
        Self { then: Then::Retry(Some(wait)), ..self }
    }

    /// Another attempt would fail too: the job goes straight to the failed ones.
    pub fn permanent(self) -> Self {
        Self { then: Then::Fail, ..self }
    }

    fn unreadable(error: serde_json::Error) -> Self {
        Self {
            message: Some("The job's arguments cannot be read".into()),
            source: Some(error.into()),
            then: Then::Fail,
        }
    }

    /// As it is stored: safe words for the owner, and the rest for admins.
    pub(super) fn record(&self, at: i64) -> ErrorRecord {
        let detail = self.source.as_ref().map(|source| chain(&**source));
        ErrorRecord {
            message: self.message.clone().unwrap_or_else(|| "The job failed".into()),
            detail: detail.or_else(|| self.message.clone()),
            at,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.message, &self.source) {
            (_, Some(source)) => f.write_str(&chain(&**source)),
            (Some(message), None) => f.write_str(message),
            (None, None) => f.write_str("The job failed"),
        }
    }
}

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: None, source: Some(error.into()), then: Then::Retry(None) }
    }
}

/// The last error of a job. `at` is in milliseconds since the epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ErrorRecord {
    pub(super) message: String,
    #[serde(default)]
    pub(super) detail: Option<String>,
    #[serde(default)]
    pub(super) at: i64,
}

/// A job on the wire: written once at enqueue, never changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Envelope<P = Value> {
    /// Version of this layout.
    pub(super) v: u8,
    pub(super) task: String,
    pub(super) queue: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<i64>,
    /// Id of the request that enqueued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) req: Option<String>,
    /// Its trace context (W3C `traceparent`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    /// The key that keeps others like it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// Milliseconds a result is kept.
    pub(super) ttl: u64,
    /// Milliseconds since the epoch at which it was enqueued.
    pub(super) at: i64,
    /// Last, so that what comes before it can be read without it.
    pub(super) payload: P,
}

impl Envelope {
    pub(super) const VERSION: u8 = 1;

    /// Whether there may be more on record of the job than the envelope.
    pub(super) fn has_extras(&self) -> bool {
        self.group.is_some() || self.key.is_some()
    }

    /// The id of the trace that it belongs to: the second part of a `traceparent`.
    pub(super) fn trace_id(&self) -> Option<&str> {
        self.trace.as_deref()?.split('-').nth(1)
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { owner: self.owner, request_id: self.req.clone(), traceparent: self.trace.clone() }
    }
}

impl<P> Envelope<P> {
    /// Of nobody, and without anything special.
    pub(super) fn new(task: &str, queue: &str, payload: P, ttl: u64, at: i64) -> Self {
        Self {
            v: Envelope::VERSION,
            task: task.into(),
            queue: queue.into(),
            payload,
            owner: None,
            req: None,
            trace: None,
            group: None,
            key: None,
            ttl,
            at,
        }
    }
}

/// One row of the table that a worker runs from: everything about a task, its type forgotten.
pub struct JobType<S: 'static> {
    pub name: &'static str,
    pub queue: &'static str,
    pub(super) max_attempts: u32,
    pub(super) backoff: Duration,
    pub(super) timeout: Duration,
    pub(super) run: fn(Context<S>, Value) -> Running,
    pub(super) result_ttl: Duration,
    pub(super) schedule: Option<Periodic>,
}

pub(super) type Running = BoxFuture<'static, Result<Value, Failure>>;

impl<S: Clone + Send + Sync + 'static> JobType<S> {
    pub const fn of<J: Job<State = S>>() -> Self {
        Self {
            name: J::NAME,
            queue: J::QUEUE,
            max_attempts: J::MAX_ATTEMPTS,
            backoff: J::BACKOFF,
            timeout: J::TIMEOUT,
            result_ttl: J::RESULT_TTL,
            schedule: match &J::SCHEDULE {
                Some(schedule) => Some(schedule.erased()),
                None => None,
            },
            run: |ctx, payload| {
                async move {
                    let job: J = serde_json::from_value(payload).map_err(Failure::unreadable)?;
                    Ok(serde_json::to_value(job.run(ctx).await?)?)
                }
                .boxed()
            },
        }
    }
}
