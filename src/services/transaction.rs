//! The transactions of the services, and the actions after their commit.

use std::time::Duration;

use diesel_async::AsyncPgConnection;
use tracing::Instrument;

use super::{
    actor::{Actor, Affected, LockedUsers},
    job_relay,
    org_access::{self, OrgAccess},
    user_jobs,
};
use crate::{
    app::App,
    context::RequestContext,
    db::{Effects, OrgTx, Tx, enter_org},
    error::{Error, Result},
};

/// Makes a change for a signed-in caller. In one transaction, locks the affected users, checks that the actor is still
/// allowed to make the change, and runs `work`. `work` may run again after a conflict.
///
/// After the commit, the cached identities of this process are invalidated, unless `work` has called
/// [`Tx::set_identities_unchanged`]. Other processes use their cached identities for up to `IDENTITY_CACHE_MS`. A background
/// task enqueues the jobs that the transaction has written, such as mails. Another task purges the jobs of users whom the
/// transaction has deactivated, deleted or scheduled for deletion.
///
/// # Errors
/// Those of [`actor::check`](super::actor::check) if the actor may no longer make the change;
/// [`Error::InvalidToken`] also if the account or the session of the actor no longer exists;
/// those of `work`, after a rollback; those of [`Db::transaction`](crate::db::Db::transaction).
pub async fn change<T>(
    app: &App,
    actor: &Actor,
    affected: Affected,
    work: impl AsyncFnOnce(&Tx<'_>, &LockedUsers) -> Result<T> + Clone,
) -> Result<T> {
    change_after(app, actor, async |_: &Tx<'_>| Ok(()), affected, work).await
}

/// Like [`change`], but runs `first` before it locks rows, so before it waits for any other transaction.
///
/// # Errors
/// As [`change`], and those of `first`.
pub(super) async fn change_after<T>(
    app: &App,
    actor: &Actor,
    first: impl AsyncFnOnce(&Tx<'_>) -> Result<()> + Clone,
    affected: Affected,
    work: impl AsyncFnOnce(&Tx<'_>, &LockedUsers) -> Result<T> + Clone,
) -> Result<T> {
    let checked = async |tx: &Tx<'_>| {
        first.clone()(tx).await?;
        let locked = actor.lock(app, tx, affected).await?;
        work.clone()(tx, &locked).await
    };
    run_transaction(app, actor.context(), app.db.timeout(), checked).await
}

/// Makes a change without a signed-in caller, such as a login, a registration or the action of a link in a mail. The test
/// `tree::only_listed_files_make_changes_without_an_actor` lists the modules that may call this function.
///
/// # Errors
/// As [`change`], without those about the actor.
pub async fn change_without_actor<T>(
    app: &App,
    context: &RequestContext,
    work: impl AsyncFnOnce(&Tx<'_>) -> Result<T> + Clone,
) -> Result<T> {
    run_transaction(app, context, app.db.timeout(), work).await
}

/// Like [`change_without_actor`], for a job. `timeout` limits each attempt at the transaction, without the wait for a
/// connection.
///
/// # Errors
/// As [`change_without_actor`].
pub async fn change_by_job<T>(
    app: &App,
    timeout: Duration,
    work: impl AsyncFnOnce(&Tx<'_>) -> Result<T> + Clone,
) -> Result<T> {
    run_transaction(app, &RequestContext::default(), timeout, work).await
}

/// Makes a change of the data of an organization. In one transaction, locks the caller and the organization, checks the
/// permissions of the caller again, and runs `work` in the organization. A job also calls this function, with the access of
/// its owner.
///
/// # Errors
/// Those of [`org_access::lock_caller`] and [`org_access::lock_shared`] if the caller may no longer make the change; those of
/// `work`, after a rollback; those of [`Db::transaction`](crate::db::Db::transaction).
pub async fn change_in_org<T>(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    work: impl AsyncFnOnce(&OrgTx<'_>) -> Result<T> + Clone,
) -> Result<T> {
    let (first, find) = (async |_: &Tx<'_>| Ok(()), async |_: &Tx<'_>| Ok(None));
    change_in_org_unless_found(app, context, access, first, find, work).await
}

/// Like [`change_in_org`], but runs `first` before it locks rows, and `find` after the check of the access. Both run
/// with the product's own database role. If `find` returns a value, this value is the result, and `work` does not run.
///
/// # Errors
/// As [`change_in_org`], and those of `first` and `find`.
pub(super) async fn change_in_org_unless_found<T>(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    first: impl AsyncFnOnce(&Tx<'_>) -> Result<()> + Clone,
    find: impl AsyncFnOnce(&Tx<'_>) -> Result<Option<T>> + Clone,
    work: impl AsyncFnOnce(&OrgTx<'_>) -> Result<T> + Clone,
) -> Result<T> {
    let checked = async |tx: &Tx<'_>| {
        // The queries before `work` change no user or session, and the database role of `work` cannot change them.
        tx.set_identities_unchanged();
        first.clone()(tx).await?;
        org_access::lock_caller(app, tx, access).await?;
        org_access::lock_shared(tx, access).await?;
        match find.clone()(tx).await? {
            Some(done) => Ok(done),
            None => enter_org(tx, access.scope(), work.clone()).await,
        }
    };
    run_transaction(app, context, app.db.timeout(), checked).await
}

/// Runs `work` in a transaction, and starts the background tasks that follow the commit.
async fn run_transaction<T>(
    app: &App,
    context: &RequestContext,
    timeout: Duration,
    work: impl AsyncFnOnce(&Tx<'_>) -> Result<T> + Clone,
) -> Result<T> {
    let effects = Effects::default();
    // Invalidates on drop, because the change may be committed even if the answer to COMMIT is lost or the client
    // disconnects.
    let _invalidate = InvalidateIdentities { app, effects: &effects };
    let run = async |conn: &mut AsyncPgConnection| {
        effects.reset();
        let done = work.clone()(&Tx::on(conn, context, &effects)).await?;
        effects.set_committing();
        Ok(done)
    };
    let done = app.db.transaction_for(timeout, run).await?;
    job_relay::relay_soon(app, effects.take_jobs());
    user_jobs::purge_soon(app, effects.take_inactive_users());
    Ok(done)
}

/// Runs `work` to its end, also if the caller is dropped: the future of a request is dropped if the client disconnects.
///
/// # Errors
/// Those of `work`; [`Error::Internal`] if `work` panics.
pub(super) async fn run_to_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work.in_current_span()).await.map_err(Error::internal)?
}

/// On drop, invalidates the cached identities of this process if the transaction may have changed one of them.
struct InvalidateIdentities<'a> {
    app: &'a App,
    effects: &'a Effects,
}

impl Drop for InvalidateIdentities<'_> {
    fn drop(&mut self) {
        if self.effects.may_change_identities() {
            tracing::debug!("a user or a session has changed: discarding the copies of this process");
            self.app.identities.invalidate_all();
        }
    }
}
