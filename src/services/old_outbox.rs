//! The move of the messages of release 0.1.0 from the table `outbox` to the job queue.
//!
//! During a rolling upgrade, workers of release 0.1.0 also enqueue the messages, with the same unique keys. So the queue
//! ignores a second job for a message.

use std::time::Duration;

use diesel::data_types::PgInterval;

use super::outbox::{OutboxMessage, SendEmailMessage};
use crate::{
    app::App,
    error::Result,
    models::outbox::OutboxRow,
    queue::{EnqueueOptions, OnDuplicate, Origin, Unique},
};

/// Maximum number of rows that one query reads from the table `outbox`.
const BATCH_ROWS: i64 = 100;
/// How long the queue keeps the unique key of a row, to deduplicate its job.
const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(3_600);
/// Age in days at which an unreadable row is set aside: the row is kept, but not read again. A worker of release 0.1.0 may be
/// able to read a younger row during a rolling upgrade.
const SET_ASIDE_AFTER_DAYS: i32 = 1;

/// The ids of the rows of a batch, grouped by the result of their processing.
#[derive(Default)]
struct SortedRows {
    enqueued: Vec<i64>,
    too_old: Vec<i64>,
    unreadable: Vec<i64>,
    /// Number of rows that stay in the table, because no mail server is configured.
    waiting: usize,
}

/// Enqueues a job for each message in the table `outbox`, and deletes the row of the message. Returns the number of enqueued
/// messages.
///
/// Without a mail server, the messages stay in the table. Messages that are too old are deleted. Unreadable messages are set
/// aside after a day. Several processes can run this at the same time: the unique key of a row prevents duplicate jobs.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL or Redis does not answer. Messages that were
/// not enqueued stay in the table.
pub(super) async fn drain(app: &App) -> Result<usize> {
    let (mut count, mut waiting, mut last_id) = (0, 0, 0);
    loop {
        let batch = app.db.run(async |conn| Ok(OutboxRow::after(conn, last_id, BATCH_ROWS).await?)).await?;
        match batch.last() {
            Some(row) => last_id = row.id,
            None => break,
        }
        let mut rows = SortedRows::default();
        let result = enqueue_batch(app, &batch, &mut rows).await;
        // Deletes the rows before an error is returned, because their jobs are already in the queue.
        count += app.db.run(async |conn| Ok(OutboxRow::delete(conn, &rows.enqueued).await?)).await?;
        waiting += rows.waiting;
        drop_old_messages(app, &rows.too_old).await?;
        set_aside(app, &rows.unreadable).await?;
        result?;
    }
    if count > 0 {
        tracing::debug!(count, "mails of the old outbox enqueued");
    }
    if waiting > 0 {
        tracing::warn!(waiting, "mails wait in the outbox, because there is no mail server: set SMTP_URL");
    }
    Ok(count)
}

async fn enqueue_batch(app: &App, batch: &[OutboxRow], rows: &mut SortedRows) -> Result<()> {
    for row in batch {
        match serde_json::from_value::<OutboxMessage>(row.message.clone()) {
            Ok(message) if message.is_too_old(row.created_at, row.clock.now()) => rows.too_old.push(row.id),
            Ok(_) if !app.mailer.can_send() => rows.waiting += 1,
            Ok(message) => {
                let unique = Unique {
                    key: row.key(),
                    window: DEDUPLICATION_WINDOW,
                    on_duplicate: OnDuplicate::KeepExisting,
                };
                let options = EnqueueOptions { unique: Some(unique), ..EnqueueOptions::default() };
                let job = SendEmailMessage { message, written_at: Some(row.created_at) };
                app.queue.enqueue_with(&job, Origin::default(), options).await?;
                rows.enqueued.push(row.id);
            }
            Err(error) => {
                tracing::debug!(id = row.id, %error, "cannot parse a message of the outbox");
                rows.unreadable.push(row.id);
            }
        }
    }
    Ok(())
}

/// Deletes messages that are too old to be sent, and logs how many.
async fn drop_old_messages(app: &App, ids: &[i64]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let count = app.db.run(async |conn| Ok(OutboxRow::delete(conn, ids).await?)).await?;
    if count > 0 {
        tracing::warn!(count, "mails were dropped: they are too old to be sent, see docs/auth.md#mails");
    }
    Ok(())
}

/// Sets aside the rows that are at least [`SET_ASIDE_AFTER_DAYS`] days old, and logs one error for each row.
async fn set_aside(app: &App, unreadable: &[i64]) -> Result<()> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let age = PgInterval::from_days(SET_ASIDE_AFTER_DAYS);
    let ids = app.db.run(async |conn| Ok(OutboxRow::set_aside(conn, unreadable, age).await?)).await?;
    for id in ids {
        tracing::error!(id, "cannot parse a message of the outbox: it is set aside, see docs/auth.md#mails");
    }
    Ok(())
}
