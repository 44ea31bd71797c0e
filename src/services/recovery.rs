//! The actions of links in mails: verify an address, confirm a new address, reset a password, accept an invitation to the
//! product. Also the requests for new links.
//!
//! A link works once, for a limited time, and only by POST. The database stores only the hash of its token (OWASP
//! Forgot Password Cheat Sheet).

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

/// Sends a new verification link, if the address belongs to an active user and is not verified. The result and the response
/// time are the same for any other address. If too many links to the address were requested, sends none and returns no error.
///
/// # Errors
/// [`Error::TooManyAttempts`] if clients in the client's network ask for too many mails; [`Error::Unavailable`] if PostgreSQL
/// does not answer.
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

/// Sends a link to reset the password, if the address belongs to an active user. The result and the response time are the same
/// for any other address. If too many links to the address were requested, sends none and returns no error.
///
/// # Errors
/// As [`resend_verification`].
pub async fn forgot_password(app: &App, context: &RequestContext, email: &str) -> Result<()> {
    let email = EmailLookup::new(email).stored;
    request_link(app, context, Purpose::ResetPassword, &email.clone(), OutboxMessage::ResetPassword { email })
        .await
}

/// Enqueues a message with a link, within the rate limits of mails.
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
        // Returns no error, because an error would show that others have requested mails to this address.
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
/// Locks the user before the tokens of the user, like the other transactions that lock both, to avoid deadlocks.
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
/// [`Error::InvalidLink`] for an unknown, used or expired token, for an inactive user, or if the address of the user has
/// changed since the link was sent; [`Error::Unavailable`] if PostgreSQL does not answer.
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

/// Replaces the address of the user with the address that the link was sent to, which then counts as verified. Revokes all
/// links and login challenges of the user, and sends a notice to the old address.
///
/// # Errors
/// [`Error::InvalidLink`] for an unknown, used or expired token, for an inactive user, if the user has since requested another
/// address or canceled the change, or if this release does not accept the address; [`Error::EmailTaken`] if another user has
/// the address; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn confirm_email(app: &App, context: &RequestContext, token: &str) -> Result<()> {
    change_without_actor(app, context, async |tx| {
        let (user, email) = consume_token(tx, token, Purpose::ChangeEmail).await?;
        // The user may have since requested another address, or canceled the change.
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

/// Sets a new password, revokes all sessions, links and login challenges of the user, and notifies the user by mail. Also marks
/// the address as verified, cancels a scheduled deletion of the account and a pending change of the address, and resets the
/// client's counters of failed passwords and the user's count of wrong codes. If the address was not verified before, also
/// revokes the user's API keys and sent invitations.
///
/// # Errors
/// [`Error::InvalidLink`] as for [`verify_email`]; [`Error::Invalid`] if [`check_not_personal`] refuses the password;
/// [`Error::TooManyAttempts`] after too many password hashes for this user from the network of the client; [`Error::Unavailable`]
/// if too many passwords are being hashed or PostgreSQL does not answer.
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

/// Sets the password of an invited user, and the name if `full_name` is given. Marks the address as verified.
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

/// A new password, and the token of the link that allows the change.
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
    // An invalid token must not cost a bcrypt hash, so the token is checked first. It is consumed after hashing,
    // because hashing is too slow for a transaction.
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
            // Resets the count of wrong codes: an attacker with the old password can no longer enter codes.
            TwoFactor::reset_failures(tx, user.id).await?;
            // The notice uses `user`, the state before the change. If the address was not verified, a stranger may have
            // chosen the name, so the notice omits it.
            OutboxMessage::notice(&user, Notice::PasswordReset).send(tx).await?;
        }
        Ok(after)
    })
    .await
}

/// Gives an account to a person who has proven to own its address: sets the password, marks the address as verified, revokes
/// all sessions and links, and cancels a scheduled deletion. So another person, who may have registered the address earlier,
/// loses access. If the address was not verified before, that person may also have created API keys and sent invitations in the
/// name of the owner, so these keys and invitations are revoked. `full_name` is the new name, `Some(None)` to remove the name,
/// or `None` to keep the name.
///
/// The caller must have locked the user.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
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
