//! Operations of an invited user with an account: list the invitations to the user's own address, accept, decline.
//!
//! To accept or decline an invitation is to claim it. A claim locks the user, then the organization, then the invitation. So an
//! invitation is claimed at most once, and the inviter's role does not change during the claim: the inviter must still be
//! allowed to invite. The account must have the invited address, and must have verified it, because anyone can register an
//! address that belongs to another person.
//!
//! Without a mail server, no user can verify an address and no invitation can be mailed, so the inviter receives the link and
//! passes the link on. A claim by the token of such a link does not require a verified address.

use super::{
    actor::{Actor, Affected},
    audit::{Action, Entry},
    invitations::fields,
    members,
    organizations::MyOrganization,
    outbox::OutboxMessage,
    transaction::change,
};
use crate::{
    app::App,
    db::Tx,
    email_address::EmailLookup,
    error::{Error, Result},
    mail::Notice,
    models::{
        invitation::{Ending, Invitation, InvitationState},
        invitation_list::{DetailsFilter, InvitationDetails},
        membership::Membership,
        organization::Organization,
        user::User,
    },
    security,
};

const NOT_FOUND: Error = Error::NotFound("Invitation");

/// How a signed-in user identifies an invitation.
#[derive(Clone, Copy)]
pub enum Claim<'a> {
    /// By the token of its link.
    Token(&'a str),
    /// By its id. The invitation must be for the verified address of the user.
    Id(i64),
}

/// Returns at most `limit` pending invitations to the address of the actor, the newest first. With `before`, only invitations
/// with a lower id. Returns an empty list if the address is not verified or is invalid.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn list(
    app: &App,
    actor: &Actor,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<InvitationDetails>> {
    let Some(key) = verified_key(actor.user()) else { return Ok(Vec::new()) };
    let (email_key, state) = (Some(key.as_str()), Some(InvitationState::Pending));
    let filter = DetailsFilter { email_key, state, before, limit, ..Default::default() };
    app.db.run(async |conn| Ok(InvitationDetails::load(conn, &filter).await?)).await
}

/// Accepts an invitation, makes the actor a member, and notifies the inviter by mail. If the actor is already a member, the
/// membership does not change.
///
/// # Errors
/// [`Error::InvitationInvalid`] if the token is unknown, or the invitation is neither pending nor expired; [`Error::NotFound`] if
/// no invitation to the verified address of the actor has the given id; [`Error::InvitationExpired`];
/// [`Error::InvitationOtherAddress`]; [`Error::EmailNotVerified`] if the actor has not verified the
/// address, unless the inviter received the link; [`Error::SeatLimit`]; [`Error::MembershipLimit`]; and those of [`change`].
pub async fn accept(app: &App, actor: &Actor, claim: Claim<'_>) -> Result<MyOrganization> {
    change(app, actor, Affected::Actor, async |tx, locked| {
        let user = locked.actor();
        let (org, invitation) = lock_claimed(tx, claim, user).await?;
        check_address(&invitation, user)?;
        join(app, tx, org, &invitation, user).await
    })
    .await
}

/// Declines an invitation to the actor, by its id, and notifies the inviter by mail.
///
/// # Errors
/// [`Error::NotFound`] as for [`accept`]; [`Error::InvitationInvalid`]; [`Error::InvitationExpired`]; and those of [`change`].
pub async fn decline(app: &App, actor: &Actor, id: i64) -> Result<()> {
    change(app, actor, Affected::Actor, async |tx, locked| {
        tx.set_identities_unchanged();
        let (org, invitation) = lock_claimed(tx, Claim::Id(id), locked.actor()).await?;
        end_declined(tx, &org, &invitation).await
    })
    .await
}

/// Returns the normalized address ([key](crate::email_address::EmailAddress::key)) of a user. `None` if the address is not
/// verified, or is invalid.
fn verified_key(user: &User) -> Option<String> {
    user.email_verified_at.and_then(|_| EmailLookup::new(&user.email).key)
}

async fn lock_claimed(tx: &Tx<'_>, claim: Claim<'_>, user: &User) -> Result<(Organization, Invitation)> {
    match claim {
        Claim::Token(token) => lock_by_token(tx, &security::hash(token)).await,
        Claim::Id(id) => {
            let key = verified_key(user).ok_or(NOT_FOUND)?;
            let found = Invitation::find_addressed(tx, id, &key).await?.ok_or(NOT_FOUND)?;
            lock(tx, &found).await
        }
    }
}

/// Locks the organization and the invitation of a token, as [`lock`] does.
///
/// # Errors
/// [`Error::InvitationInvalid`]; [`Error::InvitationExpired`]; [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn lock_by_token(tx: &Tx<'_>, hash: &[u8]) -> Result<(Organization, Invitation)> {
    let found = Invitation::find_by_token(tx, hash).await?.ok_or(Error::InvitationInvalid)?;
    let (org, invitation) = lock(tx, &found).await?;
    // A concurrent resend may have replaced the link before the lock was taken.
    match invitation.token_hash == hash {
        true => Ok((org, invitation)),
        false => Err(Error::InvitationInvalid),
    }
}

/// Locks the organization, then the invitation, and checks that the invitation is pending.
async fn lock(tx: &Tx<'_>, found: &Invitation) -> Result<(Organization, Invitation)> {
    let org = Organization::lock(tx, found.org_id).await?.ok_or(Error::InvitationInvalid)?;
    let invitation = Invitation::lock(tx, found.id).await?.ok_or(Error::InvitationInvalid)?;
    check_pending(&invitation)?;
    Ok((org, invitation))
}

/// Checks that an invitation is pending.
///
/// # Errors
/// [`Error::InvitationExpired`] if it is expired; [`Error::InvitationInvalid`] in any other state than pending.
pub(super) fn check_pending(invitation: &Invitation) -> Result<()> {
    match invitation.state {
        InvitationState::Pending => Ok(()),
        InvitationState::Expired => Err(Error::InvitationExpired),
        _ => Err(Error::InvitationInvalid),
    }
}

/// Checks that the invitation is for the address of the user. The user must have verified the address, unless the
/// inviter received the link.
fn check_address(invitation: &Invitation, user: &User) -> Result<()> {
    if EmailLookup::new(&user.email).subject() != invitation.email_key {
        return Err(Error::InvitationOtherAddress(masked(&invitation.email)));
    }
    match user.email_verified_at.is_some() || invitation.link_shown {
        true => Ok(()),
        false => Err(Error::EmailNotVerified),
    }
}

/// Makes a user a member, unless the user already is a member, marks the invitation as accepted, and notifies the inviter.
/// Checks the seat limit again for a new member, because the limit may be lower than when the invitation was sent.
///
/// # Errors
/// [`Error::SeatLimit`]; [`Error::MembershipLimit`]; [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn join(
    app: &App,
    tx: &Tx<'_>,
    org: Organization,
    invitation: &Invitation,
    user: &User,
) -> Result<MyOrganization> {
    let membership = match Membership::find(tx, org.id, user.id).await? {
        // An invitation neither changes the role of an existing member nor ends a suspension.
        Some(membership) => membership,
        None => {
            let limit = app.config.organizations.max_organization_seats;
            if Membership::count_of_org(tx, org.id).await? >= i64::from(limit) {
                return Err(Error::SeatLimit { limit });
            }
            members::join(tx, org.id, user.id, invitation.role).await?
        }
    };
    Invitation::end(tx, invitation.id, Ending::Accepted).await?;
    let entry = Entry::invitation(org.id, invitation.id, Action::InvitationAccepted).by(user.id);
    entry.after(fields(invitation)).write(tx).await?;
    let notice =
        Notice::InvitationAccepted { organization: org.name.clone(), email: invitation.email.clone() };
    notify_inviter(tx, invitation, notice).await?;
    Ok((org, membership))
}

/// Marks an invitation as declined, and notifies the inviter.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn end_declined(tx: &Tx<'_>, org: &Organization, invitation: &Invitation) -> Result<()> {
    Invitation::end(tx, invitation.id, Ending::Declined).await?;
    let entry = Entry::invitation(org.id, invitation.id, Action::InvitationDeclined);
    entry.before(fields(invitation)).write(tx).await?;
    let notice =
        Notice::InvitationDeclined { organization: org.name.clone(), email: invitation.email.clone() };
    notify_inviter(tx, invitation, notice).await
}

async fn notify_inviter(tx: &Tx<'_>, invitation: &Invitation, notice: Notice) -> Result<()> {
    let Some(id) = invitation.invited_by else { return Ok(()) };
    match User::find(tx, id).await? {
        Some(inviter) => OutboxMessage::notice(&inviter, notice).send(tx).await,
        None => Ok(()),
    }
}

/// Returns an address with most of its local part hidden, such as `a***@example.com`. A person with several accounts recognizes
/// the right address, but the holder of a stolen link does not learn the address.
pub fn masked(email: &str) -> String {
    let (local, domain) = email.rsplit_once('@').unwrap_or((email, ""));
    let first: String = local.chars().take(usize::from(local.chars().count() > 2)).collect();
    format!("{first}***@{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_address_hides_most_of_the_local_part() {
        for (email, wanted) in [
            ("ada@example.com", "a***@example.com"),
            ("él.lovelace@bücher.example", "é***@bücher.example"),
            ("ab@example.com", "***@example.com"),
            ("a@example.com", "***@example.com"),
        ] {
            assert_eq!(masked(email), wanted);
        }
    }
}
