//! What the links in mails do: confirm an address, set a forgotten password, take an invitation.
//!
//! Each works once, by POST, for a limited time; only hashes of their tokens are stored (OWASP Forgot Password Cheat
//! Sheet).

use chrono::Utc;
use diesel_async::AsyncPgConnection;

use super::{
    audit::{Action, Entry},
    outbox::OutboxMessage,
    throttle::Throttle,
    transaction::transaction,
    users::{check_about, normalize_email},
};
use crate::{
    app::App,
    context::RequestContext,
    error::{Error, OnConstraint, Result},
    mail::Notice,
    models::{
        one_time_token::{OneTimeToken, Purpose},
        session::Session,
        user::{User, UserChanges},
    },
    security,
};

/// Has a new link sent to confirm an address, if anybody needs one. The answer and its time do not depend on that.
///
/// # Errors
/// [`Error::TooManyAttempts`] where one place asks for too many.
pub async fn resend_verification(app: &App, context: &RequestContext, email: &str) -> Result<()> {
    let email = normalize_email(email);
    request(app, context, Purpose::VerifyEmail, &email.clone(), OutboxMessage::ResendVerification { email })
        .await
}

/// Has a link sent to set a new password, if anybody has the address. The answer and its time do not depend on that.
///
/// # Errors
/// As [`resend_verification`].
pub async fn forgot_password(app: &App, context: &RequestContext, email: &str) -> Result<()> {
    let email = normalize_email(email);
    request(app, context, Purpose::ResetPassword, &email.clone(), OutboxMessage::ResetPassword { email })
        .await
}

async fn request(
    app: &App,
    context: &RequestContext,
    purpose: Purpose,
    email: &str,
    message: OutboxMessage,
) -> Result<()> {
    match Throttle::mailbox(app, context, purpose, email).await? {
        0 => {
            transaction(app, context, async |tx| {
                tx.keeps_identities();
                message.send(tx).await
            })
            .await
        }
        // Nobody is to know.
        _ => Ok(()),
    }
}

/// Locks whose token it is, then takes it: everybody locks a user before what hangs on them.
async fn take(conn: &AsyncPgConnection, token: &str, purpose: Purpose) -> Result<(User, Option<String>)> {
    let hash = security::hash(token);
    let owner = OneTimeToken::owner(conn, &hash, purpose).await?.ok_or(Error::InvalidLink)?;
    let user = User::lock(conn, owner.id).await?.filter(|user| user.is_active).ok_or(Error::InvalidLink)?;
    let taken = OneTimeToken::take(conn, &hash, purpose).await?.ok_or(Error::InvalidLink)?;
    Ok((user, taken.email))
}

/// Confirms the address that the link was sent to.
///
/// # Errors
/// [`Error::InvalidLink`], also when the user has another address by now.
pub async fn verify_email(app: &App, context: &RequestContext, token: &str) -> Result<()> {
    transaction(app, context, async |tx| {
        let (user, email) = take(tx, token, Purpose::VerifyEmail).await?;
        if email.as_deref() != Some(&*user.email) {
            return Err(Error::InvalidLink);
        }
        let verified = UserChanges { email_verified_at: Some(Some(Utc::now())), ..Default::default() };
        let after = User::update(tx, user.id, &verified).await?;
        OneTimeToken::forget(tx, user.id, &[Purpose::VerifyEmail]).await?;
        Entry::by_themselves(user.id, Action::EmailVerified).changed(&user, &after).write(tx).await
    })
    .await
}

/// Gives the user the address that the link was sent to.
///
/// # Errors
/// [`Error::InvalidLink`]; [`Error::EmailTaken`] when somebody else has it by now.
pub async fn confirm_email(app: &App, context: &RequestContext, token: &str) -> Result<()> {
    transaction(app, context, async |tx| {
        let (user, email) = take(tx, token, Purpose::ChangeEmail).await?;
        // Another one may have been asked for since, or none.
        let email = email.filter(|email| user.pending_email.as_ref() == Some(email));
        let email = email.ok_or(Error::InvalidLink)?;
        let changes = UserChanges {
            email: Some(&email),
            pending_email: Some(None),
            email_verified_at: Some(Some(Utc::now())),
            ..Default::default()
        };
        let after =
            User::update(tx, user.id, &changes).await.on_constraint("users_email_key", Error::EmailTaken)?;
        // Links that went to the old address must not outlive it.
        OneTimeToken::forget(tx, user.id, Purpose::ALL).await?;
        Entry::by_themselves(user.id, Action::EmailChanged).changed(&user, &after).write(tx).await?;
        OutboxMessage::notice(&user, Notice::EmailChanged { new_email: email }).send(tx).await
    })
    .await
}

/// Sets a forgotten password and ends every session. It also proves the address, and stops a deletion.
///
/// # Errors
/// [`Error::InvalidLink`]; [`Error::Invalid`] for a password that says whose it is.
pub async fn reset_password(
    app: &App,
    context: &RequestContext,
    token: &str,
    password: String,
) -> Result<()> {
    let choice = PasswordByLink { token, password, full_name: None, purpose: Purpose::ResetPassword };
    let user = set_password(app, context, choice, Action::PasswordReset).await?;
    Throttle::reset(app, context, &user.email).await;

    Ok(())
}

/// Gives somebody who was invited a password, and a name where they tell one.
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
    let choice = PasswordByLink { token, password, full_name, purpose: Purpose::AcceptInvite };
    set_password(app, context, choice, Action::InviteAccepted).await.map(drop)
}

struct PasswordByLink<'a> {
    token: &'a str,
    password: String,
    full_name: Option<String>,
    purpose: Purpose,
}

async fn set_password(
    app: &App,
    context: &RequestContext,
    choice: PasswordByLink<'_>,
    action: Action,
) -> Result<User> {
    // A token that is no good is not worth a hash. It is looked at without being taken: hashing is slow, and no
    // transaction waits for it.
    let hash = security::hash(choice.token);
    let owner = app.db.run(async |conn| Ok(OneTimeToken::owner(conn, &hash, choice.purpose).await?)).await?;
    let owner = owner.ok_or(Error::InvalidLink)?;
    let name = choice.full_name.as_deref().or(owner.full_name.as_deref());
    check_about("password", &choice.password, &owner.email, name)?;

    let hashed_password = app.passwords.hash(choice.password).await?;
    transaction(app, context, async |tx| {
        let (user, email) = take(tx, choice.token, choice.purpose).await?;
        // The link went to this address; it proves no other.
        if email.as_deref() != Some(&*user.email) {
            return Err(Error::InvalidLink);
        }
        let changes = UserChanges {
            full_name: choice.full_name.as_deref().map(Some),
            email_verified_at: Some(user.email_verified_at.or_else(|| Some(Utc::now()))),
            deletion_due_at: Some(None),
            ..UserChanges::password(&hashed_password)
        };
        let after = User::update(tx, user.id, &changes).await?;
        Session::revoke_all(tx, user.id, None).await?;
        OneTimeToken::forget(tx, user.id, Purpose::ALL).await?;
        Entry::by_themselves(user.id, action).changed(&user, &after).write(tx).await?;
        if user.deletion_due_at.is_some() {
            Entry::by_themselves(user.id, Action::UserDeletionCancelled).write(tx).await?;
        }
        if choice.purpose == Purpose::ResetPassword {
            OutboxMessage::notice(&after, Notice::PasswordReset).send(tx).await?;
        }
        Ok(after)
    })
    .await
}
