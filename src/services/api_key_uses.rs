//! When API keys were last used: collected in the process, and written to the database in batches.
//!
//! It works as [`session_uses`](super::session_uses), but no key depends on its last use. A process that is killed loses the
//! uses of the last five seconds.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use crate::{
    app::App,
    error::{Result, chain},
    models::{
        api_key::ApiKey,
        api_key_use::{self, INTERVAL_SECONDS},
    },
};

/// Longest time from the use of a key until it is written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Keys that one statement updates.
const BATCH_KEYS: usize = 1_000;
/// After this time of the last flush, a process that stops begins no more batches.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Records the use of a key, unless one of the last minute is written already.
pub(super) fn record(app: &App, key: &ApiKey) {
    let due = key.clock.now() - TimeDelta::seconds(INTERVAL_SECONDS.into());
    if key.last_used_at.is_none_or(|used_at| used_at < due) {
        app.key_uses.record(key.id);
    }
}

/// Writes pending uses while the process runs. Never returns. While no use is pending, it does not wake up.
pub async fn flush_regularly(app: &App) {
    let mut failed = false;
    loop {
        app.key_uses.wait().await;
        tokio::time::sleep(FLUSH_INTERVAL).await;
        let result = flush(app).await;
        if let Err(error) = &result
            && !failed
        {
            tracing::warn!(error = chain(error), "cannot record which API keys are in use; retrying");
        }
        failed = result.is_err();
    }
}

/// Writes the uses that are pending when the process stops, as far as the database answers within a few seconds.
pub async fn flush_last(app: &App) {
    if let Err(error) = flush_until(app, Some(Instant::now() + LAST_FLUSH_TIMEOUT)).await {
        tracing::warn!(error = chain(&error), "cannot record which API keys were in use");
    }
}

/// Writes all pending uses. After an error, those that are not written stay pending.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub async fn flush(app: &App) -> Result<()> {
    flush_until(app, None).await
}

async fn flush_until(app: &App, deadline: Option<Instant>) -> Result<()> {
    for batch in app.key_uses.all().chunks(BATCH_KEYS) {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            break;
        }
        let skipped = app.db.run(async |conn| Ok(api_key_use::write(conn, batch).await?)).await?;
        app.key_uses.remove(batch.iter().filter(|(id, _)| !skipped.contains(id)));
    }
    Ok(())
}
