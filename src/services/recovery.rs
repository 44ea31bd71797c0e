//! The actions of links in mails: verify an address, reset a password, accept an invitation.
//!
//! A link works once, by POST, for a limited time. Only the hash of its token is stored (OWASP Forgot Password Cheat
//! Sheet).

use chrono::Utc;
use diesel_async::AsyncPgConnection;

use super::{
    api_key_revocation::revoke_of_user,
    audit::{Action, Entry},
    invitations::revoke_of_inviter,
    outbox::OutboxMessage,
    sessions,
    throttle::{Recipient, Throttle},
    transaction::change_without_actor,
    users::{check_not_personal, map_email_taken},
};
use crate::{
    app::App,
    context::RequestContext,
    db::Tx,
    email_address::{EmailAddress, EmailLookup},
    error::{Error, Result},
    mail::Notice,
    models::{
        one_time_token::{OneTimeToken, Purpose},
        two_factor::TwoFactor,
        user::{User, UserChanges},
    },
    security,
};

/// Sends a new verification link, if the address belongs to an unverified user. The result and its time are
/// the same if it does not.
///
/// # Errors
/// [`Error::TooManyAttempts`] if the client asks for too many mails.
pub async fn resend_verification(app: &App, context: &RequestContext, email: &str) -> Result<()> {
    let email = EmailLookup::new(email).stored;
    request_link(
        app,
        context,
        Purpose::VerifyEmail,
        &email.clone(),
        OutboxMessage::ResendVerification { email },
    )
    .await
}

/// Sends a link to reset the password, if the address is registered. The result and its time are the same if
/// it is not.
///
/// # Errors
/// As [`resend_verification`].
pub async fn forgot_password(app: &App, context: &RequestContext, email: &str) -> Result<()> {
    let email = EmailLookup::new(email).stored;
    request_link(app, context, Purpose::ResetPassword, &email.clone(), OutboxMessage::ResetPassword { email })
        .await
}

/// Writes a message with a link to the outbox, within the limits of mails.
async fn request_link(
    app: &App,
    context: &RequestContext,
    purpose: Purpose,
    email: &str,
    message: OutboxMessage,
) -> Result<()> {
    Throttle::mail_by_client(app, context, email).await?;
    let lookup = EmailLookup::new(email);
    let owner = app.db.run(async |conn| Ok(User::find_by_email(conn, &lookup).await?)).await?;
    let recipient = match owner.is_some_and(|user| user.email_verified_at.is_some()) {
        true => Recipient::Verified(email),
        false => Recipient::Unverified(email),
    };
    if Throttle::mail_to_recipient(app, context, purpose.as_str(), recipient).await.is_err() {
        // An error would show that others have asked for mails to this address.
        return Ok(());
    }
    change_without_actor(app, context, async |tx| {
        tx.set_identities_unchanged();
        message.send(tx).await
    })
    .await
}

/// Locks the owner of a token, then consumes the token. Returns the owner and the address that the token was sent to.
///
/// The user is locked before the rows that belong to the user, as in all transactions, to avoid deadlocks.
async fn consume_token(
    conn: &AsyncPgConnection,
    token: &str,
    purpose: Purpose,
) -> Result<(User, Option<String>)> {
    let hash = security::hash(token);
    let owner = OneTimeToken::owner(conn, &hash, purpose).await?.ok_or(Error::InvalidLink)?;
    let user = User::lock(conn, owner.id).await?.filter(|user| user.is_active).ok_or(Error::InvalidLink)?;
    let token = OneTimeToken::consume(conn, &hash, purpose).await?.ok_or(Error::InvalidLink)?;
    Ok((user, token.email))
}

/// Marks the address that the link was sent to as verified.
///
/// # Errors
/// [`Error::InvalidLink`] for an unknown, used or expired token, or if the address of the user has changed since.
pub async fn verify_email(app: &App, context: &RequestContext, token: &str) -> Result<()> {
    change_without_actor(app, context, async |tx| {
        let (user, email) = consume_token(tx, token, Purpose::VerifyEmail).await?;
        if email.as_deref() != Some(&*user.email) {
            return Err(Error::InvalidLink);
        }
        let verified = UserChanges { email_verified_at: Some(Some(Utc::now())), ..Default::default() };
        let after = User::update(tx, user.id, &verified).await?;
        OneTimeToken::revoke(tx, user.id, &[Purpose::VerifyEmail]).await?;
        Entry::by_self(user.id, Action::EmailVerified).changed(&user, &after).write(tx).await
    })
    .await
}

/// Replaces the address of the user with the one that the link was sent to.
///
/// # Errors
/// [`Error::InvalidLink`] for an unknown, used or expired token, if the user has requested another address since, or if
/// an earlier release has accepted the address and this one does not; [`Error::EmailTaken`] if another user has the
/// address.
pub async fn confirm_email(app: &App, context: &RequestContext, token: &str) -> Result<()> {
    change_without_actor(app, context, async |tx| {
        let (user, email) = consume_token(tx, token, Purpose::ChangeEmail).await?;
        // The user may have requested another address or canceled the change since.
        let email = email.filter(|email| user.pending_email.as_ref() == Some(email));
        let email = EmailAddress::parse(&email.ok_or(Error::InvalidLink)?).map_err(|_| Error::InvalidLink)?;
        let changes = UserChanges {
            email: Some(&email.stored),
            pending_email: Some(None),
            email_verified_at: Some(Some(Utc::now())),
            ..Default::default()
        };
        let after = map_email_taken(User::update(tx, user.id, &changes).await)?;
        // Links that were sent to the old address must not stay valid.
        OneTimeToken::revoke(tx, user.id, Purpose::ALL).await?;
        Entry::by_self(user.id, Action::EmailChanged).changed(&user, &after).write(tx).await?;
        OutboxMessage::notice(&user, Notice::EmailChanged { new_email: Some(email.stored) }).send(tx).await
    })
    .await
}

/// Sets a new password and revokes all sessions of the user. Also marks the address as verified, and cancels a
/// scheduled deletion.
///
/// # Errors
/// [`Error::InvalidLink`] for an unknown, used or expired token; [`Error::Invalid`] if the password is the email
/// address or name of the user; [`Error::TooManyAttempts`] after many hashes for this user; [`Error::Unavailable`] if
/// too many passwords are being hashed.
pub async fn reset_password(
    app: &App,
    context: &RequestContext,
    token: &str,
    password: String,
) -> Result<()> {
    let request = PasswordByLink { token, password, full_name: None, purpose: Purpose::ResetPassword };
    let user = set_password(app, context, request, Action::PasswordReset).await?;
    Throttle::reset(app, context, &user).await;
    Ok(())
}

/// Sets the password of an invited user, and the name if there is one.
///
/// # Errors
/// As [`reset_password`].
pub async fn accept_invite(
    app: &App,
    context: &RequestContext,
    token: &str,
    password: String,
    full_name: Option<String>,
) -> Result<()> {
    let request = PasswordByLink { token, password, full_name, purpose: Purpose::AcceptInvite };
    set_password(app, context, request, Action::InviteAccepted).await.map(drop)
}

/// A new password and the token of the link that allows it.
struct PasswordByLink<'a> {
    token: &'a str,
    password: String,
    full_name: Option<String>,
    purpose: Purpose,
}

/// Sets the password of the owner of a link, and consumes the token of the link.
async fn set_password(
    app: &App,
    context: &RequestContext,
    request: PasswordByLink<'_>,
    action: Action,
) -> Result<User> {
    // An invalid token must not cost a bcrypt hash, so the token is checked first. It is consumed after
    // hashing, which is too slow for a transaction.
    let hash = security::hash(request.token);
    let owner = app.db.run(async |conn| Ok(OneTimeToken::owner(conn, &hash, request.purpose).await?)).await?;
    let owner = owner.ok_or(Error::InvalidLink)?;
    let name = request.full_name.as_deref().or(owner.full_name.as_deref());
    check_not_personal("password", &request.password, &owner.email, name)?;

    Throttle::hash(app, context, &owner.email)?;
    let hashed_password = app.passwords.hash(request.password).await?;
    change_without_actor(app, context, async |tx| {
        let (user, email) = consume_token(tx, request.token, request.purpose).await?;
        // The link verifies only the address that it was sent to.
        if email.as_deref() != Some(&*user.email) {
            return Err(Error::InvalidLink);
        }
        let full_name = request.full_name.as_deref().map(Some);
        let after = take_over(tx, &user, &hashed_password, full_name, action).await?;
        if request.purpose == Purpose::ResetPassword {
            // An attacker with the old password can no longer enter wrong codes, so their count starts again.
            TwoFactor::reset_failures(tx, user.id).await?;
            // The notice greets with the name before the change: a stranger may have chosen it if the address
            // was not verified.
            OutboxMessage::notice(&user, Notice::PasswordReset).send(tx).await?;
        }
        Ok(after)
    })
    .await
}

/// Gives an account to a person who has proven to own its address: sets the password, marks the address as verified, revokes
/// all sessions and links, and cancels a scheduled deletion. So another person, who may have registered the address earlier,
/// loses access. If the address was not verified before, that person may also have created API keys and sent invitations in the
/// name of the owner, so these are revoked. `full_name` is the new name, or `None` to keep it.
///
/// The caller has locked the user.
pub(super) async fn take_over(
    tx: &Tx<'_>,
    user: &User,
    hashed_password: &str,
    full_name: Option<Option<&str>>,
    action: Action,
) -> Result<User> {
    let changes = UserChanges {
        full_name,
        email_verified_at: Some(user.email_verified_at.or_else(|| Some(Utc::now()))),
        deletion_due_at: Some(None),
        ..UserChanges::password(hashed_password)
    };
    let after = User::update(tx, user.id, &changes).await?;
    sessions::revoke_access(tx, user.id, None, Purpose::ALL).await?;
    if user.email_verified_at.is_none() {
        revoke_of_user(tx, user.id).await?;
        revoke_of_inviter(tx, user.id).await?;
    }
    Entry::by_self(user.id, action).changed(user, &after).write(tx).await?;
    if user.deletion_due_at.is_some() {
        Entry::by_self(user.id, Action::UserDeletionCancelled).write(tx).await?;
    }
    Ok(after)
}
