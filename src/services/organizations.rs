//! Organizations: create, list, change, transfer, delete and restore.

use chrono::{DateTime, Duration, Utc};
use serde_json::json;

use super::{
    actor::{Actor, Affected},
    audit::{Action, Entry, org_fields},
    idempotency::{Answered, Once},
    login::confirm_password,
    members,
    org_access::{self, LockedOrg, OrgAccess},
    org_names::{parse_name, validate_slug},
    outbox::OutboxMessage,
    personal_orgs,
    precondition::Precondition,
    throttle::Throttle,
    transaction::change,
    two_factor::confirm_code,
};
use crate::{
    app::App,
    error::{Error, ORGANIZATION, OnConstraint, Result},
    mail::Notice,
    models::{
        clock::DatabaseClock,
        membership::{Membership, MembershipChanges, OrgRole},
        organization::{NewOrganization, Organization, OrganizationChanges},
        user::User,
    },
};

/// An organization, and the membership of the user who reads it.
pub type MyOrganization = (Organization, Membership);

/// The input by which a user confirms an action that a stolen session must not allow. Not `Debug`, so that no log
/// contains the password.
pub struct Confirmation {
    pub password: String,
    /// A code of the second factor. Required if the user has a second factor.
    pub code: Option<String>,
}

/// Changes to an organization. `None` keeps a field; `Some(None)` removes the slug.
#[derive(Default)]
pub struct Changes {
    pub name: Option<String>,
    pub slug: Option<Option<String>>,
}

/// Returns the organizations of the actor, the personal organization first. Creates a missing personal organization if
/// `PERSONAL_ORGANIZATIONS` is on.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer; those of [`change`] if the personal organization has to be
/// created.
pub async fn list(app: &App, actor: &Actor) -> Result<Vec<MyOrganization>> {
    let user_id = actor.user().id;
    let load = async || app.db.run(async |conn| Ok(Membership::list_of_user(conn, user_id).await?)).await;
    let list = load().await?;
    let has_personal = list.iter().any(|(org, _)| org.personal_of == Some(user_id));
    if has_personal || !app.config.organizations.personal.personal_organizations {
        return Ok(list);
    }
    personal_orgs::ensure(app, actor).await?;
    load().await
}

/// Returns an organization and the membership of the actor.
///
/// # Errors
/// [`Error::NotFound`] if the actor is no longer a member, is deactivated, or is scheduled for deletion; [`Error::Unavailable`]
/// if PostgreSQL does not answer.
pub async fn find(app: &App, access: &OrgAccess) -> Result<MyOrganization> {
    let (org_id, user_id) = (access.org_id(), access.scope().user_id());
    let found = app.db.run(async |conn| Ok(Membership::find_active(conn, org_id, user_id).await?)).await?;
    found.ok_or(Error::NotFound(ORGANIZATION))
}

/// Creates an organization with the actor as its owner, at most once for the idempotency key of the request.
///
/// # Errors
/// [`Error::Invalid`] for the name or the slug; [`Error::SlugTaken`]; [`Error::OrgLimit`] if the actor already owns
/// `MAX_ORGANIZATIONS_PER_USER` organizations, not counting personal ones; [`Error::MembershipLimit`]; and those of
/// [`Once::change`].
pub async fn create(
    app: &App,
    actor: &Actor,
    once: &Once<'_, MyOrganization>,
    name: &str,
    slug: Option<&str>,
) -> Result<Answered> {
    let name = parse_name(name)?;
    slug.map_or(Ok(()), validate_slug)?;
    let limit = app.config.organizations.max_organizations_per_user;
    once.change(
        app,
        actor,
        Affected::Actor,
        async || Ok(()),
        async |tx, locked| {
            // The lock of the user serializes concurrent requests, so that they cannot exceed the limit together.
            let user_id = locked.actor().id;
            if Membership::count_owned(tx, user_id).await? >= i64::from(limit) {
                return Err(Error::OrgLimit { limit });
            }
            let row = NewOrganization { name, slug, personal_of: None };
            let org = row.insert(tx).await.on_constraint("organizations_slug_key", Error::SlugTaken)?;
            let membership = members::join(tx, org.id, user_id, OrgRole::Owner).await?;
            Entry::org(org.id, Action::OrgCreated).after(org_fields(&org)).write(tx).await?;
            Ok((org, membership))
        },
    )
    .await
}

/// Changes the name and the slug of an organization.
///
/// # Errors
/// [`Error::Invalid`] for the name or the slug; [`Error::PreconditionFailed`] if the organization does not meet `precondition`;
/// [`Error::SlugTaken`]; those of [`org_access::lock`] and [`change`].
pub async fn update(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    changes: &Changes,
    precondition: &Precondition<'_, MyOrganization>,
) -> Result<MyOrganization> {
    let name = changes.name.as_deref().map(parse_name).transpose()?;
    let slug = changes.slug.as_ref().map(Option::as_deref);
    slug.flatten().map_or(Ok(()), validate_slug)?;
    change(app, actor, Affected::Actor, async |tx, _| {
        let LockedOrg { org, actor: member } = org_access::lock(tx, access).await?;
        let found = (org, member);
        precondition.check(&found)?;
        let (before, member) = found;
        if name.is_none_or(|name| name == before.name)
            && slug.is_none_or(|slug| slug == before.slug.as_deref())
        {
            return Ok((before, member));
        }
        let row = OrganizationChanges { name, slug, ..Default::default() };
        let after = Organization::update(tx, before.id, &row).await;
        let after = after.on_constraint("organizations_slug_key", Error::SlugTaken)?;
        let entry = Entry::org(before.id, Action::OrgUpdated);
        entry.before(org_fields(&before)).after(org_fields(&after)).write(tx).await?;
        Ok((after, member))
    })
    .await
}

/// Makes another active member the owner. The old owner becomes an admin, and both get a mail. A transferred
/// organization is no longer a personal organization.
///
/// # Errors
/// [`Error::WrongPassword`]; [`Error::InvalidCode`]; [`Error::TooManyAttempts`]; [`Error::Invalid`] if the code is missing, or
/// the user is not an active member or is already the owner; [`Error::Unavailable`] if too many passwords are being hashed;
/// those of [`org_access::lock`] and [`change`].
pub async fn transfer(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    user_id: i64,
    confirmation: Confirmation,
) -> Result<MyOrganization> {
    let confirmed = confirm(app, actor, confirmation).await?;
    change(app, actor, Affected::User(user_id), async |tx, locked| {
        let old = locked.actor_if_password_unchanged(&confirmed)?;
        let LockedOrg { org, .. } = org_access::lock(tx, access).await?;
        if user_id == old.id {
            return Err(Error::invalid("user_id", "You are the owner already"));
        }
        let not_active =
            || Error::invalid("user_id", "The new owner must be an active member of the organization");
        let new = locked.user(user_id).ok().filter(|user| user.is_active && user.deletion_due_at.is_none());
        let new = new.ok_or_else(not_active)?;
        let member = Membership::find(tx, org.id, new.id).await?;
        member.filter(|member| member.suspended_at.is_none()).ok_or_else(not_active)?;
        let role = |role| MembershipChanges { role: Some(role), ..Default::default() };
        // Demotes the old owner first, because a unique index allows only one owner.
        let demoted = Membership::update(tx, org.id, old.id, &role(OrgRole::Admin)).await?;
        Membership::update(tx, org.id, new.id, &role(OrgRole::Owner)).await?;
        let org = match org.personal_of {
            None => org,
            Some(_) => {
                let row = OrganizationChanges { personal_of: Some(None), ..Default::default() };
                Organization::update(tx, org.id, &row).await?
            }
        };
        let entry = Entry::org(org.id, Action::OrgTransferred);
        entry.before(json!({ "owner_id": old.id })).after(json!({ "owner_id": new.id })).write(tx).await?;
        let given = Notice::OrganizationTransferred { organization: org.name.clone(), to: new.email.clone() };
        OutboxMessage::notice(old, given).send(tx).await?;
        let received =
            Notice::OrganizationReceived { organization: org.name.clone(), from: old.email.clone() };
        OutboxMessage::notice(new, received).send(tx).await?;
        Ok((org, demoted.ok_or(Error::NotFound(ORGANIZATION))?))
    })
    .await
}

/// Schedules the deletion of an organization. From then on, the members can do nothing in the organization, except that the owner
/// can [`restore`] it. The owner and the active admins get a mail. Returns the time at which the deletion is due,
/// `ACCOUNT_DELETION_GRACE_DAYS` from now. The next run of the nightly job then erases the organization.
///
/// # Errors
/// [`Error::WrongPassword`]; [`Error::InvalidCode`]; [`Error::TooManyAttempts`]; [`Error::Invalid`] if the code is missing;
/// [`Error::PersonalOrg`]; [`Error::Unavailable`] if too many passwords are being hashed; those of [`org_access::lock`] and
/// [`change`].
pub async fn delete(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    confirmation: Confirmation,
) -> Result<DateTime<Utc>> {
    let confirmed = confirm(app, actor, confirmation).await?;
    let grace = Duration::days(app.config.auth.account_deletion_grace_days.into());
    change(app, actor, Affected::Actor, async |tx, locked| {
        locked.actor_if_password_unchanged(&confirmed)?;
        let LockedOrg { org, .. } = org_access::lock(tx, access).await?;
        if org.personal_of.is_some() {
            return Err(Error::PersonalOrg("A personal organization is deleted with its account"));
        }
        let due = DatabaseClock::read(tx).await?.now() + grace;
        let row = OrganizationChanges { deletion_due_at: Some(Some(due)), ..Default::default() };
        Organization::update(tx, org.id, &row).await?;
        let entry = Entry::org(org.id, Action::OrgDeletionScheduled);
        entry.after(json!({ "deletion_due_at": due })).write(tx).await?;
        let on = due.format("%-d %B %Y").to_string();
        for user in Membership::active_admins(tx, org.id).await? {
            let notice =
                Notice::OrganizationDeletionScheduled { organization: org.name.clone(), on: on.clone() };
            OutboxMessage::notice(&user, notice).send(tx).await?;
        }
        Ok(due)
    })
    .await
}

/// Cancels a scheduled deletion that is not due yet. Does nothing if no deletion is scheduled.
///
/// # Errors
/// [`Error::NotFound`] if the deletion is due; those of [`org_access::lock`] and [`change`].
pub async fn restore(app: &App, actor: &Actor, access: &OrgAccess) -> Result<MyOrganization> {
    change(app, actor, Affected::Actor, async |tx, _| {
        let LockedOrg { org, actor: member } = org_access::lock(tx, access).await?;
        let Some(due) = org.deletion_due_at else { return Ok((org, member)) };
        // The erasure runs in batches, so an organization that is due may have lost some of its data.
        if due <= DatabaseClock::read(tx).await?.now() {
            return Err(Error::NotFound(ORGANIZATION));
        }
        let row = OrganizationChanges { deletion_due_at: Some(None), ..Default::default() };
        let org = Organization::update(tx, org.id, &row).await?;
        Entry::org(org.id, Action::OrgDeletionCancelled).write(tx).await?;
        Ok((org, member))
    })
    .await
}

/// Verifies the password of the actor, and a code if the actor has a second factor. The operation sends a notice to the
/// actor: if the address of the actor is not verified, also counts this notice for the limit of notices. Returns the row whose
/// password was verified.
async fn confirm(app: &App, actor: &Actor, confirmation: Confirmation) -> Result<User> {
    let user = confirm_password(app, actor, confirmation.password).await?.user;
    confirm_code(app, actor, &user, confirmation.code.as_deref()).await?;
    Throttle::notice(app, actor.context(), &user).await?;
    Ok(user)
}
