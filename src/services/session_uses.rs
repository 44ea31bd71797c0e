//! When sessions were last used: collected in the process, and written to the database in batches.
//!
//! A request does not wait for such a write. A process that is killed loses the uses of the last five seconds. That is
//! far below the idle timeout and the five minutes to which `last_seen_at` is accurate. The use of a session that is about
//! to expire is written at once, so that no replica ends a session that is in use.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::{
    app::App,
    error::{Result, chain},
    models::{session::Session, session_use},
};

/// Longest time from the use of a session until it is written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Sessions that one statement updates.
const BATCH_SESSIONS: usize = 1_000;
/// After this time of the last flush, a process that stops begins no more batches.
const LAST_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Records the use of an active session if that is due.
pub(super) async fn record(app: &App, session: &Session) {
    if !session.is_touch_due() || session.has_ended() {
        return;
    }
    // A use that is pending already is being written by another request, or is written by the next flush.
    let is_pending = app.session_uses.get(&session.id).is_some();
    app.session_uses.record(session.id);
    if is_pending || !session.is_almost_idle() {
        return;
    }
    // No use is recorded if too many are pending.
    let used_at = app.session_uses.get(&session.id).unwrap_or_else(Instant::now);
    match write(app, &[(session.id, used_at)]).await {
        // Each request that has a copy from before the write would write again.
        Ok(()) => app.identities.invalidate_all(),
        // It is still pending.
        Err(error) => {
            tracing::warn!(error = chain(&error), "cannot record that a session is in use; retrying");
        }
    }
}

/// Writes pending uses while the process runs. Never returns. While no use is pending, it does not wake up.
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

/// Writes the uses that are pending when the process stops, as far as the database answers within a few seconds.
pub async fn flush_last(app: &App) {
    if let Err(error) = flush_until(app, Some(Instant::now() + LAST_FLUSH_TIMEOUT)).await {
        tracing::warn!(error = chain(&error), "cannot record which sessions were in use");
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
