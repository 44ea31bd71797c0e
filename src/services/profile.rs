//! What users do with their own account.

use chrono::{DateTime, Duration, Utc};

use super::{
    audit::{Action, Entry},
    login::confirm_password,
    members::keep_an_admin,
    outbox::Message,
    sessions::Identity,
    throttle::Attempt,
    users::{check_about, normalize_email},
};
use crate::{
    app::App,
    error::{Error, Result},
    mail::letters::Notice,
    models::{
        one_time_token::{OneTimeToken, Purpose},
        session::Session,
        user::{User, UserChanges},
    },
};

/// Changes the name; `None` takes it away.
pub async fn rename(app: &App, user_id: i64, full_name: Option<&str>) -> Result<User> {
    app.db
        .transaction(async |conn| {
            let before = User::lock(conn, user_id).await?.ok_or(Error::InvalidToken)?;
            let changes = UserChanges { full_name: Some(full_name), ..Default::default() };
            let after = User::update(conn, user_id, &changes).await?;
            Entry::about(user_id, Action::UserUpdated).changed(&before, &after).write(conn).await?;
            Ok(after)
        })
        .await
}

/// Changes the password; the other sessions end (OWASP ASVS 5, 7.4.3).
///
/// # Errors
/// [`Error::WrongPassword`]; [`Error::Invalid`] for a new one that is easy to guess; [`Error::TooManyAttempts`].
pub async fn change_password(app: &App, who: &Identity, current: String, new: String) -> Result<()> {
    let user = &who.user;
    check_about("new_password", &new, &user.email, user.full_name.as_deref())?;
    confirm_password(app, user, current).await?;
    let hashed_password = app.passwords.hash(new).await?;
    app.db
        .transaction(async |conn| {
            let locked = User::lock(conn, user.id).await?;
            // The password that was just checked may have been changed meanwhile, with all sessions ended.
            let same = |now: &User| now.is_active && now.hashed_password == user.hashed_password;
            locked.filter(same).ok_or(Error::WrongPassword)?;
            let changes = UserChanges { hashed_password: Some(&hashed_password), ..Default::default() };
            User::update(conn, user.id, &changes).await?;
            Session::revoke_all(conn, user.id, Some(who.session.id)).await?;
            // A link to set it, and a login that waits for its code, belong to the old one.
            OneTimeToken::forget(conn, user.id, Some(Purpose::ResetPassword)).await?;
            OneTimeToken::forget(conn, user.id, Some(Purpose::SecondFactor)).await?;
            Entry::about(user.id, Action::PasswordChanged).write(conn).await?;
            Message::notice(user, Notice::PasswordChanged).send(conn).await
        })
        .await
}

/// Has a link sent to a new address, which is taken on once that is opened; the old one is told.
///
/// # Errors
/// [`Error::WrongPassword`], [`Error::TooManyAttempts`]; [`Error::Unavailable`] without Redis.
pub async fn change_email(app: &App, user: &User, new_email: &str, password: String) -> Result<()> {
    confirm_password(app, user, password).await?;
    let email = normalize_email(new_email);
    if email == user.email {
        return Err(Error::invalid("body", "email", "This is your address already"));
    }
    // It may be a stranger's, who is not to be flooded.
    if !Attempt::at_mailbox(app, &email).await? {
        return Ok(());
    }
    app.db
        .transaction(async |conn| {
            // Only the last one that was asked for counts.
            OneTimeToken::forget(conn, user.id, Some(Purpose::ChangeEmail)).await?;
            let entry = Entry::about(user.id, Action::EmailChangeRequested);
            entry.after(serde_json::json!({ "email": email })).write(conn).await?;
            let notice = Notice::EmailChangeRequested { new_email: email.clone() };
            Message::notice(user, notice).send(conn).await?;
            Message::ConfirmNewEmail { user_id: user.id, email }.send(conn).await
        })
        .await
}

/// Ends every session now, and the account once the grace is over; answers when that is.
///
/// # Errors
/// [`Error::WrongPassword`]; [`Error::LastAdmin`]; [`Error::TooManyAttempts`].
pub async fn delete(app: &App, user: &User, password: String) -> Result<DateTime<Utc>> {
    confirm_password(app, user, password).await?;
    let due = Utc::now() + Duration::days(app.config.auth.account_deletion_grace_days.into());
    app.db
        .transaction(async |conn| {
            keep_an_admin(conn, user.id).await?;
            User::lock(conn, user.id).await?.ok_or(Error::InvalidToken)?;
            let changes = UserChanges { deletion_due_at: Some(Some(due)), ..Default::default() };
            User::update(conn, user.id, &changes).await?;
            Session::revoke_all(conn, user.id, None).await?;
            OneTimeToken::forget(conn, user.id, None).await?;
            let entry = Entry::about(user.id, Action::UserDeletionScheduled);
            entry.after(serde_json::json!({ "deletion_due_at": due })).write(conn).await?;
            let on = due.format("%-d %B %Y").to_string();
            Message::notice(user, Notice::DeletionScheduled { on }).send(conn).await?;
            Ok(due)
        })
        .await
}
