//! Runs one fetched job and decides what happens to it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use serde_json::Value;
use tokio::time::Instant;
use tracing::Instrument;

use super::{
    disposition::{CompletedDelivery, Disposition, backoff},
    envelope::{Envelope, ErrorRecord, to_json},
    error::chain,
    failure::{Failure, FailureAction},
    job::{Context, JobState, MayRun},
    job_type::{JobType, Running},
    limits::{check_depth, truncate},
    outcome::{Outcome, ended_origin, time_of_id},
    signals::{JobSignals, StopReason},
};

/// How long a job may continue after it was told to stop or has timed out; then it is dropped. A job whose lease is lost before
/// is dropped at once.
const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// Maximum size of an outcome in bytes of JSON. A larger result belongs in a row or a file, and the job returns the key of
/// the row or the name of the file.
const MAX_OUTCOME_BYTES: usize = 1024 * 1024;
/// About how long a job with an unknown task is left to other workers, before the job fails. A newer build that is being rolled
/// out may know the task.
const UNKNOWN_TASK_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const UNKNOWN_TASK_RETRY_AFTER: Duration = Duration::from_secs(15);
/// Delay before a job is delivered again, if the check whether it may run returned an error.
const ORIGIN_CHECK_RETRY_AFTER: Duration = Duration::from_secs(5);

/// A fetched job.
pub(super) struct Delivery {
    pub(super) id: Arc<str>,
    pub(super) token: Arc<str>,
    pub(super) queue: Arc<str>,
    pub(super) envelope: Vec<u8>,
    pub(super) failures: u32,
    pub(super) crashes: u32,
    /// Whether Redis has counts of failures or crashes of the job, which must be deleted with the job.
    pub(super) has_records: bool,
    /// Whether the job was fetched before there was a free slot for it.
    pub(super) is_ahead: bool,
    /// When the job was fetched, by the clock of Redis, in milliseconds since the epoch.
    pub(super) fetched_at: i64,
    pub(super) signals: JobSignals,
}

/// The fields that are read from an envelope that cannot be parsed, because it may be of a later version.
#[derive(serde::Deserialize)]
struct EnvelopeHead {
    v: u8,
    #[serde(default)]
    task: String,
}

/// The part of an outcome that depends on how the job has ended.
enum OutcomeDetail {
    Result(Value),
    /// Why the job was discarded or canceled.
    Reason(String),
    None,
}

impl Delivery {
    /// Runs the job and decides what happens to it. A panic of the job is a failure.
    pub(super) async fn run<S: JobState>(self, jobs: &'static [JobType<S>], state: S) -> CompletedDelivery {
        let disposition = match serde_json::from_slice::<Envelope>(&self.envelope) {
            Ok(envelope) => self.start(envelope, jobs, state).await,
            Err(error) => match serde_json::from_slice::<EnvelopeHead>(&self.envelope) {
                Ok(head) if head.v > Envelope::VERSION => self.unknown_task(&head.task, head.v),
                _ => {
                    tracing::error!(job_id = &*self.id, error = %error, "job has a malformed envelope");
                    self.dead("The job cannot be read", &error.to_string())
                }
            },
        };
        CompletedDelivery { id: self.id, token: self.token, queue: self.queue, disposition }
    }

    /// Returns the number of this attempt, from 1.
    fn attempt(&self) -> u32 {
        self.failures.saturating_add(self.crashes).saturating_add(1)
    }

    /// Runs the job, unless it was told to stop before, its task or version is unknown, or [`Self::check_origin`] prevents it.
    async fn start<S: JobState>(
        &self,
        mut envelope: Envelope,
        jobs: &'static [JobType<S>],
        state: S,
    ) -> Disposition {
        let attempt = self.attempt();
        let span = tracing::info_span!(
            "job",
            job_id = &*self.id,
            task = envelope.task,
            attempt,
            request_id = envelope.req.as_deref(),
            trace_id = envelope.trace_id(),
        );
        async {
            if let Some(reason) = self.signals.reason() {
                return self.after_stop(reason, &envelope, Duration::ZERO);
            }
            let job = jobs.iter().find(|job| job.name == envelope.task);
            let Some(job) = job.filter(|_| envelope.v <= Envelope::VERSION) else {
                return self.unknown_task(&envelope.task, envelope.v);
            };
            if let Some(disposition) = self.check_origin(&envelope, &state).await {
                return disposition;
            }
            tracing::debug!(queue = &*self.queue, "job started");
            let origin = envelope.origin();
            let ctx =
                Context { state, job_id: self.id.clone(), attempt, origin, signals: self.signals.clone() };
            let running = (job.run)(ctx, std::mem::take(&mut envelope.payload));
            self.supervise(job, &envelope, running).await
        }
        .instrument(span)
        .await
    }

    /// Checks whether the job may run. Returns `None` if it may, or if it has neither an owner nor a scope. Otherwise, returns
    /// what happens to the job instead.
    async fn check_origin<S: JobState>(&self, envelope: &Envelope, state: &S) -> Option<Disposition> {
        if envelope.owner.is_none() && envelope.scope.is_none() {
            return None;
        }
        let origin = envelope.origin();
        let answer = tokio::select! {
            answer = state.may_run(&origin) => answer,
            () = self.signals.token().cancelled() => {
                let reason = self.signals.reason().unwrap_or(StopReason::Shutdown);
                return Some(self.after_stop(reason, envelope, Duration::ZERO));
            }
        };
        match answer {
            Ok(MayRun::Yes) => None,
            Ok(MayRun::No(reason)) => {
                tracing::info!(reason, "job canceled: it may not run");
                Some(self.canceled(envelope, Duration::ZERO, OutcomeDetail::Reason(reason.into())))
            }
            Err(error) => {
                tracing::warn!(error = chain(&*error), "cannot check whether a job may run, retrying");
                Some(Disposition::Snooze { after: ORIGIN_CHECK_RETRY_AFTER })
            }
        }
    }

    /// Waits for the end of the job, its time-out or a signal to stop, and returns what happens to the job.
    async fn supervise<S>(&self, job: &JobType<S>, envelope: &Envelope, running: Running) -> Disposition {
        let started_at = Instant::now();
        let mut running = AssertUnwindSafe(running).catch_unwind();
        let mut timed_out = false;
        // A job that was told to stop may clean up, and its result still counts. If the lease is lost, the job is dropped at
        // once: another worker may be running it, and Redis may reject the result.
        let answer = tokio::select! {
            answer = &mut running => Some(answer),
            () = self.signals.token().cancelled() => match self.signals.reason() {
                Some(StopReason::Lost) => None,
                _ => tokio::time::timeout(CANCEL_GRACE, running).await.ok(),
            },
            () = tokio::time::sleep(job.timeout) => {
                timed_out = true;
                self.signals.token().cancel();
                tokio::time::timeout(CANCEL_GRACE, running).await.ok()
            }
        };
        let took = started_at.elapsed();
        let failure = match answer {
            Some(Ok(Ok(result))) => return self.after_success(job, envelope, result, took),
            Some(Err(panic)) => Failure::from(format!("panicked: {}", panic_message(&*panic))),
            _ if timed_out => {
                Failure::new(format!("The job took longer than {} s", job.timeout.as_secs_f32()))
            }
            Some(Ok(Err(failure))) => failure,
            None => Failure::new("The job was stopped"),
        };
        match self.signals.reason() {
            Some(reason) => self.after_stop(reason, envelope, took),
            None => self.after_failure(job, envelope, &failure, took),
        }
    }

    /// Returns what happens to a job that was told to stop and did not succeed.
    fn after_stop(&self, reason: StopReason, envelope: &Envelope, took: Duration) -> Disposition {
        match reason {
            StopReason::Lost => {
                tracing::warn!("job stopped: its lease could not be renewed");
                Disposition::Release
            }
            StopReason::Shutdown => {
                tracing::info!("job released: the worker is shutting down");
                Disposition::Release
            }
            StopReason::Canceled => {
                tracing::info!("job canceled");
                self.canceled(envelope, took, OutcomeDetail::None)
            }
        }
    }

    fn after_success<S>(
        &self,
        job: &JobType<S>,
        envelope: &Envelope,
        result: Value,
        took: Duration,
    ) -> Disposition {
        let duration_ms = took.as_millis() as u64;
        match (job.had_nothing_to_do)(&result) {
            true => tracing::debug!(duration_ms, "job finished: nothing to do"),
            false => tracing::info!(duration_ms, "job finished"),
        }
        let outcome = self.outcome(envelope, took, OutcomeDetail::Result(result));
        if outcome.len() > MAX_OUTCOME_BYTES {
            tracing::error!(bytes = outcome.len(), "job failed: its result is too large to store");
            let detail = format!("{} bytes; the limit is {MAX_OUTCOME_BYTES}", outcome.len());
            return self.dead("The job's result is too large", &detail);
        }
        if let Err(error) = check_depth(&outcome) {
            tracing::error!(error = %error, "job failed: its result is nested too deeply to be parsed again");
            return self.dead("The job's result is nested too deeply", &error.to_string());
        }
        let has_records = self.has_records || envelope.has_group_or_key() || self.signals.has_reported();
        let origin = ended_origin(envelope.owner, envelope.scope.as_deref());
        Disposition::Finished { outcome, ttl: envelope.ttl, origin, has_records }
    }

    fn after_failure<S>(
        &self,
        job: &JobType<S>,
        envelope: &Envelope,
        failure: &Failure,
        took: Duration,
    ) -> Disposition {
        let duration_ms = took.as_millis() as u64;
        match failure.action {
            FailureAction::Snooze(after) => {
                tracing::info!(duration_ms, again_in_ms = after.as_millis() as u64, "job snoozed");
                return Disposition::Snooze { after };
            }
            FailureAction::Discard => {
                tracing::info!(reason = %failure, duration_ms, "job discarded");
                let mut reason = failure.to_string();
                truncate(&mut reason);
                return self.canceled(envelope, took, OutcomeDetail::Reason(reason));
            }
            FailureAction::Retry(_) | FailureAction::Fail => {}
        }
        let attempts = self.failures.saturating_add(1);
        let mut error = failure.record(self.fetched_at + took.as_millis() as i64);
        truncate(&mut error.message);
        error.detail.iter_mut().for_each(truncate);
        let error = to_json(&error);
        if failure.action == FailureAction::Fail || attempts >= job.max_attempts {
            tracing::error!(error = %failure, duration_ms, "job failed for good");
            return Disposition::Dead { error };
        }
        let after = match failure.action {
            FailureAction::Retry(Some(after)) => after,
            _ => backoff(job.backoff, attempts),
        };
        tracing::warn!(error = %failure, duration_ms, retry_in_ms = after.as_millis() as u64, "job failed and will be retried");
        Disposition::Retry { after, error }
    }

    fn unknown_task(&self, task: &str, version: u8) -> Disposition {
        tracing::warn!(task, task_version = version, "unknown task: leaving the job to workers that know it");
        let error = ErrorRecord {
            message: "No worker knows this task".into(),
            detail: Some(format!("task {task:?}, version {version}")),
            at: self.fetched_at,
        };
        let max_redeliveries = UNKNOWN_TASK_TIMEOUT.as_secs() / UNKNOWN_TASK_RETRY_AFTER.as_secs();
        Disposition::UnknownTask { after: UNKNOWN_TASK_RETRY_AFTER, max_redeliveries, error: to_json(&error) }
    }

    fn dead(&self, message: &str, detail: &str) -> Disposition {
        Disposition::dead(message, detail, self.fetched_at)
    }

    fn canceled(&self, envelope: &Envelope, took: Duration, detail: OutcomeDetail) -> Disposition {
        let outcome = self.outcome(envelope, took, detail);
        let origin = ended_origin(envelope.owner, envelope.scope.as_deref());
        Disposition::Canceled { outcome, ttl: envelope.ttl, origin }
    }

    fn outcome(&self, envelope: &Envelope, took: Duration, detail: OutcomeDetail) -> String {
        let (result, reason) = match detail {
            OutcomeDetail::Result(result) => (Some(result).filter(|result| !result.is_null()), None),
            OutcomeDetail::Reason(reason) => (None, Some(reason)),
            OutcomeDetail::None => (None, None),
        };
        to_json(&Outcome {
            task: envelope.task.clone(),
            queue: envelope.queue.clone(),
            result,
            reason,
            attempts: self.attempt(),
            enqueued_at_ms: Some(envelope.at).filter(|at| time_of_id(&self.id) != Some(*at)),
            waited_ms: self.fetched_at.saturating_sub(envelope.at),
            ran_ms: took.as_millis() as i64,
        })
    }
}

/// Returns the message of a panic; empty if the panic has no text.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod properties;
