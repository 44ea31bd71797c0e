//! Changes of the members of an organization: role, suspension, removal.
//!
//! An actor may change members whose role is not above the actor's own role. The owner changes only by a transfer, so no change
//! of a member leaves an organization without an owner.

use serde_json::{Value, json};

use super::{
    actor::{Actor, Affected},
    api_key_revocation::revoke_of_member,
    audit::{Action, Entry},
    org_access::{self, LockedOrg, OrgAccess},
    org_erasure,
    outbox::OutboxMessage,
    precondition::Precondition,
    transaction::change,
};
use crate::{
    app::App,
    db::Tx,
    error::{Error, Result},
    mail::Notice,
    models::{
        clock::DatabaseClock,
        member_list::Member,
        membership::{Membership, MembershipChanges, NewMembership, OrgRole},
        organization::Organization,
        user::User,
    },
};

/// Maximum number of memberships of a user, checked when the user joins or creates an organization. The limit exists because
/// all memberships of a user are read together with the session. The personal organization counts, but its creation does not
/// check the limit.
pub const MAX_MEMBERSHIPS: i64 = 100;

const OWNER_NEEDS_TRANSFER: &str = "Only a transfer changes the owner of an organization";

/// Changes to a member. `None` keeps a field.
#[derive(Default)]
pub struct Changes {
    pub role: Option<OrgRole>,
    pub suspended: Option<bool>,
}

/// Adds a user to an organization. The caller must have locked the user, and then the organization unless it is new.
///
/// # Errors
/// [`Error::MembershipLimit`] if the user is a member of [`MAX_MEMBERSHIPS`] organizations; [`Error::Unavailable`] if PostgreSQL
/// does not answer.
pub(super) async fn join(tx: &Tx<'_>, org_id: i64, user_id: i64, role: OrgRole) -> Result<Membership> {
    if Membership::count_of_user(tx, user_id).await? >= MAX_MEMBERSHIPS {
        return Err(Error::MembershipLimit { limit: MAX_MEMBERSHIPS });
    }
    Ok(NewMembership { org_id, user_id, role }.insert(tx).await?)
}

/// Returns a member.
///
/// # Errors
/// [`Error::NotFound`] if the user is not a member; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn find(app: &App, access: &OrgAccess, user_id: i64) -> Result<Member> {
    let org_id = access.org_id();
    let found = app.db.run(async |conn| Ok(Member::find(conn, org_id, user_id).await?)).await?;
    found.ok_or(NOT_A_MEMBER)
}

/// Changes the role of a member, suspends the member, or ends the suspension.
///
/// # Errors
/// [`Error::NotFound`] if the user is not a member; [`Error::RoleTooHigh`] if the member is the owner and not the actor, or the
/// new role is `owner` or above the role of the actor; [`Error::LastOwner`] if the actor is the owner and changes their own
/// membership; [`Error::PreconditionFailed`] if the member does not meet `condition`; those of [`org_access::lock`] and
/// [`change`].
pub async fn update(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    user_id: i64,
    changes: &Changes,
    condition: &Precondition<'_, Member>,
) -> Result<Member> {
    change(app, actor, Affected::Actor, async |tx, _| {
        let locked = org_access::lock(tx, access).await?;
        let before = find_changeable(tx, &locked, user_id).await?;
        if changes.role.is_some_and(|role| role == OrgRole::Owner || role > locked.actor.role) {
            return Err(Error::RoleTooHigh(OWNER_NEEDS_TRANSFER));
        }
        condition.check(&Member::find(tx, locked.org.id, user_id).await?.ok_or(NOT_A_MEMBER)?)?;
        let role = changes.role.filter(|role| *role != before.role);
        let suspended = changes.suspended.filter(|suspended| *suspended != before.suspended_at.is_some());
        if role.is_some() || suspended.is_some() {
            let now = DatabaseClock::read(tx).await?.now();
            let suspended_at = suspended.map(|suspended| suspended.then_some(now));
            let row = MembershipChanges { role, suspended_at };
            let after = Membership::update(tx, locked.org.id, user_id, &row).await?.ok_or(NOT_A_MEMBER)?;
            let entry = Entry::member(locked.org.id, user_id, Action::MemberUpdated);
            entry.before(fields(&before)).after(fields(&after)).write(tx).await?;
        }
        Member::find(tx, locked.org.id, user_id).await?.ok_or(NOT_A_MEMBER)
    })
    .await
}

/// Removes a member, revokes the API keys that the member has created in the organization, and notifies the removed user by
/// mail. An actor who removes themselves leaves the organization, and gets no mail.
///
/// # Errors
/// As [`update`], without [`Error::PreconditionFailed`].
pub async fn remove(app: &App, actor: &Actor, access: &OrgAccess, user_id: i64) -> Result<()> {
    change(app, actor, Affected::Actor, async |tx, _| {
        let locked = org_access::lock(tx, access).await?;
        let member = find_changeable(tx, &locked, user_id).await?;
        end_membership(tx, &locked, &member).await?;
        if user_id == locked.actor.user_id {
            return Ok(());
        }
        let Some(user) = User::find(tx, user_id).await? else { return Ok(()) };
        let notice = Notice::MemberRemoved { organization: locked.org.name.clone() };
        OutboxMessage::notice(&user, notice).send(tx).await
    })
    .await
}

/// Ends the membership of the actor, and revokes the API keys that the actor has created in the organization.
///
/// # Errors
/// [`Error::LastOwner`] if the actor is the owner; those of [`org_access::lock`] and [`change`].
pub async fn leave(app: &App, actor: &Actor, access: &OrgAccess) -> Result<()> {
    change(app, actor, Affected::Actor, async |tx, _| {
        let locked = org_access::lock(tx, access).await?;
        let member = find_changeable(tx, &locked, locked.actor.user_id).await?;
        end_membership(tx, &locked, &member).await
    })
    .await
}

const NOT_A_MEMBER: Error = Error::NotFound("Member");

/// Returns a member whom the actor may change: any member except the owner.
async fn find_changeable(tx: &Tx<'_>, locked: &LockedOrg, user_id: i64) -> Result<Membership> {
    let member = Membership::find(tx, locked.org.id, user_id).await?.ok_or(NOT_A_MEMBER)?;
    if member.role == OrgRole::Owner {
        return Err(match user_id == locked.actor.user_id {
            true => Error::LastOwner(format!("You are the owner of {}: transfer it first", locked.org.name)),
            false => Error::RoleTooHigh(OWNER_NEEDS_TRANSFER),
        });
    }
    Ok(member)
}

/// Deletes a membership, and revokes the API keys that the member has created. The action of the audit entry shows
/// whether the member left or was removed.
async fn end_membership(tx: &Tx<'_>, locked: &LockedOrg, member: &Membership) -> Result<()> {
    if Membership::delete(tx, member.org_id, member.user_id).await? == 0 {
        return Err(NOT_A_MEMBER);
    }
    // Without this revocation, the keys would be valid again if the user rejoined.
    revoke_of_member(tx, member.org_id, member.user_id).await?;
    let action = match member.user_id == locked.actor.user_id {
        true => Action::MemberLeft,
        false => Action::MemberRemoved,
    };
    Entry::member(member.org_id, member.user_id, action).before(fields(member)).write(tx).await
}

fn fields(member: &Membership) -> Value {
    json!({ "role": member.role.as_str(), "suspended": member.suspended_at.is_some() })
}

/// Refuses the deletion of an account that owns an organization with other members. Returns the organizations in which the
/// owner is the only member, which are deleted with the account. Ignores organizations whose deletion is scheduled. The caller
/// must have locked the user.
///
/// # Errors
/// [`Error::LastOwner`] with the names of up to three organizations that have other members; [`Error::Unavailable`] if PostgreSQL
/// does not answer.
pub(super) async fn ensure_not_owner_of_others(tx: &Tx<'_>, user_id: i64) -> Result<Vec<Organization>> {
    let (mut own, mut shared) = (Vec::new(), Vec::new());
    for org in Membership::lock_owned(tx, user_id).await? {
        match Membership::count_of_org(tx, org.id).await? {
            0 | 1 => own.push(org),
            _ => shared.push(org),
        }
    }
    if shared.is_empty() {
        return Ok(own);
    }
    let names: Vec<_> = shared.iter().take(3).map(|org| format!("{} (id {})", org.name, org.id)).collect();
    let more = match shared.len() {
        0..=3 => String::new(),
        number => format!(" and {} more", number - 3),
    };
    Err(Error::LastOwner(format!(
        "This account is the owner of organizations with other members: {}{more}. Transfer them or remove the other members \
         first",
        names.join(", ")
    )))
}

/// Schedules the erasure of the organizations that are deleted with an account. The nightly job erases them in batches. The
/// erasure is due at once, so it cannot be canceled.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn delete_with_account(tx: &Tx<'_>, orgs: &[Organization]) -> Result<()> {
    for org in orgs {
        org_erasure::schedule_now(tx, org.id).await?;
    }
    Ok(())
}
