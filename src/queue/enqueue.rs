//! The methods of the client that enqueue jobs, one or many, now or later.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{
    client::Queue,
    enqueue_options::{EnqueueOptions, When},
    envelope::{Envelope, Origin},
    error::{Error, Result},
    job::Job,
    limits::check_depth,
    outcome::time_of_id,
    owner::shared_group,
    push::{Push, batch_size},
    push_batches::{Destination, NewJob},
    queues::Queues,
};

/// Maximum size of an envelope in bytes. A larger payload belongs in a row or a file, and the job has the key of the row
/// or the name of the file.
const MAX_ENVELOPE_BYTES: usize = 1024 * 1024;

impl Queue {
    /// Enqueues a job and returns its id. Redis has stored the job when this returns, and so have as many replicas as
    /// [`wait_for_replicas`](Self::wait_for_replicas) says.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis refuses the job, for example because it is full, does not answer in time, or too few
    /// replicas have the job in time. In the last two cases, the job may have been enqueued. [`Error::TooLarge`] and
    /// [`Error::TooDeep`] for arguments that are too large or nested too deeply. [`Error::OwnerLimit`] if the job would exceed
    /// a limit of its owner. [`Error::Invalid`] for an invalid scope. [`Error::Internal`] if `origin` has an owner and users
    /// may not enqueue the job, if the name of the queue is invalid, or if the arguments cannot be serialized.
    pub async fn enqueue<J: Job>(&self, job: &J, origin: Origin) -> Result<String> {
        let options = EnqueueOptions::default().for_origin(&origin)?;
        let (id, envelope) = create_job(job, &origin, &options)?;
        let destination = Destination {
            queue: J::QUEUE.into(),
            group: options.group,
            limits: self.owner_limits(),
            is_prepared: false,
        };
        self.push_batches().push(NewJob { destination, id: id.clone(), envelope }).await?;
        tracing::debug!(job_id = id, task = J::NAME, queue = J::QUEUE, "job enqueued");
        Ok(id)
    }

    /// Enqueues a job for a user, who is the owner in `origin`. The call does not compile if the
    /// [`ENQUEUE_BY`](Job::ENQUEUE_BY) of the job does not permit users:
    ///
    /// ```compile_fail,E0080
    /// # async fn of_a_user(app: saas::app::App) {
    /// let origin = saas::queue::Origin { owner: Some(7), ..Default::default() };
    /// app.queue.enqueue_by_user(&saas::jobs::Housekeeping {}, origin).await;
    /// # }
    /// # fn boxed(app: saas::app::App) -> Box<dyn Future<Output = ()>> { Box::new(of_a_user(app)) }
    /// # fn main() { let _: fn(_) -> _ = boxed; }
    /// ```
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_by_user<J: Job>(&self, job: &J, origin: Origin) -> Result<String> {
        const { assert!(J::ENQUEUE_BY.max_bytes().is_some(), "users may not enqueue this job: set ENQUEUE_BY") };
        self.enqueue(job, origin).await
    }

    /// Enqueues a job that is due after `delay`. A scheduler then makes the job ready, usually within a second.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_in<J: Job>(&self, job: &J, origin: Origin, delay: Duration) -> Result<String> {
        let options = EnqueueOptions { when: When::In(delay), ..EnqueueOptions::default() };
        self.enqueue_with(job, origin, options).await
    }

    /// Enqueues a job that is due at the time `at`. A scheduler then makes the job ready, usually within a second.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub async fn enqueue_at<J: Job>(&self, job: &J, origin: Origin, at: DateTime<Utc>) -> Result<String> {
        let options = EnqueueOptions { when: When::At(at), ..EnqueueOptions::default() };
        self.enqueue_with(job, origin, options).await
    }

    /// Enqueues a job with options, and returns its id. Returns the id of the existing job instead if
    /// [`OnDuplicate::KeepExisting`](super::OnDuplicate::KeepExisting) applies.
    ///
    /// # Errors
    /// [`Error::Invalid`] for invalid options; [`Error::UnknownJob`] if a job in `after` does not exist, or its state is no
    /// longer kept; and as [`enqueue`](Self::enqueue).
    pub async fn enqueue_with<J: Job>(
        &self,
        job: &J,
        origin: Origin,
        options: EnqueueOptions,
    ) -> Result<String> {
        let options = options.for_origin(&origin)?;
        let (id, envelope) = create_job(job, &origin, &options)?;
        let jobs = [(id.as_str(), envelope.as_str())];
        let limits = self.owner_limits();
        let push = Push { queue: J::QUEUE, jobs: &jobs, options: &options, limits, prepared_age: None };
        let known = self.pushes().push(push).await?;
        let is_duplicate = !known.is_empty();
        let id = known.into_iter().next().unwrap_or(id);
        tracing::debug!(job_id = id, task = J::NAME, queue = J::QUEUE, is_duplicate, "job enqueued");
        Ok(id)
    }

    /// Enqueues many jobs and returns their ids in the same order. They are enqueued in batches of up to 250 jobs and 4
    /// MiB, each atomically. After an error, some batches may have been enqueued.
    ///
    /// # Errors
    /// [`Error::Invalid`] for invalid options, or if `unique` or `after` is set; and as [`enqueue`](Self::enqueue).
    pub async fn enqueue_all<J: Job>(
        &self,
        jobs: &[J],
        origin: Origin,
        options: EnqueueOptions,
    ) -> Result<Vec<String>> {
        let options = options.for_origin(&origin)?;
        if options.unique.is_some() || !options.after.is_empty() {
            return Err(Error::invalid("unique", "only a single job can be unique or wait for other jobs"));
        }
        let jobs = jobs.iter().map(|job| create_job(job, &origin, &options)).collect::<Result<Vec<_>>>()?;
        let mut batches = Vec::new();
        let mut rest = &jobs[..];
        while !rest.is_empty() {
            let n = batch_size(rest.iter().map(|(_, envelope)| envelope.len()));
            let (batch, later) = rest.split_at(n);
            batches.push(batch.iter().map(|(id, envelope)| (&**id, &**envelope)).collect::<Vec<_>>());
            rest = later;
        }
        if options.front {
            // Each push goes before the jobs of the previous pushes, so the last batch is pushed first.
            batches.reverse();
        }
        for batch in &batches {
            let limits = self.owner_limits();
            let push = Push { queue: J::QUEUE, jobs: batch, options: &options, limits, prepared_age: None };
            self.pushes().push(push).await?;
        }
        Ok(jobs.into_iter().map(|(id, _)| id).collect())
    }
}

/// Returns the id and the envelope of a new job.
///
/// # Errors
/// [`Error::TooLarge`] and [`Error::TooDeep`] for the arguments; [`Error::Internal`] if the name of the queue is invalid, the
/// arguments cannot be serialized, or `origin` has an owner and users may not enqueue the job.
pub(super) fn create_job<J: Job>(
    job: &J,
    origin: &Origin,
    options: &EnqueueOptions,
) -> Result<(String, String)> {
    // Workers refuse invalid names of queues, so no worker would run the job.
    Queues::check_name(J::QUEUE).map_err(|problem| Error::internal(format!("{:?}: {problem}", J::QUEUE)))?;
    let id = Uuid::now_v7().simple().to_string();
    let now = time_of_id(&id).unwrap_or_default();
    let envelope = Envelope {
        owner: origin.owner,
        scope: origin.scope.clone(),
        api_key: origin.api_key,
        req: origin.request_id.clone(),
        trace: origin.traceparent.clone(),
        group: options.group.as_deref().map(|group| shared_group(group).to_owned()),
        key: options.unique.as_ref().map(|unique| unique.key.clone()),
        ..Envelope::new(J::NAME, J::QUEUE, job, J::RESULT_TTL.as_millis() as u64, now)
    };
    let text = to_text(&envelope)?;
    if origin.owner.is_some() {
        let limit = J::ENQUEUE_BY.max_bytes();
        let limit = limit.ok_or_else(|| Error::internal(format!("users may not enqueue {:?}", J::NAME)))?;
        if payload_bytes(&text) > limit {
            return Err(Error::TooLarge { limit });
        }
    }
    Ok((id, text))
}

/// Returns the size of the arguments in an envelope, in bytes. They are the last field.
fn payload_bytes(envelope: &str) -> usize {
    // No earlier field contains this text, because JSON escapes quotes within strings.
    envelope.split_once(",\"payload\":").map_or(0, |(_, payload)| payload.len() - 1)
}

fn to_text(envelope: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(envelope).map_err(Error::internal)?;
    if text.len() > MAX_ENVELOPE_BYTES {
        return Err(Error::TooLarge { limit: MAX_ENVELOPE_BYTES });
    }
    check_depth(&text).map_err(|_| Error::TooDeep)?;
    Ok(text)
}
