//! Enqueues jobs in a transaction: a job exists if and only if the transaction commits.
//!
//! The transaction writes a row of the table `job_outbox`, which [`job_relay`](super::job_relay) turns into a job of the queue.
//! Until then, the status of the job is `queued`.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    app::App,
    db::Tx,
    error::{Error, Result},
    models::job_outbox::{JobOutboxRow, NewJobOutboxRow},
    queue::{Cancel, EnqueueOptions, Job, JobStatus, Origin, PreparedJob, Queue},
};

/// Enqueues jobs in a transaction.
pub trait EnqueueInTx {
    /// Enqueues a job if the transaction commits, and returns its id. Does not wait for Redis.
    ///
    /// The job is in the queue right after the commit, or within two minutes if this process crashes or Redis is unavailable.
    /// A delay begins with this call. The limits of an owner are not checked: [`check_owner`] does, before the transaction. With
    /// a unique key, the job is canceled if another one has the key by then and is to be kept.
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

/// Writes a job into the table. It is enqueued if the transaction commits. Returns the id of the job.
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

/// Returns the job of a row.
///
/// # Errors
/// If a later release has written options that this one does not know.
pub(super) fn parse(row: JobOutboxRow) -> serde_json::Result<PreparedJob> {
    let waited = (row.clock.now() - row.created_at).to_std().unwrap_or(Duration::ZERO);
    let options = serde_json::from_value(row.options.clone())?;
    Ok(with_options(row, options).after_waiting(waited))
}

fn with_options(row: JobOutboxRow, options: EnqueueOptions) -> PreparedJob {
    let JobOutboxRow { id, queue, task, owner, envelope, .. } = row;
    PreparedJob { id: id.simple().to_string(), queue, task, owner, envelope, options }
}

/// Checks whether an owner may enqueue one more job, whose arguments have `bytes`. Jobs that wait in the table count too.
///
/// # Errors
/// [`Error::TooManyJobs`] if not; [`Error::Unavailable`] if PostgreSQL or Redis does not answer.
pub async fn check_owner(app: &App, owner: i64, bytes: u64) -> Result<()> {
    let waiting = app.db.run(async |conn| Ok(JobOutboxRow::of_owner(conn, owner).await?)).await?;
    // With their ids, because a row is deleted a moment after its job was enqueued. Until then, the job is in both places.
    let waiting = waiting.iter().map(|job| (job.id.simple().to_string(), job.bytes.unsigned_abs()));
    Ok(app.queue.check_owner(owner, bytes, &waiting.collect::<Vec<_>>()).await?)
}

/// Returns the status of a job, with its arguments if `with_payload` is set; `None` if it does not exist or has expired. A job
/// that waits in the table is queued, also if Redis does not answer.
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
        // The relay may have enqueued the job and deleted the row between the two questions.
        None => find_in_queue(app, id, with_payload).await,
    }
}

async fn find_in_queue(app: &App, id: &str, with_payload: bool) -> Result<Option<JobStatus>> {
    Ok(match with_payload {
        true => app.queue.status(id).await?,
        false => app.queue.status_without_payload(id).await?,
    })
}

/// Cancels a job, also one that waits in the table.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL or Redis does not answer.
pub async fn cancel(app: &App, id: &str) -> Result<Cancel> {
    let answer = app.queue.cancel(id).await?;
    if answer != Cancel::Unknown {
        return Ok(answer);
    }
    let Some(row) = find_row(app, id).await? else {
        // As in `find`.
        return Ok(app.queue.cancel(id).await?);
    };
    // A relay may be about to enqueue the job. So the queue records first that the job is canceled, and ignores it then.
    let row_id = row.id;
    let answer = app.queue.cancel_prepared(&with_options(row, EnqueueOptions::default())).await?;
    app.db.run(async |conn| Ok(JobOutboxRow::delete(conn, &[row_id]).await?)).await?;
    Ok(answer)
}

async fn find_row(app: &App, id: &str) -> Result<Option<JobOutboxRow>> {
    // In the form in which the queue has it: PostgreSQL would accept others.
    let Some(uuid) = Uuid::try_parse(id).ok().filter(|uuid| uuid.simple().to_string() == id) else {
        return Ok(None);
    };
    app.db.run(async |conn| Ok(JobOutboxRow::find(conn, uuid).await?)).await
}
