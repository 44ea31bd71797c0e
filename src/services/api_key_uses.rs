//! The last uses of API keys. Each process collects the uses and writes them to the database in batches.
//!
//! Works like [`session_uses`](super::session_uses), except that no use is written at once: a session expires without
//! use, a key does not. A process that is killed loses its pending uses, usually those of the last five seconds.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use crate::{
    app::App,
    error::{Result, chain},
    models::{
        api_key::ApiKey,
        api_key_use::{self, TOUCH_INTERVAL_SECONDS},
    },
};

/// Delay between the first pending use and the write of a batch.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of keys that one statement updates.
const BATCH_KEYS: usize = 1_000;
/// Time after which the flush at shutdown starts no new batch.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Records the use of a key, unless `last_used_at` of the key is at most a minute old.
pub(super) fn record(app: &App, key: &ApiKey) {
    let due = key.clock.now() - TimeDelta::seconds(TOUCH_INTERVAL_SECONDS.into());
    if key.last_used_at.is_none_or(|used_at| used_at < due) {
        app.key_uses.record(key.id);
    }
}

/// Writes pending uses while the process runs. Never returns. Sleeps while no use is pending.
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

/// Writes the pending uses when the process shuts down. Starts no new batch after `LAST_FLUSH_TIMEOUT`. Uses that are not
/// written are lost.
pub async fn flush_last(app: &App) {
    if let Err(error) = flush_until(app, Some(Instant::now() + LAST_FLUSH_TIMEOUT)).await {
        tracing::warn!(error = chain(&error), "cannot record which API keys were in use");
    }
}

/// Writes the pending uses. A use stays pending if its batch or an earlier batch fails, and if another transaction has locked or
/// changed the row of the key.
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
