//! The table of job types that a worker runs.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::Value;

use super::{
    failure::Failure,
    job::{Context, Job, JobState},
    owner::EnqueueBy,
    schedule::ErasedSchedule,
};

/// A row of the table of job types: everything about a [`Job`] with its type erased.
pub struct JobType<S: 'static> {
    pub name: &'static str,
    pub queue: &'static str,
    pub enqueue_by: EnqueueBy,
    pub(super) max_attempts: u32,
    pub(super) backoff: Duration,
    pub(super) timeout: Duration,
    pub(super) run: fn(Context<S>, Value) -> Running,
    pub(super) had_nothing_to_do: fn(&Value) -> bool,
    pub(super) result_ttl: Duration,
    pub(super) schedule: Option<ErasedSchedule>,
}

pub(super) type Running = BoxFuture<'static, Result<Value, Failure>>;

impl<S: JobState> JobType<S> {
    /// Creates the row of a job.
    pub const fn of<J: Job<State = S>>() -> Self {
        Self {
            name: J::NAME,
            queue: J::QUEUE,
            enqueue_by: J::ENQUEUE_BY,
            max_attempts: J::MAX_ATTEMPTS,
            backoff: J::BACKOFF,
            timeout: J::TIMEOUT,
            had_nothing_to_do: J::had_nothing_to_do,
            result_ttl: J::RESULT_TTL,
            schedule: match &J::SCHEDULE {
                Some(schedule) => Some(schedule.erase(payload::<J>)),
                None => None,
            },
            run: |ctx, payload| {
                async move {
                    let job: J = serde_json::from_value(payload).map_err(Failure::invalid_arguments)?;
                    Ok(serde_json::to_value(job.run(ctx).await?)?)
                }
                .boxed()
            },
        }
    }
}

/// Returns the arguments of one scheduled run; JSON `null` without a schedule.
fn payload<J: Job>() -> serde_json::Result<Value> {
    J::SCHEDULE.map_or(Ok(Value::Null), |schedule| serde_json::to_value(schedule.job()))
}
