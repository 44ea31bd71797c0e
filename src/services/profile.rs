//! Changes that users make to their own account.

use chrono::{DateTime, Duration, Utc};

use super::{
    actor::{Actor, Affected},
    audit::{Action, Entry},
    login::confirm_password,
    members,
    outbox::OutboxMessage,
    precondition::Precondition,
    sessions,
    throttle::{Recipient, Throttle},
    transaction::change,
    users::{check_not_personal, parse_email},
};
use crate::{
    app::App,
    email_address::EmailLookup,
    error::{Error, Result},
    mail::Notice,
    models::{
        clock::DatabaseClock,
        one_time_token::{OneTimeToken, Purpose},
        user::{User, UserChanges},
    },
};

/// Changes the name of the actor. `None` keeps the name; `Some(None)` removes it.
///
/// # Errors
/// [`Error::PreconditionFailed`] if the user does not meet `precondition`; and those of [`change`].
pub async fn rename(
    app: &App,
    actor: &Actor,
    full_name: Option<Option<&str>>,
    precondition: &Precondition<'_, User>,
) -> Result<User> {
    if full_name.is_none() && !precondition.is_some() {
        return Ok(actor.user().clone());
    }
    change(app, actor, Affected::Actor, async |tx, locked| {
        let before = locked.actor();
        precondition.check(before)?;
        let Some(full_name) = full_name else { return Ok(before.clone()) };
        let row = UserChanges { full_name: Some(full_name), ..Default::default() };
        let after = User::update(tx, before.id, &row).await?;
        Entry::new(before.id, Action::UserUpdated).changed(before, &after).write(tx).await?;
        Ok(after)
    })
    .await
}

/// Changes the password of the actor, and notifies the actor by mail. Revokes the user's other sessions (OWASP ASVS 5, 7.4.3),
/// the login challenges, and the links to reset the password or change the address. Cancels a pending change of the address.
///
/// # Errors
/// [`Error::WrongPassword`] if `current` is wrong or was replaced while the request was in progress; [`Error::Invalid`] if
/// [`check_not_personal`] refuses `new`; [`Error::TooManyAttempts`] after failed attempts, too many password hashes or too many
/// mails; [`Error::Unavailable`] if too many passwords are being hashed; and those of [`change`].
pub async fn change_password(app: &App, actor: &Actor, current: String, new: String) -> Result<()> {
    let user = actor.user();
    check_not_personal("new_password", &new, &user.email, user.full_name.as_deref())?;
    let confirmed = confirm_password(app, actor, current).await?;
    Throttle::notice(app, actor.context(), &confirmed.user).await?;
    let hashed_password = app.passwords.permit(confirmed.hash_for).await?.hash(new).await?;
    change(app, actor, Affected::Actor, async |tx, locked| {
        let user = locked.actor_if_password_unchanged(&confirmed.user)?;
        User::update(tx, user.id, &UserChanges::password(&hashed_password)).await?;
        // Revokes these links too, because an attacker who knew the old password may have requested them.
        let links = [Purpose::ResetPassword, Purpose::ChangeEmail];
        sessions::revoke_access(tx, user.id, Some(actor.session().id), &links).await?;
        Entry::new(user.id, Action::PasswordChanged).write(tx).await?;
        OutboxMessage::notice(user, Notice::PasswordChanged).send(tx).await
    })
    .await
}

/// Sends a confirmation link to a new email address, and a notice to the current address. The address changes when the
/// user confirms the link.
///
/// # Errors
/// [`Error::WrongPassword`] if `password` is wrong or was replaced while the request was in progress; [`Error::Invalid`] if the
/// address is invalid, or is already the user's address; [`Error::TooManyAttempts`] after failed attempts, too many password
/// hashes or too many mails; [`Error::Unavailable`] if too many passwords are being hashed; and those of [`change`].
pub async fn change_email(app: &App, actor: &Actor, new_email: &str, password: String) -> Result<()> {
    let user = confirm_password(app, actor, password).await?.user;
    let address = parse_email(new_email)?;
    if address.key == EmailLookup::new(&user.email).subject() {
        return Err(Error::invalid("email", "This is already your email address"));
    }
    let email = address.stored;
    let message = OutboxMessage::ConfirmNewEmail { user_id: user.id, email: email.clone() };
    // The address may belong to a third party, who must not be flooded with mails. The result is the same whether or
    // not the address is registered.
    let (context, recipient) = (actor.context(), Recipient::Unverified(&email));
    Throttle::notice(app, context, &user).await?;
    Throttle::mail_by_client(app, context, &email).await?;
    Throttle::mail_to_recipient(app, context, Purpose::ChangeEmail.as_str(), recipient).await?;
    change(app, actor, Affected::Actor, async |tx, locked| {
        let user = locked.actor_if_password_unchanged(&user)?;
        // Only the last requested address can be confirmed.
        let pending = UserChanges { pending_email: Some(Some(&email)), ..Default::default() };
        User::update(tx, user.id, &pending).await?;
        OneTimeToken::revoke(tx, user.id, &[Purpose::ChangeEmail]).await?;
        let entry = Entry::new(user.id, Action::EmailChangeRequested);
        entry.after(serde_json::json!({ "email": email })).write(tx).await?;
        let notice = Notice::EmailChangeRequested { new_email: Some(email.clone()) };
        OutboxMessage::notice(user, notice).send(tx).await?;
        message.send(tx).await
    })
    .await
}

/// Schedules the deletion of the account, and notifies the user by mail. Revokes all sessions, links and login challenges of the
/// user, cancels a pending change of the address, and purges the jobs that the user has enqueued.
///
/// Returns the time at which the deletion is due, `ACCOUNT_DELETION_GRACE_DAYS` from now. The next run of the nightly job then
/// deletes the account. If the user logs in or sets a password by a link before then, the deletion is canceled.
///
/// # Errors
/// [`Error::WrongPassword`] if `password` is wrong or was replaced while the request was in progress; [`Error::LastAdmin`] if
/// the user is the last admin ([`User::can_administer`]); [`Error::LastOwner`] if the user owns an organization that has other
/// members and is not scheduled for deletion; [`Error::TooManyAttempts`] after failed attempts, too many password hashes or too
/// many mails; [`Error::Unavailable`] if too many passwords are being hashed; and those of [`change`].
pub async fn delete(app: &App, actor: &Actor, password: String) -> Result<DateTime<Utc>> {
    let user = confirm_password(app, actor, password).await?.user;
    Throttle::notice(app, actor.context(), &user).await?;
    let grace = Duration::days(app.config.auth.account_deletion_grace_days.into());
    change(app, actor, Affected::UserAndAdmins(user.id), async |tx, locked| {
        locked.ensure_another_admin(user.id)?;
        members::ensure_not_owner_of_others(tx, user.id).await?;
        let user = locked.actor_if_password_unchanged(&user)?;
        let due = DatabaseClock::read(tx).await?.now() + grace;
        let changes =
            UserChanges { deletion_due_at: Some(Some(due)), pending_email: Some(None), ..Default::default() };
        User::update(tx, user.id, &changes).await?;
        sessions::revoke_access(tx, user.id, None, Purpose::ALL).await?;
        tx.set_inactive(user.id);
        let entry = Entry::new(user.id, Action::UserDeletionScheduled);
        entry.after(serde_json::json!({ "deletion_due_at": due })).write(tx).await?;
        let on = due.format("%-d %B %Y").to_string();
        OutboxMessage::notice(user, Notice::DeletionScheduled { on }).send(tx).await?;
        Ok(due)
    })
    .await
}
