//! Operations of the holder of an invitation link who is not signed in: preview, register, decline.
//!
//! If the token was only in the mail, the holder of the token reads the mails to the address, so [`register`] creates a
//! verified account. Another person may have registered the address earlier, with a known password, to get into the account
//! later (pre-hijacking). While such an account is active and its address is not verified, [`register`] replaces its password and
//! its name, and revokes its sessions, links and API keys, and the invitations that it has sent. The owner of a verified account
//! has to sign in instead.
//!
//! Without a mail server, the inviter receives the link. A token from such a link neither verifies the address nor
//! replaces a password.

use chrono::Utc;

use super::{
    audit::{Action, Entry, audit_fields},
    invitation_claims::{check_pending, end_declined, join, lock_by_token},
    organizations::MyOrganization,
    outbox::OutboxMessage,
    personal_orgs,
    recovery::take_over,
    security_event::{Event, SecurityEvent},
    throttle::Throttle,
    transaction::change_without_actor,
    users::{USER_COUNT, check_not_personal, map_email_taken},
};
use crate::{
    app::App,
    context::RequestContext,
    db::Tx,
    email_address::EmailLookup,
    error::{Error, Result},
    mail::Notice,
    models::{
        invitation::Invitation,
        invitation_list::InvitationDetails,
        user::{NewUser, Role, User},
    },
    security,
};

/// The part of an invitation that the holder of its link may see.
pub struct Preview {
    pub details: InvitationDetails,
    /// Whether the holder of the link can [`register`]. False if the address has an account that the token must not take over.
    pub can_register: bool,
}

/// The input of [`register`]. Not `Debug`, so that no log contains the password or the token.
pub struct SignUp<'a> {
    pub token: &'a str,
    pub password: String,
    pub full_name: Option<String>,
}

/// Returns the preview of a pending invitation for the holder of its token.
///
/// # Errors
/// [`Error::InvitationInvalid`]; [`Error::InvitationExpired`]; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn preview(app: &App, token: &str) -> Result<Preview> {
    let hash = security::hash(token);
    let found = app.db.run(async |conn| Ok(InvitationDetails::find_by_token(conn, &hash).await?)).await?;
    let details = found.ok_or(Error::InvitationInvalid)?;
    check_pending(&details.invitation)?;
    let owner = find_owner(app, &details.invitation).await?;
    let can_register = owner.is_none_or(|owner| may_take_over(&details.invitation, &owner));
    Ok(Preview { details, can_register })
}

/// Declines an invitation by the token of its link, and notifies the inviter by mail. Needs no account.
///
/// # Errors
/// [`Error::InvitationInvalid`]; [`Error::InvitationExpired`]; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn decline(app: &App, context: &RequestContext, token: &str) -> Result<()> {
    let hash = security::hash(token);
    change_without_actor(app, context, async |tx| {
        tx.set_identities_unchanged();
        let (org, invitation) = lock_by_token(tx, &hash).await?;
        end_declined(tx, &org, &invitation).await
    })
    .await
}

/// Creates an account with the invited address, and makes the account a member. A new account gets a personal organization if
/// `PERSONAL_ORGANIZATIONS` is on. If the token does not verify the address, a mail with a verification link is enqueued. The
/// inviter gets a mail.
///
/// If an active, unverified account has the address, and only a mail contained the token, takes this account over instead:
/// replaces the password and the name, marks the address as verified, and cancels a scheduled deletion of the account. Also
/// revokes its sessions, links, login challenges and API keys, and the invitations that it has sent, and notifies the account by
/// mail.
///
/// # Errors
/// [`Error::InvitationInvalid`]; [`Error::InvitationExpired`]; [`Error::EmailTaken`] if the address has an account that the
/// token must not take over; [`Error::Invalid`] for the password; [`Error::TooManyAttempts`] after too many password hashes for
/// this address from the network of the client; [`Error::SeatLimit`]; [`Error::MembershipLimit`]; [`Error::Unavailable`] if too
/// many passwords are being hashed or PostgreSQL does not answer.
pub async fn register(app: &App, context: &RequestContext, new: SignUp<'_>) -> Result<MyOrganization> {
    // An invalid token must not cost a bcrypt hash, so the token is checked first. The invitation is claimed after
    // hashing, because hashing is too slow for a transaction.
    let hash = security::hash(new.token);
    let found = app.db.run(async |conn| Ok(Invitation::find_by_token(conn, &hash).await?)).await?;
    let invitation = found.ok_or(Error::InvitationInvalid)?;
    check_pending(&invitation)?;
    let owner = find_owner(app, &invitation).await?;
    if owner.is_some_and(|owner| !may_take_over(&invitation, &owner)) {
        return Err(Error::EmailTaken);
    }
    let full_name = new.full_name.as_deref();
    check_not_personal("password", &new.password, &invitation.email, full_name)?;
    Throttle::hash(app, context, &invitation.email)?;
    let hashed_password = app.passwords.hash(new.password).await?;

    let (done, registered) = change_without_actor(app, context, async |tx| {
        let (user, is_new) = claim_account(app, tx, &invitation, &hashed_password, full_name).await?;
        let (org, invitation) = lock_by_token(tx, &hash).await?;
        let done = join(app, tx, org, &invitation, &user).await?;
        Ok((done, is_new.then_some(user.id)))
    })
    .await?;
    if registered.is_some() {
        app.cache.invalidate(USER_COUNT).await;
        let event = SecurityEvent::new(Event::UserRegistered).user(registered);
        event.email(&invitation.email).log(app, context);
    }
    Ok(done)
}

async fn find_owner(app: &App, invitation: &Invitation) -> Result<Option<User>> {
    let lookup = EmailLookup::new(&invitation.email);
    app.db.run(async |conn| Ok(User::find_by_email(conn, &lookup).await?)).await
}

/// Returns whether the holder of the token may replace the password of an account with the invited address.
fn may_take_over(invitation: &Invitation, owner: &User) -> bool {
    owner.is_active && owner.email_verified_at.is_none() && !invitation.link_shown
}

/// Creates the account of the invited address, or takes over an unverified account. Returns the account, and whether it
/// is new.
async fn claim_account(
    app: &App,
    tx: &Tx<'_>,
    invitation: &Invitation,
    hashed_password: &str,
    full_name: Option<&str>,
) -> Result<(User, bool)> {
    if let Some(owner) = User::find_by_email(tx, &EmailLookup::new(&invitation.email)).await? {
        let owner = User::lock(tx, owner.id).await?.filter(|owner| may_take_over(invitation, owner));
        let owner = owner.ok_or(Error::EmailTaken)?;
        // Replaces the name too, because another person may have chosen it.
        let user = take_over(tx, &owner, hashed_password, Some(full_name), Action::PasswordReset).await?;
        OutboxMessage::notice(&owner, Notice::PasswordReset).send(tx).await?;
        return Ok((user, false));
    }
    let row = NewUser {
        email: &invitation.email,
        hashed_password: Some(hashed_password),
        full_name,
        role: Role::User,
        email_verified_at: (!invitation.link_shown).then(Utc::now),
    };
    let user = map_email_taken(row.insert(tx).await)?;
    let entry = Entry::by_self(user.id, Action::UserRegistered);
    entry.after(audit_fields(&user).into()).write(tx).await?;
    if user.email_verified_at.is_none() {
        OutboxMessage::VerifyEmail { user_id: user.id }.send(tx).await?;
    }
    personal_orgs::create(tx, &user, &app.config.organizations.personal).await?;
    Ok((user, true))
}
