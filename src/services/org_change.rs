//! Idempotent changes of the data of an organization.

use super::{
    idempotency::{Answered, Once},
    org_access::OrgAccess,
    transaction::change_in_org_unless_found,
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
