//! Jobs that are written elsewhere first, such as in a transaction, and enqueued later.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    client::Queue,
    enqueue::create_job,
    enqueue_options::{EnqueueOptions, When},
    envelope::{Envelope, Origin},
    error::Result,
    job::Job,
    push::Push,
    push_batches::{Destination, NewJob},
    scripts,
    state::State,
    status::JobStatus,
};

/// Maximum number of written jobs that [`Queue::check_owner`] looks up in Redis. Further jobs count as not enqueued.
const MAX_LOOKED_UP_JOBS: usize = 200;

/// A job that has an id and an envelope, and is written elsewhere before it is enqueued.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PreparedJob {
    pub id: String,
    pub queue: String,
    /// The name of the job.
    pub task: String,
    pub owner: Option<i64>,
    /// The JSON that Redis stores. It must not be changed.
    pub envelope: String,
    pub options: EnqueueOptions,
}

impl PreparedJob {
    /// Creates the id and the envelope of a job, and checks its options.
    ///
    /// # Errors
    /// [`Error::Invalid`](super::Error::Invalid) for invalid options; [`Error::TooLarge`](super::Error::TooLarge) and
    /// [`Error::TooDeep`](super::Error::TooDeep) for the arguments; [`Error::Internal`](super::Error::Internal) if `origin`
    /// has an owner and users may not enqueue the job, if the name of the queue is invalid, or if the arguments cannot be
    /// serialized.
    pub fn new<J: Job>(job: &J, origin: &Origin, options: EnqueueOptions) -> Result<Self> {
        let options = options.for_origin(origin)?;
        let (id, envelope) = create_job(job, origin, &options)?;
        Ok(Self { id, queue: J::QUEUE.into(), task: J::NAME.into(), owner: origin.owner, envelope, options })
    }

    /// Returns the job. Shortens a delay ([`When::In`]) by `waited`, the time since the job was prepared.
    pub fn after_waiting(mut self, waited: Duration) -> Self {
        if let When::In(delay) = self.options.when {
            self.options.when = When::In(delay.saturating_sub(waited));
        }
        self
    }

    /// Returns whether the job goes to the end of its queue or group now, without a unique key or dependencies. Such a job can
    /// share a push with other jobs.
    pub fn is_plain(&self) -> bool {
        self.options.is_plain()
    }

    /// Returns the arguments; `None` if the envelope cannot be parsed.
    pub fn payload(&self) -> Option<Value> {
        serde_json::from_str::<Envelope>(&self.envelope).ok().map(|envelope| envelope.payload)
    }

    /// Returns the status of the job while it is not enqueued. Its state is [`State::Queued`].
    pub fn status(&self) -> JobStatus {
        JobStatus::new(&self.id, State::Queued, self.parse_envelope())
    }

    /// Returns the owner, the scope and the request of the job.
    pub(super) fn origin(&self) -> Origin {
        Origin { owner: self.owner, ..self.parse_envelope().origin() }
    }

    fn parse_envelope(&self) -> Envelope {
        serde_json::from_str(&self.envelope)
            .unwrap_or_else(|_| Envelope::new(&self.task, &self.queue, Value::Null, 0, 0))
    }
}

impl Queue {
    /// As [`PreparedJob::new`].
    ///
    /// # Errors
    /// As [`PreparedJob::new`].
    pub fn prepare<J: Job>(&self, job: &J, origin: Origin, options: EnqueueOptions) -> Result<PreparedJob> {
        PreparedJob::new(job, &origin, options)
    }

    /// Enqueues a job for the first time, and returns its id. Returns the id of the existing job instead if
    /// [`OnDuplicate::KeepExisting`](super::OnDuplicate::KeepExisting) applies.
    ///
    /// The job counts for its owner, but no limit refuses it: call [`check_owner`](Self::check_owner) before the job is
    /// written. A repeated call enqueues nothing as long as Redis knows the id of the job. If an earlier call may have
    /// enqueued the job, use [`enqueue_prepared_again`](Self::enqueue_prepared_again), which notices if Redis may have
    /// forgotten the id.
    ///
    /// # Errors
    /// [`Error::UnknownJob`](super::Error::UnknownJob) if a job in `after` does not exist, or its state is no longer kept;
    /// [`Error::Unavailable`](super::Error::Unavailable) if Redis refuses the job, for example because it is full, does not
    /// answer in time, or too few replicas have the job in time. In the last two cases, Redis may have stored the job.
    pub async fn enqueue_prepared(&self, job: &PreparedJob) -> Result<String> {
        if !job.is_plain() {
            return self.enqueue_prepared_again(job, Duration::ZERO).await;
        }
        let destination = Destination {
            queue: job.queue.clone().into(),
            group: job.options.group.clone(),
            limits: self.owner_limits(),
            is_prepared: true,
        };
        let new_job = NewJob { destination, id: job.id.clone(), envelope: job.envelope.clone() };
        self.push_batches().push(new_job).await?;
        tracing::debug!(job_id = job.id, task = job.task, queue = job.queue, "job enqueued");
        Ok(job.id.clone())
    }

    /// As [`enqueue_prepared`](Self::enqueue_prepared), for a job that may have been enqueued before, by a call that began at
    /// most `since` ago.
    ///
    /// # Errors
    /// [`Error::Forgotten`](super::Error::Forgotten) if the job is unknown, but may have ended, and its state may have been
    /// deleted since. States are kept for at least a day, unless Redis is full or has too many of them. Also the errors of
    /// [`enqueue_prepared`](Self::enqueue_prepared).
    pub async fn enqueue_prepared_again(&self, job: &PreparedJob, since: Duration) -> Result<String> {
        let jobs = [(job.id.as_str(), job.envelope.as_str())];
        let limits = self.owner_limits();
        let push =
            Push { queue: &job.queue, jobs: &jobs, options: &job.options, limits, prepared_age: Some(since) };
        let known = self.pushes().push(push).await?;
        let is_duplicate = !known.is_empty();
        let id = known.into_iter().next().unwrap_or_else(|| job.id.clone());
        tracing::debug!(job_id = id, task = job.task, queue = job.queue, is_duplicate, "job enqueued");
        Ok(id)
    }

    /// Checks whether an owner may enqueue one more job, of `bytes`. Does not count the new job for its owner. Without
    /// [`limit_owners`](Self::limit_owners), every owner may enqueue.
    ///
    /// `written` has the id and the size of each job that is written elsewhere and may not be enqueued yet. These jobs count
    /// too. A job that is enqueued already does not count twice if it is among the first 200. Sizes are bytes of envelopes.
    ///
    /// # Errors
    /// [`Error::OwnerLimit`](super::Error::OwnerLimit) if the job would exceed a limit;
    /// [`Error::Unavailable`](super::Error::Unavailable) if Redis does not answer in time or refuses the call.
    pub async fn check_owner(&self, owner: i64, bytes: u64, written: &[(String, u64)]) -> Result<()> {
        let Some(limits) = self.owner_limits() else { return Ok(()) };
        let (looked_up, others) = written.split_at(written.len().min(MAX_LOOKED_UP_JOBS));
        let bytes = others.iter().fold(bytes, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let mut call = self.prepare_call(&scripts::CHECK_OWNER);
        call.arg(owner).arg(1 + others.len()).arg(bytes).arg(limits.jobs).arg(limits.bytes);
        call.arg(limits.per_hour.map(|jobs| jobs.to_string()).unwrap_or_default());
        for (id, bytes) in looked_up {
            call.arg(id.as_str()).arg(*bytes);
        }
        self.run::<u8>(&call).await.map(drop)
    }
}
