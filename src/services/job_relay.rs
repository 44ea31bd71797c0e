//! Enqueues the jobs of the table `job_outbox`: right after the commit by the process that has committed, and each minute by
//! [`sweep`], for what a crash or an outage has left.
//!
//! A relay claims rows with one short statement (`FOR UPDATE SKIP LOCKED`), enqueues their jobs, and deletes the rows whose jobs
//! the queue is known to have. The claim is a time in the row and not a lock, because a transaction must not wait for Redis. So
//! a relay that is slow or was killed may work on the same rows as the next one. That is harmless: the id of a job is made with
//! its row, and the queue ignores a job whose id it knows, also after the job has ended.
//!
//! The queue knows an ended job for a day, or less if its memory is full. The claim records when a job was first tried. If the
//! queue does not know a job that was tried before the time that its records cover, it is unknown whether the job has run. Then
//! the row is set aside for an operator. A row that was never tried is enqueued at any age.

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

/// Rows that one statement reads.
const BATCH_ROWS: i64 = 100;
/// Age in days at which a job that cannot be enqueued is set aside. A younger one may wait for another job, or come from a newer
/// release that is being rolled out and can read it.
const SET_ASIDE_AFTER_DAYS: i32 = 1;
const MAIL_TASK: &str = SendEmailMessage::NAME;

/// A job to enqueue.
struct Relay {
    id: Uuid,
    job: PreparedJob,
    /// Time since the first attempt of an earlier relay.
    tried: Option<Duration>,
}

/// The ids of the rows of a batch, by what happens to the rows.
#[derive(Default)]
struct Sorted {
    enqueued: Vec<Uuid>,
    too_old: Vec<Uuid>,
    /// Cannot be enqueued as they are.
    refused: Vec<Uuid>,
    /// Jobs that may have run already, and of which the queue no longer has a record.
    forgotten: Vec<Uuid>,
    unavailable: Option<Error>,
}

/// Enqueues all jobs that wait in the tables `job_outbox` and `outbox`. Returns how many.
///
/// Without a mail server, mails stay in the table, until they are too old. Several processes can run this at the same time.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL or Redis does not answer. Jobs that were not enqueued stay in the table.
pub async fn sweep(app: &App) -> Result<usize> {
    let mut count = old_outbox::drain(app).await?;
    if !app.mailer.can_send() {
        check_waiting_mails(app).await?;
    }
    check_redis(app).await?;
    loop {
        let claimed = app.db.run(async |conn| Ok(JobOutboxRow::claim(conn, held_task(app)).await?)).await?;
        // Each row is claimed once, so this ends also if none can be enqueued.
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

/// Enqueues jobs that this process has committed, in the background. If that fails, [`sweep`] enqueues them.
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

/// What waits in the tables `job_outbox` and `outbox`; each number is at most the limit of [`count`].
pub struct Waiting {
    /// Jobs, also mails.
    pub jobs: usize,
    pub mails: usize,
    /// Jobs that were set aside.
    pub set_aside: usize,
}

/// Counts what waits, at most `limit` rows of each kind.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn count(conn: &AsyncPgConnection, limit: i64) -> Result<Waiting> {
    let most = usize::try_from(limit).unwrap_or_default();
    let old_mails = OutboxRow::count_waiting(conn, limit).await?;
    let mails = JobOutboxRow::count_waiting(conn, Some(MAIL_TASK), limit).await?;
    let jobs = JobOutboxRow::count_waiting(conn, None, limit).await?;
    Ok(Waiting {
        jobs: (jobs + old_mails).min(most),
        mails: (mails + old_mails).min(most),
        set_aside: JobOutboxRow::count_set_aside(conn, limit).await?,
    })
}

/// Returns the task whose jobs stay in the table: mails, if none can be sent. In the queue, they would use up their attempts.
fn held_task(app: &App) -> Option<&'static str> {
    (!app.mailer.can_send()).then_some(MAIL_TASK)
}

/// Checks that Redis accepts writes, before rows are claimed: during an outage, no job is then taken for one that may have
/// been enqueued.
async fn check_redis(app: &App) -> Result<()> {
    app.redis.probe(&format!("{}:health", app.config.redis.redis_key_prefix)).await
}

/// Enqueues claimed jobs, and deletes the rows of those that the queue has. Returns how many.
async fn relay(app: &App, mut claimed: Vec<ClaimedJob>) -> Result<usize> {
    claimed.sort_by_key(|claimed| claimed.job.id);
    let mut sorted = Sorted::default();
    let mut jobs = Vec::new();
    for ClaimedJob { job: row, tried_before } in claimed {
        let (id, now) = (row.id, row.clock.now());
        let tried = tried_before.map(|tried_at| (now - tried_at).to_std().unwrap_or(Duration::ZERO));
        let created_at = row.created_at;
        match read(row) {
            Some((_, Some(mail))) if mail.message.is_too_old(created_at, now) => sorted.too_old.push(id),
            Some((job, _)) => jobs.push(Relay { id, job, tried }),
            None => sorted.refused.push(id),
        }
    }
    // Plain jobs share a round trip. The others come after them one by one, because they may wait for an earlier one.
    let is_plain = |relay: &Relay| relay.tried.is_none() && relay.job.is_plain();
    let (plain, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_plain);
    let answers = join_all(plain.iter().map(|relay| enqueue(app, relay))).await;
    for (relay, answer) in plain.iter().zip(answers) {
        sorted.add(relay, answer);
    }
    for relay in &others {
        if sorted.unavailable.is_some() {
            break;
        }
        let answer = enqueue(app, relay).await;
        sorted.add(relay, answer);
    }
    finish(app, sorted).await
}

/// Returns the job of a row, and the message of a mail; `None` if this release cannot read it.
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

async fn enqueue(app: &App, relay: &Relay) -> Result<(), queue::Error> {
    let job = &relay.job;
    let id = match relay.tried {
        None => app.queue.enqueue_prepared(job).await?,
        Some(since) => app.queue.enqueue_prepared_again(job, since).await?,
    };
    if id != job.id {
        // Another job has the unique key. The caller knows the id of this one, whose status says what became of it.
        app.queue.cancel_prepared(job).await?;
    }
    Ok(())
}

impl Sorted {
    fn add(&mut self, relay: &Relay, answer: Result<(), queue::Error>) {
        match answer {
            Ok(()) => self.enqueued.push(relay.id),
            Err(error @ queue::Error::Unavailable(_)) => self.unavailable = Some(error.into()),
            Err(queue::Error::Forgotten(_)) => self.forgotten.push(relay.id),
            Err(error) => {
                tracing::debug!(
                    job_id = relay.job.id,
                    error = chain(&error),
                    "cannot enqueue a job of the outbox"
                );
                self.refused.push(relay.id);
            }
        }
    }
}

/// Deletes the rows that are done, sets aside those that cannot be, and returns how many jobs were enqueued.
async fn finish(app: &App, sorted: Sorted) -> Result<usize> {
    let Sorted { enqueued, too_old, refused, forgotten, unavailable } = sorted;
    let count = delete(app, &enqueued).await?;
    drop_old(app, &too_old).await?;
    let cause = "it cannot be enqueued for a day";
    set_aside(app, &refused, SET_ASIDE_AFTER_DAYS, cause).await?;
    let cause = "it may have run, but the queue does not know any more";
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
async fn drop_old(app: &App, ids: &[Uuid]) -> Result<()> {
    let count = delete(app, ids).await?;
    if count > 0 {
        tracing::warn!(count, "mails were dropped: they are too old to be sent, see docs/auth.md#mails");
    }
    Ok(())
}

/// Sets aside the rows that are at least `days` old, and logs one error for each.
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

/// Looks through the mails that wait for a mail server: drops those that are too old, and sets aside those that no release can
/// read.
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
        drop_old(app, &too_old).await?;
        set_aside(app, &unreadable, SET_ASIDE_AFTER_DAYS, "no release can read it for a day").await?;
    }
    if waiting > 0 {
        tracing::warn!(waiting, "mails wait in the outbox, because there is no mail server: set SMTP_URL");
    }
    Ok(())
}
