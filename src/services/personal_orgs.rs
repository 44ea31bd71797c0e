//! Personal organizations: each user gets one, unless `PERSONAL_ORGANIZATIONS` is off.
//!
//! The personal organization is created with the account. Release 0.1.0 creates accounts without one during a rolling upgrade,
//! and so does SQL. [`fill_missing`] runs after migrations and creates the missing organizations, and housekeeping does the same
//! each night. Before that, a request that lists the organizations of a user creates a missing personal organization.

use diesel_async::AsyncPgConnection;

use super::{
    actor::{Actor, Affected},
    audit::{Action, Entry, org_fields},
    transaction::change,
};
use crate::{
    app::App,
    config::PersonalOrganizations,
    context::RequestContext,
    db::{self, Effects, Tx},
    error::Result,
    models::{
        membership::{NewMembership, OrgRole},
        organization::{MAX_NAME_CHARS, NewOrganization, Organization},
        user::User,
    },
};

/// Maximum number of users that one transaction processes: few enough that its locks hardly delay requests.
const BATCH_ROWS: i64 = 500;

/// Creates the personal organization of a user. Does nothing if the user already has one, or if
/// `PERSONAL_ORGANIZATIONS` is off.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub(super) async fn create(tx: &Tx<'_>, user: &User, settings: &PersonalOrganizations) -> Result<()> {
    if !settings.personal_organizations {
        return Ok(());
    }
    for org in insert(tx, std::slice::from_ref(user)).await? {
        Entry::org(org.id, Action::OrgCreated).after(org_fields(&org)).write(tx).await?;
    }
    Ok(())
}

/// Creates the personal organization of the actor, like [`create`], in its own transaction.
///
/// # Errors
/// Those of [`change`].
pub(super) async fn ensure(app: &App, actor: &Actor) -> Result<()> {
    let settings = &app.config.organizations.personal;
    change(app, actor, Affected::Actor, async |tx, locked| create(tx, locked.actor(), settings).await).await
}

/// Creates all missing personal organizations. Does nothing if the tables of organizations do not exist. The caller must have
/// checked that `PERSONAL_ORGANIZATIONS` is on.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer. Organizations that were
/// created before the error stay.
pub async fn fill_missing(conn: &mut AsyncPgConnection) -> Result<()> {
    if !Organization::has_tables(conn).await? {
        return Ok(());
    }
    let (context, effects) = (RequestContext::default(), Effects::default());
    let mut after = Some(i64::MIN);
    while let Some(last) = after {
        let batch =
            async |conn: &mut AsyncPgConnection| fill_batch(&Tx::on(conn, &context, &effects), last).await;
        after = db::transaction(conn, batch).await?;
    }
    Ok(())
}

/// Creates the missing personal organizations of a batch of users whose ids are greater than `after`. Returns the last
/// id of the batch, or `None` if there are no more users. Writes no audit entries.
///
/// # Errors
/// As [`fill_missing`].
pub(super) async fn fill_batch(tx: &Tx<'_>, after: i64) -> Result<Option<i64>> {
    let Some((last, users)) = Organization::missing_personal(tx, after, BATCH_ROWS).await? else {
        return Ok(None);
    };
    insert(tx, &users).await?;
    Ok(Some(last))
}

/// Inserts the missing personal organizations of these users, with the memberships of the owners. Returns the new
/// organizations.
async fn insert(tx: &Tx<'_>, users: &[User]) -> Result<Vec<Organization>> {
    let names: Vec<_> = users.iter().map(name_of).collect();
    let rows: Vec<_> = users
        .iter()
        .zip(&names)
        .map(|(user, name)| NewOrganization { name, slug: None, personal_of: Some(user.id) })
        .collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let orgs = NewOrganization::insert_all(&rows, tx).await?;
    let owners: Vec<_> = orgs
        .iter()
        .filter_map(|org| {
            Some(NewMembership { org_id: org.id, user_id: org.personal_of?, role: OrgRole::Owner })
        })
        .collect();
    if !owners.is_empty() {
        NewMembership::insert_all(&owners, tx).await?;
    }
    Ok(orgs)
}

/// Returns the name of the personal organization of a user: the user's name, or the local part of the email address, or
/// `Personal`. The first of these that is not blank is used.
fn name_of(user: &User) -> String {
    let local = user.email.split('@').next().unwrap_or_default();
    let shown = |text: &str| {
        let text: String = text.trim().chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect();
        text.trim().to_owned()
    };
    let names = [user.full_name.as_deref().unwrap_or_default(), local, "Personal"].map(shown);
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}
