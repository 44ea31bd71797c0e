//! Moves messages from the outbox to the job queue.

use std::time::Duration;

use diesel::data_types::PgInterval;

use super::outbox::SendEmailMessage;
use crate::{
    app::App,
    context::RequestContext,
    error::{Result, chain},
    models::outbox::OutboxRow,
    queue::{EnqueueOptions, OnDuplicate, Unique},
};

/// Rows that one query reads from the outbox.
const BATCH_ROWS: i64 = 100;
/// How long the queue stores the idempotency key of a row.
const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(3_600);
/// Age at which an unreadable row is set aside. A younger row may come from a newer release that is being rolled out
/// and will read it.
const SET_ASIDE_AFTER_DAYS: i32 = 1;

/// Enqueues a job for each message of the outbox, and deletes the rows. Returns the number of messages.
///
/// Several processes can do this at the same time: the idempotency key of a row prevents duplicate jobs.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL or Redis does not answer. Messages that were
/// not enqueued stay in the outbox.
pub async fn hand_over(app: &App, context: &RequestContext) -> Result<usize> {
    let (mut count, mut last_id) = (0, 0);
    loop {
        let batch = app.db.run(async |conn| Ok(OutboxRow::after(conn, last_id, BATCH_ROWS).await?)).await?;
        match batch.last() {
            Some(row) => last_id = row.id,
            None => return Ok(count),
        }
        let (mut done, mut unreadable) = (Vec::new(), Vec::new());
        let result = hand_over_batch(app, context, &batch, &mut done, &mut unreadable).await;
        // Before the error is returned: the rows before it are enqueued.
        count += app.db.run(async |conn| Ok(OutboxRow::delete(conn, &done).await?)).await?;
        set_aside(app, &unreadable).await?;
        result?;
    }
}

async fn hand_over_batch(
    app: &App,
    context: &RequestContext,
    batch: &[OutboxRow],
    done: &mut Vec<i64>,
    unreadable: &mut Vec<i64>,
) -> Result<()> {
    for row in batch {
        match serde_json::from_value(row.message.clone()) {
            Ok(message) => {
                let unique = Unique {
                    key: row.key(),
                    window: DEDUPLICATION_WINDOW,
                    on_duplicate: OnDuplicate::KeepExisting,
                };
                let options = EnqueueOptions { unique: Some(unique), ..EnqueueOptions::default() };
                app.queue.enqueue_with(&SendEmailMessage { message }, context.origin(None), options).await?;
                done.push(row.id);
            }
            Err(error) => {
                tracing::debug!(id = row.id, %error, "cannot parse a message of the outbox");
                unreadable.push(row.id);
            }
        }
    }
    Ok(())
}

/// Sets aside the rows that are older than [`SET_ASIDE_AFTER_DAYS`], and logs one error for each.
async fn set_aside(app: &App, unreadable: &[i64]) -> Result<()> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let age = PgInterval::from_days(SET_ASIDE_AFTER_DAYS);
    let ids = app.db.run(async |conn| Ok(OutboxRow::set_aside(conn, unreadable, age).await?)).await?;
    for id in ids {
        tracing::error!(
            id,
            "cannot parse a message of the outbox for a day: it is set aside, see docs/auth.md#mails"
        );
    }
    Ok(())
}

/// Starts [`hand_over`] in the background. If it fails, the job `RelayOutbox` does it within a minute.
pub(super) fn hand_over_soon(app: &App, context: &RequestContext) {
    let (app, context) = (app.clone(), context.clone());
    tokio::spawn(async move {
        if let Err(error) = hand_over(&app, &context).await {
            tracing::warn!(
                error = chain(&error),
                "cannot enqueue the mails of the outbox; retrying in a minute"
            );
        }
    });
}
