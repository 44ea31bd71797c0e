//! The transaction of a service. This is the only module that commits and acts on the commit.

use std::time::Duration;

use diesel_async::AsyncPgConnection;

use super::{
    outbox_relay,
    tx::{Effects, Tx},
};
use crate::{app::App, context::RequestContext, error::Result};

/// Runs `work` in a transaction and commits it.
///
/// After the commit the cached identities of this process are invalidated, and a background task hands the mails of the
/// outbox over to the queue.
///
/// # Errors
/// Those of `work`, after a rollback; those of [`Db::transaction`](crate::db::Db::transaction).
pub async fn transaction<T>(
    app: &App,
    context: &RequestContext,
    work: impl AsyncFnOnce(&Tx<'_>) -> Result<T>,
) -> Result<T> {
    transaction_for(app, context, app.db.timeout(), work).await
}

/// As [`transaction`], with a timeout instead of `DATABASE_TIMEOUT_MS`.
///
/// # Errors
/// As [`transaction`].
pub async fn transaction_for<T>(
    app: &App,
    context: &RequestContext,
    timeout: Duration,
    work: impl AsyncFnOnce(&Tx<'_>) -> Result<T>,
) -> Result<T> {
    let effects = Effects::default();
    // A guard, because the change may be committed although the answer to COMMIT is lost or the client disconnects.
    let _invalidate = InvalidateIdentities { app, effects: &effects };
    let run = async |conn: &mut AsyncPgConnection| work(&Tx::on(conn, context, &effects)).await;
    let done = app.db.transaction_for(timeout, run).await?;
    if effects.mail_written() {
        outbox_relay::hand_over_soon(app, context);
    }
    Ok(done)
}

/// Invalidates the cached identities of this process when it is dropped.
struct InvalidateIdentities<'a> {
    app: &'a App,
    effects: &'a Effects,
}

impl Drop for InvalidateIdentities<'_> {
    fn drop(&mut self) {
        if !self.effects.identities_unchanged() {
            self.app.identities.invalidate_all();
        }
    }
}
