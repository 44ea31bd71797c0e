//! The transaction of a service: one place that commits, and does what has to happen then.

use std::time::Duration;

use diesel_async::AsyncPgConnection;

use super::{
    outbox_relay,
    tx::{Effects, Tx},
};
use crate::{app::App, context::RequestContext, error::Result};

/// Runs `work` in a transaction. After the commit this process uses no copy of a user or a session that it read before,
/// and the mails in the outbox are handed over to the queue.
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

/// As [`transaction`], with a time limit of its own.
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
    // Dropped also when the answer to COMMIT is lost, or the client hangs up before it.
    let _forget = ForgetIdentities { app, effects: &effects };
    let run = async |conn: &mut AsyncPgConnection| work(&Tx::on(conn, context, &effects)).await;
    let done = app.db.transaction_for(timeout, run).await?;
    if effects.have_mail() {
        outbox_relay::hand_over_soon(app, context);
    }
    Ok(done)
}

struct ForgetIdentities<'a> {
    app: &'a App,
    effects: &'a Effects,
}

impl Drop for ForgetIdentities<'_> {
    fn drop(&mut self) {
        if !self.effects.keep_identities() {
            self.app.identities.forget();
        }
    }
}
