//! The last uses of sessions. Each process collects the uses and writes them to the database in batches.
//!
//! Usually, a request does not wait for the write. A process that is killed loses its pending uses, usually those of the last
//! five seconds. This loss is harmless: `last_seen_at` is only accurate to five minutes, and the idle timeout is far longer. If
//! a session is about to expire, the request writes the use at once, so that no replica ends a session that is in use.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::{
    app::App,
    error::{Result, chain},
    models::{session::Session, session_use},
};

/// Delay between the first pending use and the write of a batch.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum number of sessions that one statement updates.
const BATCH_SESSIONS: usize = 1_000;
/// Time after which the flush at shutdown starts no new batch.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Records the use of an active session, unless `last_seen_at` is at most five minutes old. If the session ends within a
/// minute because it is idle, and no use is pending yet, also writes the use to the database and discards the cached sessions of
/// this process.
pub(super) async fn record(app: &App, session: &Session) {
    if !session.is_touch_due() || session.has_ended() {
        return;
    }
    // If a use is already pending, another request or the next flush writes it.
    let is_pending = app.session_uses.get(&session.id).is_some();
    app.session_uses.record(session.id);
    if is_pending || !session.is_almost_idle() {
        return;
    }
    // `record` drops the use if too many are pending, so the time may be missing here.
    let used_at = app.session_uses.get(&session.id).unwrap_or_else(Instant::now);
    match write(app, &[(session.id, used_at)]).await {
        // Discards the cached sessions, because each request with a cached session from before the write would write
        // again.
        Ok(()) => app.identities.invalidate_all(),
        // A recorded use stays pending, so the next flush writes it.
        Err(error) => {
            tracing::warn!(error = chain(&error), "cannot record that a session is in use; retrying");
        }
    }
}

/// Writes pending uses while the process runs. Never returns. Sleeps while no use is pending.
pub async fn flush_regularly(app: &App) {
    let mut failed = false;
    loop {
        app.session_uses.wait().await;
        tokio::time::sleep(FLUSH_INTERVAL).await;
        let result = flush(app).await;
        if let Err(error) = &result
            && !failed
        {
            tracing::warn!(error = chain(error), "cannot record which sessions are in use; retrying");
        }
        failed = result.is_err();
    }
}

/// Writes the pending uses when the process shuts down. Starts no new batch after `LAST_FLUSH_TIMEOUT`. Uses that are not
/// written are lost.
pub async fn flush_last(app: &App) {
    if let Err(error) = flush_until(app, Some(Instant::now() + LAST_FLUSH_TIMEOUT)).await {
        tracing::warn!(error = chain(&error), "cannot record which sessions were in use");
    }
}

/// Writes the pending uses. A use stays pending if its batch or an earlier batch fails, and if another transaction has locked or
/// changed the row of the session.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub async fn flush(app: &App) -> Result<()> {
    flush_until(app, None).await
}

async fn flush_until(app: &App, deadline: Option<Instant>) -> Result<()> {
    for batch in app.session_uses.all().chunks(BATCH_SESSIONS) {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            break;
        }
        write(app, batch).await?;
    }
    Ok(())
}

async fn write(app: &App, batch: &[(Uuid, Instant)]) -> Result<()> {
    let skipped = app.db.run(async |conn| Ok(session_use::write(conn, batch).await?)).await?;
    app.session_uses.remove(batch.iter().filter(|(id, _)| !skipped.contains(id)));
    Ok(())
}
