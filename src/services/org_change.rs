//! Changes of the data of an organization that a client may repeat with an idempotency key.

use super::{
    idempotency::{Answered, Once},
    org_access::OrgAccess,
    transaction::change_in_org_unless,
};
use crate::{
    app::App,
    context::RequestContext,
    db::{OrgTx, Tx},
    error::Result,
};

/// Makes a change as [`change_in_org`](super::transaction::change_in_org), at most once for the key of the request. A stored
/// answer is only returned to a caller who may still make the change.
///
/// # Errors
/// [`Error::IdempotencyKeyInUse`](crate::error::Error::IdempotencyKeyInUse) while another request with the key is in progress;
/// [`Error::IdempotencyKeyReused`](crate::error::Error::IdempotencyKeyReused) if the client has asked for something else with
/// the key; and those of `change_in_org`.
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
    change_in_org_unless(app, context, access, lock, find, change).await
}
