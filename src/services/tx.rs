//! The transaction of a service: one place that commits, and does what has to happen then.

use std::{
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use diesel_async::AsyncPgConnection;

use super::outbox;
use crate::{app::App, context::RequestContext, error::Result};

/// An open transaction and the request that it belongs to. Derefs to the connection.
pub struct Tx<'a> {
    conn: &'a AsyncPgConnection,
    /// The request that the audit trail names.
    pub context: &'a RequestContext,
    effects: &'a Effects,
}

/// What a transaction means beyond the database.
#[derive(Default)]
pub struct Effects {
    has_mail: AtomicBool,
    keeps_identities: AtomicBool,
}

impl Deref for Tx<'_> {
    type Target = AsyncPgConnection;
    fn deref(&self) -> &AsyncPgConnection {
        self.conn
    }
}

impl<'a> Tx<'a> {
    /// A transaction that the caller begins and commits: for commands, which have no [`App`].
    pub fn on(conn: &'a AsyncPgConnection, context: &'a RequestContext, effects: &'a Effects) -> Self {
        Self { conn, context, effects }
    }

    /// Notes that this transaction has put a mail into the outbox.
    pub(super) fn has_mail(&self) {
        self.effects.has_mail.store(true, Ordering::Relaxed);
    }

    /// Notes that this transaction changes neither what a user may do nor whether a session is valid, so that copies of
    /// them stay in use.
    pub(super) fn keeps_identities(&self) {
        self.effects.keeps_identities.store(true, Ordering::Relaxed);
    }
}

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
    if effects.has_mail.load(Ordering::Relaxed) {
        outbox::hand_over_soon(app, context);
    }
    Ok(done)
}

struct ForgetIdentities<'a> {
    app: &'a App,
    effects: &'a Effects,
}

impl Drop for ForgetIdentities<'_> {
    fn drop(&mut self) {
        if !self.effects.keeps_identities.load(Ordering::Relaxed) {
            self.app.identities.forget();
        }
    }
}
