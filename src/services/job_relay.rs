//! The relay, which enqueues the jobs of the table `job_outbox`. A server or worker that commits a transaction enqueues the
//! jobs of the transaction right after the commit. Each minute, a scheduled job runs [`sweep`], which enqueues the jobs that
//! remain after a crash or an outage, and the jobs of commands.
//!
//! A relay claims rows with one short statement (`FOR UPDATE SKIP LOCKED`) and enqueues their jobs. Then it deletes the
//! rows of the jobs that are in the queue. The claim is a timestamp in the row, not a lock, because a transaction must
//! not wait for Redis. So the next relay may process the rows of a slow or killed relay again. This is harmless, because
//! the id of a job is created with its row. The queue ignores a job whose id it knows, even if the job has ended.
//!
//! The queue keeps the state of a finished or canceled job for at least a day, or for less time if Redis is nearly full or has
//! too many states. The claim also records the time of the first attempt. If the first attempt was longer ago than the queue
//! keeps states, and the queue does not know the job, the job may or may not have run. The relay then sets the row aside for an
//! operator. The relay enqueues the job of a row without an earlier attempt at any age, unless the job sends a mail that is too
//! old.

use std::time::Duration;

use diesel::data_types::PgInterval;
use diesel_async::AsyncPgConnection;
use futures_util::future::join_all;
use uuid::Uuid;

use super::{job_outbox::parse, old_outbox, outbox::SendEmailMessage};
use crate::{
    app::App,
    error::{Error, Result, chain},
    models::{
        job_outbox::{ClaimedJob, JobOutboxRow},
        outbox::OutboxRow,
    },
    queue::{self, Job, PreparedJob},
};

/// Maximum number of rows that one statement reads.
const BATCH_ROWS: i64 = 100;
/// Age in days at which a job that the queue refuses or this release cannot read is set aside. A younger job may wait for a job
/// that is not enqueued yet. Or it may come from a newer release, which can read it, during a rolling upgrade.
const SET_ASIDE_AFTER_DAYS: i32 = 1;
const MAIL_TASK: &str = SendEmailMessage::NAME;

/// A claimed job that is to be enqueued.
struct JobToEnqueue {
    id: Uuid,
    job: PreparedJob,
    /// Time since a relay first tried to enqueue the job; `None` if this is the first attempt.
    tried: Option<Duration>,
}

/// The ids of the rows of a batch, grouped by the result of their processing.
#[derive(Default)]
struct SortedRows {
    enqueued: Vec<Uuid>,
    /// Mails that are too old to be sent.
    too_old: Vec<Uuid>,
    /// Rows that this release cannot read, or whose jobs the queue refused.
    refused: Vec<Uuid>,
    /// Jobs that may have run, but of which the queue no longer has a record.
    forgotten: Vec<Uuid>,
    /// The error if Redis was unavailable. The rows that are in no group stay in the table.
    unavailable: Option<Error>,
}

/// Enqueues the jobs in the tables `job_outbox` and `outbox`, except jobs that were set aside or that another relay has just
/// claimed. A job that cannot be enqueued stays in its table, and may be set aside. Returns the number of enqueued jobs.
///
/// Deletes mails that are too old to be sent. Without a mail server, other mails stay in their tables. Several processes can run
/// this function at the same time.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL or Redis does not answer. Jobs that were not enqueued stay in their tables.
pub async fn sweep(app: &App) -> Result<usize> {
    let mut count = old_outbox::drain(app).await?;
    if !app.mailer.can_send() {
        check_waiting_mails(app).await?;
    }
    check_redis(app).await?;
    loop {
        let claimed = app.db.run(async |conn| Ok(JobOutboxRow::claim(conn, held_task(app)).await?)).await?;
        // A claim hides a row from the next claims, so the loop ends even if no job can be enqueued.
        if claimed.is_empty() {
            break;
        }
        count += relay(app, claimed).await?;
    }
    if count > 0 {
        tracing::debug!(count, "jobs of the outbox enqueued");
    }
    Ok(count)
}

/// Enqueues jobs that this process has just committed, in a background task. If the task fails, or too many jobs wait for the
/// task, [`sweep`] enqueues the remaining jobs.
pub(super) fn relay_soon(app: &App, ids: Vec<Uuid>) {
    if ids.is_empty() {
        return;
    }
    let Some(mut turn) = app.committed_jobs.add(ids) else { return };
    let app = app.clone();
    tokio::spawn(async move {
        loop {
            let ids = turn.take(BATCH_ROWS as usize);
            if ids.is_empty() {
                break;
            }
            if let Err(error) = relay_committed(&app, &ids).await {
                tracing::warn!(
                    error = chain(&error),
                    "cannot enqueue the jobs of the outbox; retrying in a minute"
                );
            }
        }
    });
}

async fn relay_committed(app: &App, ids: &[Uuid]) -> Result<usize> {
    check_redis(app).await?;
    let except = held_task(app);
    let claimed = app.db.run(async |conn| Ok(JobOutboxRow::claim_these(conn, ids, except).await?)).await?;
    relay(app, claimed).await
}

/// The numbers of jobs in the tables `job_outbox` and `outbox`. Each number is at most the limit of [`count`].
pub struct WaitingCounts {
    /// All waiting jobs, including mails.
    pub jobs: usize,
    pub mails: usize,
    /// Jobs in the table `job_outbox` that were set aside.
    pub set_aside: usize,
}

/// Counts the waiting jobs, the mails among them, and the jobs that were set aside, each up to `limit`.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn count(conn: &AsyncPgConnection, limit: i64) -> Result<WaitingCounts> {
    let max = usize::try_from(limit).unwrap_or_default();
    let old_mails = OutboxRow::count_waiting(conn, limit).await?;
    let mails = JobOutboxRow::count_waiting(conn, Some(MAIL_TASK), limit).await?;
    let jobs = JobOutboxRow::count_waiting(conn, None, limit).await?;
    Ok(WaitingCounts {
        jobs: (jobs + old_mails).min(max),
        mails: (mails + old_mails).min(max),
        set_aside: JobOutboxRow::count_set_aside(conn, limit).await?,
    })
}

/// Returns the task whose jobs stay in the table: without a mail server, the task that sends mails. In the queue, these jobs
/// would use up their attempts. `None` with a mail server.
fn held_task(app: &App) -> Option<&'static str> {
    (!app.mailer.can_send()).then_some(MAIL_TASK)
}

/// Checks that Redis accepts writes, before rows are claimed. Without this check, an outage would mark jobs as attempted that
/// no relay has sent to the queue.
async fn check_redis(app: &App) -> Result<()> {
    app.redis.probe(&format!("{}:health", app.config.redis.redis_key_prefix)).await
}

/// Enqueues claimed jobs, and deletes the rows of the jobs that are now in the queue. Returns the number of these jobs.
async fn relay(app: &App, mut claimed: Vec<ClaimedJob>) -> Result<usize> {
    claimed.sort_by_key(|claimed| claimed.job.id);
    let mut sorted = SortedRows::default();
    let mut jobs = Vec::new();
    for ClaimedJob { job: row, tried_before } in claimed {
        let (id, now) = (row.id, row.clock.now());
        let tried = tried_before.map(|tried_at| (now - tried_at).to_std().unwrap_or(Duration::ZERO));
        let created_at = row.created_at;
        match read(row) {
            Some((_, Some(mail))) if mail.message.is_too_old(created_at, now) => sorted.too_old.push(id),
            Some((job, _)) => jobs.push(JobToEnqueue { id, job, tried }),
            None => sorted.refused.push(id),
        }
    }
    // Jobs without special options that no relay has tried before are enqueued concurrently, so that they share a round trip.
    // The other jobs follow one by one, because a job may depend on an earlier job.
    let is_plain = |next: &JobToEnqueue| next.tried.is_none() && next.job.is_plain();
    let (plain, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_plain);
    let answers = join_all(plain.iter().map(|next| enqueue(app, next))).await;
    for (next, answer) in plain.iter().zip(answers) {
        sorted.add(next, answer);
    }
    for next in &others {
        if sorted.unavailable.is_some() {
            break;
        }
        let answer = enqueue(app, next).await;
        sorted.add(next, answer);
    }
    finish(app, sorted).await
}

/// Returns the job of a row, and the message if the job sends a mail. `None` if this release cannot read the row.
fn read(row: JobOutboxRow) -> Option<(PreparedJob, Option<SendEmailMessage>)> {
    let id = row.id;
    let job = parse(row)
        .inspect_err(|error| tracing::debug!(%id, %error, "cannot parse a row of the outbox"))
        .ok()?;
    if job.task != MAIL_TASK {
        return Some((job, None));
    }
    let mail = serde_json::from_value(job.payload()?);
    let mail =
        mail.inspect_err(|error| tracing::debug!(%id, %error, "cannot parse a mail of the outbox")).ok()?;
    Some((job, Some(mail)))
}

async fn enqueue(app: &App, next: &JobToEnqueue) -> Result<(), queue::Error> {
    let job = &next.job;
    let id = match next.tried {
        None => app.queue.enqueue_prepared(job).await?,
        Some(since) => app.queue.enqueue_prepared_again(job, since).await?,
    };
    if id != job.id {
        // Another job has the same unique key. The caller that wrote the row has the id of this job, so the job is
        // recorded as canceled.
        app.queue.cancel_prepared(job).await?;
    }
    Ok(())
}

impl SortedRows {
    fn add(&mut self, next: &JobToEnqueue, answer: Result<(), queue::Error>) {
        match answer {
            Ok(()) => self.enqueued.push(next.id),
            Err(error @ queue::Error::Unavailable(_)) => self.unavailable = Some(error.into()),
            Err(queue::Error::Forgotten(_)) => self.forgotten.push(next.id),
            Err(error) => {
                tracing::debug!(
                    job_id = next.job.id,
                    error = chain(&error),
                    "cannot enqueue a job of the outbox"
                );
                self.refused.push(next.id);
            }
        }
    }
}

/// Deletes the rows of enqueued jobs and of mails that are too old, and sets aside the forgotten rows, and the refused rows
/// that are at least a day old. Returns the number of enqueued jobs.
async fn finish(app: &App, sorted: SortedRows) -> Result<usize> {
    let SortedRows { enqueued, too_old, refused, forgotten, unavailable } = sorted;
    let count = delete(app, &enqueued).await?;
    drop_old_mails(app, &too_old).await?;
    let cause = "the queue refuses it, or this release cannot read it";
    set_aside(app, &refused, SET_ASIDE_AFTER_DAYS, cause).await?;
    let cause = "it may have run, but the queue has no record of it any more";
    set_aside(app, &forgotten, 0, cause).await?;
    match unavailable {
        Some(error) => Err(error),
        None => Ok(count),
    }
}

async fn delete(app: &App, ids: &[Uuid]) -> Result<usize> {
    match ids.is_empty() {
        true => Ok(0),
        false => app.db.run(async |conn| Ok(JobOutboxRow::delete(conn, ids).await?)).await,
    }
}

/// Deletes mails that are too old to be sent, and logs how many.
async fn drop_old_mails(app: &App, ids: &[Uuid]) -> Result<()> {
    let count = delete(app, ids).await?;
    if count > 0 {
        tracing::warn!(count, "mails were dropped: they are too old to be sent, see docs/auth.md#mails");
    }
    Ok(())
}

/// Sets aside the rows that are at least `days` old, and logs one error for each row.
async fn set_aside(app: &App, ids: &[Uuid], days: i32, cause: &'static str) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let age = PgInterval::from_days(days);
    for id in app.db.run(async |conn| Ok(JobOutboxRow::set_aside(conn, ids, age).await?)).await? {
        tracing::error!(
            job_id = %id.simple(),
            cause,
            "a job of the outbox is set aside, see docs/jobs.md#enqueuing-in-a-transaction"
        );
    }
    Ok(())
}

/// Checks the mails that wait for a mail server: deletes mails that are too old, and sets aside mails that this release cannot
/// read and that are at least a day old.
async fn check_waiting_mails(app: &App) -> Result<()> {
    let (mut waiting, mut last) = (0, Uuid::nil());
    loop {
        let next = app.db.run(async |conn| Ok(JobOutboxRow::after(conn, MAIL_TASK, last, BATCH_ROWS).await?));
        let batch = next.await?;
        match batch.last() {
            Some(row) => last = row.id,
            None => break,
        }
        let (mut too_old, mut unreadable) = (Vec::new(), Vec::new());
        for row in batch {
            let (id, created_at, now) = (row.id, row.created_at, row.clock.now());
            match read(row) {
                Some((_, Some(mail))) if mail.message.is_too_old(created_at, now) => too_old.push(id),
                Some(_) => waiting += 1,
                None => unreadable.push(id),
            }
        }
        drop_old_mails(app, &too_old).await?;
        set_aside(app, &unreadable, SET_ASIDE_AFTER_DAYS, "this release cannot read it").await?;
    }
    if waiting > 0 {
        tracing::warn!(waiting, "mails wait in the outbox, because there is no mail server: set SMTP_URL");
    }
    Ok(())
}
