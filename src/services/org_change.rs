//! Idempotent changes of an organization: of its data, and of its members and invitations.

use super::{
    actor::{Actor, Affected, LockedUsers},
    idempotency::{Answered, Once},
    org_access::{self, LockedOrg, OrgAccess},
    transaction::{change, change_after, change_in_org_unless_found},
};
use crate::{
    app::App,
    context::RequestContext,
    db::{OrgTx, Tx},
    error::Result,
};

/// Makes a change like [`change_in_org`](super::transaction::change_in_org), at most once for the idempotency key of
/// the request. Checks that the caller may still make the change before it returns a stored answer.
///
/// # Errors
/// [`Error::IdempotencyKeyInUse`](crate::error::Error::IdempotencyKeyInUse) while another request with the key is in progress;
/// [`Error::IdempotencyKeyReused`](crate::error::Error::IdempotencyKeyReused) if the client has used the key for a different
/// request; those of [`Once::store`]; and those of `change_in_org`.
pub async fn change_in_org_once<T>(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    once: &Once<'_, T>,
    work: impl AsyncFnOnce(&OrgTx<'_>) -> Result<T> + Clone,
) -> Result<Answered> {
    let lock = async |tx: &Tx<'_>| once.lock(tx).await;
    let find = async |tx: &Tx<'_>| once.find(tx).await;
    let change = async |tx: &OrgTx<'_>| {
        let done = work.clone()(tx).await?;
        once.store(tx.tx(), &done).await
    };
    change_in_org_unless_found(app, context, access, lock, find, change).await
}

/// Like [`change_in_org_once`], but runs `check_limits` ahead of the transaction, unless a valid answer is already stored: a
/// repeated request must neither count against a limit nor be refused because of a limit.
///
/// # Errors
/// As [`change_in_org_once`], and those of `check_limits`.
pub async fn change_in_org_once_within_limits<T>(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    once: &Once<'_, T>,
    check_limits: impl AsyncFnOnce() -> Result<()>,
    work: impl AsyncFnOnce(&OrgTx<'_>) -> Result<T> + Clone,
) -> Result<Answered> {
    let _in_use = once.use_key(app, context)?;
    if once.is_stored(app, context).await?
        && let Some(answered) = replay(app, context, access, once).await?
    {
        return Ok(answered);
    }
    check_limits().await?;
    change_in_org_once(app, context, access, once, work).await
}

/// Checks that the caller may still make the change, and returns the stored answer. `None` if no valid answer is stored.
async fn replay<T>(
    app: &App,
    context: &RequestContext,
    access: &OrgAccess,
    once: &Once<'_, T>,
) -> Result<Option<Answered>> {
    let first = async |_: &Tx<'_>| Ok(());
    let find = async |tx: &Tx<'_>| Ok(Some(once.find(tx).await?));
    change_in_org_unless_found(app, context, access, first, find, async |_: &OrgTx<'_>| Ok(None)).await
}

/// Makes a change of the members or invitations of an organization, at most once for the idempotency key of the request. The
/// transaction locks the actor and the organization, and checks that the actor may still make the change before it returns a
/// stored answer or runs `work`.
///
/// `work` must not change an identity, see [`Tx::set_identities_unchanged`]. `check_limits` runs as in
/// [`change_in_org_once_within_limits`].
///
/// # Errors
/// Those of [`Once::change`] and [`org_access::lock`].
pub async fn change_members_once<T>(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    once: &Once<'_, T>,
    check_limits: impl AsyncFnOnce() -> Result<()>,
    work: impl AsyncFnOnce(&Tx<'_>, &LockedOrg) -> Result<T> + Clone,
) -> Result<Answered> {
    let _in_use = once.use_key(app, actor.context())?;
    if once.is_stored(app, actor.context()).await? {
        let find = async |tx: &Tx<'_>, _: &LockedUsers| Ok(lock_and_find(tx, access, once).await?.1);
        if let Some(answered) = change(app, actor, Affected::Actor, find).await? {
            return Ok(answered);
        }
    }
    check_limits().await?;
    let lock = async |tx: &Tx<'_>| once.lock(tx).await;
    let change_unless_done = async |tx: &Tx<'_>, _: &LockedUsers| {
        let (locked, found) = lock_and_find(tx, access, once).await?;
        if let Some(answered) = found {
            return Ok(answered);
        }
        let done = work.clone()(tx, &locked).await?;
        once.store(tx, &done).await
    };
    change_after(app, actor, lock, Affected::Actor, change_unless_done).await
}

/// Locks the organization, checks the access again, and then looks for the stored answer.
async fn lock_and_find<T>(
    tx: &Tx<'_>,
    access: &OrgAccess,
    once: &Once<'_, T>,
) -> Result<(LockedOrg, Option<Answered>)> {
    tx.set_identities_unchanged();
    let locked = org_access::lock(tx, access).await?;
    Ok((locked, once.find(tx).await?))
}
