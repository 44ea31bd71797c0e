//! The enqueuing of jobs in a database transaction: a job exists if and only if the transaction commits (transactional outbox).
//!
//! The transaction writes a row into the table `job_outbox`. After the commit, [`job_relay`](super::job_relay) enqueues
//! the job of the row in Redis. Until then, the status of the job is `queued`.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    app::App,
    db::Tx,
    error::{Error, Result},
    models::job_outbox::{JobOutboxRow, NewJobOutboxRow},
    queue::{Cancel, EnqueueOptions, Job, JobStatus, Origin, PreparedJob, Queue},
};

/// An extension of [`Queue`] that enqueues jobs in a transaction.
pub trait EnqueueInTx {
    /// Enqueues a job if the transaction commits, and returns its id. Does not wait for Redis.
    ///
    /// A server or worker enqueues the job right after the commit. A scheduled job enqueues the jobs of commands, and the jobs
    /// that remain after a crash or an outage. A delay is counted from this call. The function does not check the job limits of
    /// the owner: call [`check_owner`] before the transaction. If another job has the same unique key and the options keep the
    /// existing job, this job is canceled.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if PostgreSQL does not answer; [`Error::Invalid`], [`Error::JobTooLarge`] and
    /// [`Error::JobTooDeep`] as for `Queue::enqueue_with`.
    fn enqueue_in_tx<J: Job>(
        &self,
        tx: &Tx<'_>,
        job: &J,
        origin: Origin,
        options: EnqueueOptions,
    ) -> impl Future<Output = Result<String>> + Send;
}

impl EnqueueInTx for Queue {
    fn enqueue_in_tx<J: Job>(
        &self,
        tx: &Tx<'_>,
        job: &J,
        origin: Origin,
        options: EnqueueOptions,
    ) -> impl Future<Output = Result<String>> + Send {
        let prepared = self.prepare(job, origin, options);
        async move { write(tx, prepared?).await }
    }
}

/// Writes a job into the table `job_outbox`. Returns the id of the job.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn write(tx: &Tx<'_>, job: PreparedJob) -> Result<String> {
    let id = Uuid::try_parse(&job.id).map_err(Error::internal)?;
    let row = NewJobOutboxRow {
        id,
        queue: &job.queue,
        task: &job.task,
        owner: job.owner,
        envelope: &job.envelope,
        options: serde_json::to_value(&job.options).map_err(Error::internal)?,
    };
    row.insert(tx).await?;
    tx.add_job(id);
    Ok(job.id)
}

/// Converts a row to the job that it contains. The time in the table counts towards the delay of the job.
///
/// # Errors
/// If a later release has written options that this release does not know.
pub(super) fn parse(row: JobOutboxRow) -> serde_json::Result<PreparedJob> {
    let waited = (row.clock.now() - row.created_at).to_std().unwrap_or(Duration::ZERO);
    let options = serde_json::from_value(row.options.clone())?;
    Ok(with_options(row, options).after_waiting(waited))
}

fn with_options(row: JobOutboxRow, options: EnqueueOptions) -> PreparedJob {
    let JobOutboxRow { id, queue, task, owner, envelope, .. } = row;
    PreparedJob { id: id.simple().to_string(), queue, task, owner, envelope, options }
}

/// Checks that an owner may enqueue one more job, whose arguments have a size of `bytes`. The limits also count the jobs
/// that wait in the table `job_outbox`.
///
/// # Errors
/// [`Error::TooManyJobs`] if the job would exceed a limit; [`Error::Unavailable`] if PostgreSQL or Redis does not answer.
pub async fn check_owner(app: &App, owner: i64, bytes: u64) -> Result<()> {
    let waiting = app.db.run(async |conn| Ok(JobOutboxRow::of_owner(conn, owner).await?)).await?;
    // Passes the ids, so that the queue recognizes jobs that it counts already, among the first 200. A row is deleted shortly
    // after its job was enqueued, so the job may be in the table and in the queue.
    let waiting =
        waiting.iter().map(|job| (job.id.simple().to_string(), u64::from(job.bytes.unsigned_abs())));
    Ok(app.queue.check_owner(owner, bytes, &waiting.collect::<Vec<_>>()).await?)
}

/// Returns the status of a job, with its arguments if `with_payload` is set. Returns `None` if the job does not exist
/// or has expired. A job in the table `job_outbox` is found even if Redis does not answer.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL or Redis does not answer.
pub async fn find(app: &App, id: &str, with_payload: bool) -> Result<Option<JobStatus>> {
    let unanswered = match find_in_queue(app, id, with_payload).await {
        Ok(Some(status)) => return Ok(Some(status)),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    if let Some(row) = find_row(app, id).await? {
        let mut status = with_options(row, EnqueueOptions::default()).status();
        status.payload = status.payload.filter(|_| with_payload);
        return Ok(Some(status));
    }
    match unanswered {
        Some(error) => Err(error),
        // The relay may have enqueued the job and deleted the row between the two queries.
        None => find_in_queue(app, id, with_payload).await,
    }
}

async fn find_in_queue(app: &App, id: &str, with_payload: bool) -> Result<Option<JobStatus>> {
    Ok(match with_payload {
        true => app.queue.status(id).await?,
        false => app.queue.status_without_payload(id).await?,
    })
}

/// Cancels a job in the queue or in the table `job_outbox`. Signals a running job to stop. Returns [`Cancel::Ended`] if the job
/// has ended, and [`Cancel::Unknown`] if it does not exist.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL or Redis does not answer.
pub async fn cancel(app: &App, id: &str) -> Result<Cancel> {
    let answer = app.queue.cancel(id).await?;
    if answer != Cancel::Unknown {
        return Ok(answer);
    }
    let Some(row) = find_row(app, id).await? else {
        // The relay may have enqueued the job and deleted the row since the first attempt.
        return Ok(app.queue.cancel(id).await?);
    };
    // A relay may be about to enqueue the job. So the queue first records that the job is canceled. The queue then ignores the
    // job if the relay enqueues it.
    let row_id = row.id;
    let answer = app.queue.cancel_prepared(&with_options(row, EnqueueOptions::default())).await?;
    app.db.run(async |conn| Ok(JobOutboxRow::delete(conn, &[row_id]).await?)).await?;
    Ok(answer)
}

/// As [`cancel`], for a job that the caller has just found.
///
/// # Errors
/// [`Error::Conflict`] if the job has ended; [`Error::NotFound`] if it no longer exists; and those of [`cancel`].
pub(super) async fn cancel_existing(app: &App, id: &str) -> Result<Cancel> {
    match cancel(app, id).await? {
        Cancel::Ended => Err(Error::Conflict("Job has already ended")),
        Cancel::Unknown => Err(Error::NotFound("Job")),
        canceled => Ok(canceled),
    }
}

async fn find_row(app: &App, id: &str) -> Result<Option<JobOutboxRow>> {
    // Accepts only the form that the queue uses, 32 lower-case hexadecimal digits. `Uuid` also parses other forms.
    let Some(uuid) = Uuid::try_parse(id).ok().filter(|uuid| uuid.simple().to_string() == id) else {
        return Ok(None);
    };
    app.db.run(async |conn| Ok(JobOutboxRow::find(conn, uuid).await?)).await
}
