//! Administration of organizations. An admin of the platform can list and suspend all organizations. The role does not make
//! the admin a member: without a membership, the admin cannot read the data of an organization.

use diesel_async::AsyncPgConnection;

use super::{
    actor::{AdminActor, Affected},
    audit::{Action, Entry},
    precondition::Precondition,
    transaction::change,
};
use crate::{
    app::App,
    error::{Error, ORGANIZATION, Result},
    models::{
        clock::DatabaseClock,
        organization::{Organization, OrganizationChanges},
        organization_list::{OrganizationListing, OrganizationOverview},
    },
};

/// Returns an organization.
///
/// # Errors
/// [`Error::NotFound`] if the organization does not exist; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn find(app: &App, id: i64) -> Result<OrganizationOverview> {
    app.db.run(async |conn| read(conn, id).await).await
}

/// Suspends an organization, so that no member can act in it, or ends the suspension.
///
/// # Errors
/// [`Error::NotFound`] if the organization does not exist; [`Error::PreconditionFailed`] if it does not meet `condition`; and
/// those of [`change`].
pub async fn set_suspended(
    app: &App,
    actor: &AdminActor,
    id: i64,
    suspended: bool,
    condition: &Precondition<'_, OrganizationOverview>,
) -> Result<OrganizationOverview> {
    change(app, actor, Affected::Actor, async |tx, _| {
        let org = Organization::lock(tx, id).await?.ok_or(Error::NotFound(ORGANIZATION))?;
        condition.check(&read(tx, id).await?)?;
        if org.suspended_at.is_some() != suspended {
            let now = DatabaseClock::read(tx).await?.now();
            let row =
                OrganizationChanges { suspended_at: Some(suspended.then_some(now)), ..Default::default() };
            Organization::update(tx, id, &row).await?;
            let action = if suspended { Action::OrgSuspended } else { Action::OrgUnsuspended };
            Entry::org(id, action).write(tx).await?;
        }
        read(tx, id).await
    })
    .await
}

async fn read(conn: &AsyncPgConnection, id: i64) -> Result<OrganizationOverview> {
    let listing = OrganizationListing { id: Some(id), limit: 1, ..Default::default() };
    listing.load(conn).await?.pop().ok_or(Error::NotFound(ORGANIZATION))
}
