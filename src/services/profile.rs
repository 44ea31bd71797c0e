//! What users do with their own account.

use chrono::{DateTime, Duration, Utc};

use super::{
    audit::{Action, Entry},
    login::confirm_password,
    outbox::OutboxMessage,
    throttle::Throttle,
    transaction::transaction,
    user_admin::ensure_another_admin,
    users::{check_about, normalize_email},
};
use crate::{
    app::App,
    context::RequestContext,
    error::{Error, Result},
    mail::Notice,
    models::{
        one_time_token::{OneTimeToken, Purpose},
        session::{Identity, Session},
        user::{User, UserChanges},
    },
};

/// Changes the password; the other sessions end (OWASP ASVS 5, 7.4.3).
///
/// # Errors
/// [`Error::WrongPassword`]; [`Error::Invalid`] for a new one that is easy to guess; [`Error::TooManyAttempts`].
pub async fn change_password(
    app: &App,
    context: &RequestContext,
    who: &Identity,
    current: String,
    new: String,
) -> Result<()> {
    let user = &who.user;
    check_about("new_password", &new, &user.email, user.full_name.as_deref())?;
    confirm_password(app, context, user, current).await?;
    let hashed_password = app.passwords.hash(new).await?;
    transaction(app, context, async |tx| {
        User::lock_checked(tx, user).await?.ok_or(Error::WrongPassword)?;
        User::update(tx, user.id, &UserChanges::password(&hashed_password)).await?;
        Session::revoke_all(tx, user.id, Some(who.session.id)).await?;
        // Whoever knew the old one may have begun these.
        let begun = [Purpose::ResetPassword, Purpose::ChangeEmail, Purpose::SecondFactor];
        OneTimeToken::forget(tx, user.id, &begun).await?;
        Entry::about(user.id, Action::PasswordChanged).write(tx).await?;
        OutboxMessage::notice(user, Notice::PasswordChanged).send(tx).await
    })
    .await
}

/// Has a link sent to a new address, which is taken on once that is opened; the old one is told.
///
/// # Errors
/// [`Error::WrongPassword`], [`Error::TooManyAttempts`]; [`Error::Unavailable`] without Redis.
pub async fn change_email(
    app: &App,
    context: &RequestContext,
    user: &User,
    new_email: &str,
    password: String,
) -> Result<()> {
    confirm_password(app, context, user, password).await?;
    let email = normalize_email(new_email);
    if email == user.email {
        return Err(Error::invalid("email", "This is your address already"));
    }
    // It may be a stranger's, who is not to be flooded.
    let message = OutboxMessage::ConfirmNewEmail { user_id: user.id, email: email.clone() };
    match Throttle::mailbox(app, context, Purpose::ChangeEmail, &email).await? {
        0 => {}
        retry_after => return Err(Error::TooManyAttempts { retry_after }),
    }
    transaction(app, context, async |tx| {
        User::lock_checked(tx, user).await?.ok_or(Error::WrongPassword)?;
        // Only the last one that was asked for counts.
        let pending = UserChanges { pending_email: Some(Some(&email)), ..Default::default() };
        User::update(tx, user.id, &pending).await?;
        OneTimeToken::forget(tx, user.id, &[Purpose::ChangeEmail]).await?;
        let entry = Entry::about(user.id, Action::EmailChangeRequested);
        entry.after(serde_json::json!({ "email": email })).write(tx).await?;
        let notice = Notice::EmailChangeRequested { new_email: email.clone() };
        OutboxMessage::notice(user, notice).send(tx).await?;
        message.send(tx).await
    })
    .await
}

/// Ends every session now, and the account once the grace is over; answers when that is.
///
/// # Errors
/// [`Error::WrongPassword`]; [`Error::LastAdmin`]; [`Error::TooManyAttempts`].
pub async fn delete(
    app: &App,
    context: &RequestContext,
    user: &User,
    password: String,
) -> Result<DateTime<Utc>> {
    confirm_password(app, context, user, password).await?;
    let due = Utc::now() + Duration::days(app.config.auth.account_deletion_grace_days.into());
    transaction(app, context, async |tx| {
        ensure_another_admin(tx, user.id).await?;
        User::lock_checked(tx, user).await?.ok_or(Error::WrongPassword)?;
        let changes =
            UserChanges { deletion_due_at: Some(Some(due)), pending_email: Some(None), ..Default::default() };
        User::update(tx, user.id, &changes).await?;
        Session::revoke_all(tx, user.id, None).await?;
        OneTimeToken::forget(tx, user.id, Purpose::ALL).await?;
        let entry = Entry::about(user.id, Action::UserDeletionScheduled);
        entry.after(serde_json::json!({ "deletion_due_at": due })).write(tx).await?;
        let on = due.format("%-d %B %Y").to_string();
        OutboxMessage::notice(user, Notice::DeletionScheduled { on }).send(tx).await?;
        Ok(due)
    })
    .await
}
