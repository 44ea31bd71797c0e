//! The way of a message from the outbox to the job queue.

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

/// Rows that are read from the outbox at a time.
const BATCH_ROWS: i64 = 100;
/// How long the queue remembers the idempotency key of a row.
const DEDUPLICATION_WINDOW: Duration = Duration::from_secs(3_600);
/// Age at which a row that cannot be read is set aside. Younger ones may come from a newer release that is being rolled
/// out, whose workers will read them.
const SET_ASIDE_AFTER_DAYS: i32 = 1;

/// Hands the messages of the outbox over to the job queue. Returns how many were handed over.
///
/// Several processes may do this at the same time: each row has an idempotency key, so each message is sent once.
///
/// # Errors
/// If PostgreSQL or Redis is unavailable. Messages that were not handed over stay in the outbox.
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
        // Also after an error: the rows before it are in the queue.
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
                tracing::debug!(id = row.id, %error, "cannot read a message of the outbox");
                unreadable.push(row.id);
            }
        }
    }
    Ok(())
}

/// Sets aside those of these rows that are old enough, and logs one error for each.
async fn set_aside(app: &App, unreadable: &[i64]) -> Result<()> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let age = PgInterval::from_days(SET_ASIDE_AFTER_DAYS);
    let ids = app.db.run(async |conn| Ok(OutboxRow::set_aside(conn, unreadable, age).await?)).await?;
    for id in ids {
        tracing::error!(
            id,
            "no release has read this message of the outbox for a day: it is set aside, see docs/auth.md#mails"
        );
    }
    Ok(())
}

/// Hands the messages over in the background. If that fails, the job `RelayOutbox` does it within a minute.
pub(super) fn hand_over_soon(app: &App, context: &RequestContext) {
    let (app, context) = (app.clone(), context.clone());
    tokio::spawn(async move {
        if let Err(error) = hand_over(&app, &context).await {
            tracing::warn!(
                error = chain(&error),
                "cannot hand the messages of the outbox over; retrying in a minute"
            );
        }
    });
}
