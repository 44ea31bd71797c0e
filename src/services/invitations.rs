//! Operations of members on invitations: send, resend, revoke. `invitation_claims` and `invitation_guests` contain the
//! operations of the invited person.
//!
//! Members and pending invitations count against the same seat limit of an organization. The lock of the organization serializes
//! concurrent invitations, so that they cannot exceed the limit together.

use serde_json::{Value, json};

use super::{
    actor::{Actor, Affected},
    audit::{Action, Entry},
    idempotency::{Answered, Once},
    invitation_link::InvitationLink,
    org_access::{self, LockedOrg, OrgAccess},
    org_change::change_members_once,
    outbox::OutboxMessage,
    throttle::Throttle,
    transaction::change,
    users::parse_email,
};
use crate::{
    app::App,
    db::Tx,
    email_address::EmailLookup,
    error::{Error, Result},
    models::{
        invitation::{Ending, Invitation, InvitationState, NewInvitation, NewLink},
        membership::{Membership, OrgRole},
        user::User,
    },
};

const NOT_FOUND: Error = Error::NotFound("Invitation");
const OWNER_NEEDS_TRANSFER: &str = "Only a transfer makes a member the owner of an organization";
const ABOVE_OWN_ROLE: &str = "This role is above your own";

/// An invitation with a new link.
pub struct IssuedInvitation {
    pub invitation: Invitation,
    /// The link, for the inviter to pass on. `None` if a mail contains the link.
    pub link: Option<String>,
}

/// Returns an invitation of an organization.
///
/// # Errors
/// [`Error::NotFound`] if the organization has no such invitation; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn find(app: &App, access: &OrgAccess, id: i64) -> Result<Invitation> {
    let org_id = access.org_id();
    let found = app.db.run(async |conn| Ok(Invitation::find_in_org(conn, org_id, id).await?)).await?;
    found.ok_or(NOT_FOUND)
}

/// Invites the owner of an address by mail, at most once for the idempotency key of the request. Without a mail server, the
/// answer contains the link. Revokes an earlier open invitation to the address.
///
/// # Errors
/// [`Error::Invalid`] for the address; [`Error::RoleTooHigh`] for the role `owner` and for a role above the actor's;
/// [`Error::AlreadyMember`]; [`Error::SeatLimit`]; [`Error::TooManyAttempts`] after many invitations by the actor or to
/// the mailbox; [`Error::IdempotencyNotSupported`] for a request with a key if the answer contains the link; those of
/// [`change_members_once`].
pub async fn invite(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    once: &Once<'_, IssuedInvitation>,
    email: &str,
    role: OrgRole,
) -> Result<Answered> {
    let address = parse_email(email)?;
    refuse_to_store_link(app, once)?;
    let throttle =
        async || Throttle::org_invitation(app, actor.context(), actor.user().id, &address.stored).await;
    change_members_once(app, actor, access, once, throttle, async |tx, locked| {
        check_role(locked, role)?;
        let org_id = locked.org.id;
        let earlier = Invitation::find_open(tx, org_id, &address.key).await?.map(|earlier| earlier.id);
        ensure_seat(app, tx, org_id, &address.stored, earlier).await?;
        if let Some(earlier) = earlier {
            Invitation::end(tx, earlier, Ending::Revoked).await?;
        }
        let link = InvitationLink::new(app)?;
        let shown = link.for_inviter(app);
        let row = NewInvitation {
            org_id,
            email: &address.stored,
            email_key: &address.key,
            role,
            invited_by: locked.actor.user_id,
            link_id: link.id,
            token_hash: link.hash(),
            link_shown: shown.is_some(),
        };
        let invitation = row.insert(tx).await?;
        let before = json!({ "replaced": earlier });
        send(tx, invitation, Action::InvitationCreated, before, shown).await
    })
    .await
}

/// Sends an invitation again, with a new link. The old link becomes invalid, the actor becomes the inviter, and the
/// lifetime of seven days starts again.
///
/// # Errors
/// [`Error::NotFound`] if the organization has no such invitation; [`Error::Conflict`] if the invitation was accepted, declined
/// or revoked; and those of [`invite`].
pub async fn resend(
    app: &App,
    actor: &Actor,
    access: &OrgAccess,
    once: &Once<'_, IssuedInvitation>,
    id: i64,
) -> Result<Answered> {
    refuse_to_store_link(app, once)?;
    let (org_id, email) = (access.org_id(), find(app, access, id).await?.email);
    let throttle = async || Throttle::org_invitation(app, actor.context(), actor.user().id, &email).await;
    change_members_once(app, actor, access, once, throttle, async |tx, locked| {
        let before = find_open(tx, org_id, id).await?;
        check_role(locked, before.role)?;
        ensure_seat(app, tx, org_id, &before.email, Some(id)).await?;
        let link = InvitationLink::new(app)?;
        let shown = link.for_inviter(app);
        let row = NewLink {
            invited_by: locked.actor.user_id,
            link_id: link.id,
            token_hash: link.hash(),
            link_shown: shown.is_some(),
        };
        let after = Invitation::renew(tx, id, &row).await?;
        send(tx, after, Action::InvitationResent, fields(&before), shown).await
    })
    .await
}

/// Revokes an open invitation. Does nothing if it is already revoked.
///
/// # Errors
/// [`Error::NotFound`] if the organization has no such invitation; [`Error::Conflict`] if the invitation was accepted or
/// declined; those of [`org_access::lock`] and [`change`].
pub async fn revoke(app: &App, actor: &Actor, access: &OrgAccess, id: i64) -> Result<()> {
    change(app, actor, Affected::Actor, async |tx, _| {
        tx.set_identities_unchanged();
        let org_id = org_access::lock(tx, access).await?.org.id;
        let found = Invitation::find_in_org(tx, org_id, id).await?.ok_or(NOT_FOUND)?;
        if found.state == InvitationState::Revoked {
            return Ok(());
        }
        let invitation = find_open(tx, org_id, id).await?;
        Invitation::end(tx, id, Ending::Revoked).await?;
        let entry = Entry::invitation(org_id, id, Action::InvitationRevoked);
        entry.before(fields(&invitation)).write(tx).await
    })
    .await
}

/// Revokes all open, unexpired invitations whose current link a user has sent, when another person takes over the account. Writes
/// audit entries, and sends no mail.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn revoke_of_inviter(tx: &Tx<'_>, user_id: i64) -> Result<()> {
    let revoked = Invitation::revoke_of_inviter(tx, user_id).await?;
    let entries = revoked.into_iter().map(|(org_id, id)| {
        let entry = Entry::invitation(org_id, id, Action::InvitationRevoked);
        entry.after(json!({ "reason": "account_taken_over" }))
    });
    Entry::write_all(entries.collect(), tx).await
}

/// Writes the audit entry and the mail of an invitation with a new link.
async fn send(
    tx: &Tx<'_>,
    invitation: Invitation,
    action: Action,
    before: Value,
    link: Option<String>,
) -> Result<IssuedInvitation> {
    let entry = Entry::invitation(invitation.org_id, invitation.id, action);
    entry.before(before).after(fields(&invitation)).write(tx).await?;
    let message = OutboxMessage::OrgInvitation { invitation_id: invitation.id, link_id: invitation.link_id };
    message.send(tx).await?;
    Ok(IssuedInvitation { invitation, link })
}

/// Refuses an idempotency key if the answer contains the link, because the database would then store the link. Inviting
/// again without a key is safe: it revokes the earlier invitation.
fn refuse_to_store_link(app: &App, once: &Once<'_, IssuedInvitation>) -> Result<()> {
    match once.has_key() && !app.mailer.can_send() {
        true => Err(Error::IdempotencyNotSupported),
        false => Ok(()),
    }
}

/// Checks that the actor may grant a role.
fn check_role(locked: &LockedOrg, role: OrgRole) -> Result<()> {
    if role == OrgRole::Owner {
        return Err(Error::RoleTooHigh(OWNER_NEEDS_TRANSFER));
    }
    match role > locked.actor.role {
        true => Err(Error::RoleTooHigh(ABOVE_OWN_ROLE)),
        false => Ok(()),
    }
}

/// Returns an invitation that is not accepted, declined or revoked. It may be pending, expired or void.
async fn find_open(tx: &Tx<'_>, org_id: i64, id: i64) -> Result<Invitation> {
    use InvitationState::*;
    let invitation = Invitation::find_in_org(tx, org_id, id).await?.ok_or(NOT_FOUND)?;
    match invitation.state {
        Pending | Expired | Void => Ok(invitation),
        Accepted => Err(Error::Conflict("The invitation was accepted")),
        Declined => Err(Error::Conflict("The invitation was declined; invite the address again")),
        Revoked => Err(Error::Conflict("The invitation was revoked; invite the address again")),
    }
}

/// Checks that the address does not belong to a member, and that the organization has a free seat. The invitation with
/// the id `except` does not take a seat.
async fn ensure_seat(app: &App, tx: &Tx<'_>, org_id: i64, email: &str, except: Option<i64>) -> Result<()> {
    if let Some(user) = User::find_by_email(tx, &EmailLookup::new(email)).await?
        && Membership::find(tx, org_id, user.id).await?.is_some()
    {
        return Err(Error::AlreadyMember);
    }
    let limit = app.config.organizations.max_organization_seats;
    let taken =
        Membership::count_of_org(tx, org_id).await? + Invitation::count_pending(tx, org_id, except).await?;
    match taken < i64::from(limit) {
        true => Ok(()),
        false => Err(Error::SeatLimit { limit }),
    }
}

/// Returns the fields of an invitation for the audit trail.
pub(super) fn fields(invitation: &Invitation) -> Value {
    json!({ "email": invitation.email, "role": invitation.role.as_str() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{models::invitation::INVITER_ROLES, services::permissions::Permission};

    /// The SQL that computes the state of an invitation repeats [`INVITER_ROLES`].
    #[test]
    fn inviter_roles_are_the_roles_that_may_invite_and_grant_every_role_except_owner() {
        let may_invite = |role: &OrgRole| role.may(Permission::MemberWrite);
        let inviters: Vec<_> = OrgRole::ALL.iter().copied().filter(may_invite).collect();
        assert_eq!(inviters, INVITER_ROLES);
        assert!(inviters.iter().all(|role| *role >= OrgRole::Admin));
    }
}
