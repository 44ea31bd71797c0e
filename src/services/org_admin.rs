//! Administration of organizations. An admin of the platform is not a member: the admin may list and suspend them, and sees
//! nothing of their data.

use super::{
    actor::{AdminActor, Affected},
    audit::{Action, Entry},
    transaction::change,
};
use crate::{
    app::App,
    db::Tx,
    error::{Error, ORGANIZATION, Result},
    models::{
        clock::DatabaseClock,
        organization::{Organization, OrganizationChanges},
        organization_list::{OrganizationListing, OrganizationOverview},
    },
};

/// Suspends an organization, whose members are then refused, or ends the suspension.
///
/// # Errors
/// [`Error::NotFound`] if it does not exist; and those of [`change`].
pub async fn set_suspended(
    app: &App,
    actor: &AdminActor,
    id: i64,
    suspended: bool,
) -> Result<OrganizationOverview> {
    change(app, actor, Affected::Actor, async |tx, _| {
        let org = Organization::lock(tx, id).await?.ok_or(Error::NotFound(ORGANIZATION))?;
        if org.suspended_at.is_some() != suspended {
            let now = DatabaseClock::read(tx).await?.now();
            let row =
                OrganizationChanges { suspended_at: Some(suspended.then_some(now)), ..Default::default() };
            Organization::update(tx, id, &row).await?;
            let action = if suspended { Action::OrgSuspended } else { Action::OrgUnsuspended };
            Entry::org(id, action).write(tx).await?;
        }
        find(tx, id).await
    })
    .await
}

async fn find(tx: &Tx<'_>, id: i64) -> Result<OrganizationOverview> {
    let listing = OrganizationListing { id: Some(id), limit: 1, ..Default::default() };
    listing.load(tx).await?.pop().ok_or(Error::NotFound(ORGANIZATION))
}
