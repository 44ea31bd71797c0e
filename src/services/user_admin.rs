//! What admins do with the accounts of others, and how a user is changed in general.

use std::time::Duration;

use diesel_async::AsyncPgConnection;

use super::{
    audit::{Action, Entry, audit_fields},
    outbox::OutboxMessage,
    transaction::transaction,
    two_factor,
    tx::Tx,
    users::{USER_COUNT, normalize_email},
};
use crate::{
    app::App,
    context::RequestContext,
    error::{Error, OnConstraint, Result},
    mail::Notice,
    models::{
        one_time_token::{OneTimeToken, Purpose},
        session::Session,
        user::{NewUser, Role, User, UserChanges},
        user_list::Listing,
    },
};

/// How long the cached number of users may lag behind what is changed by other means than services.
const COUNT_TTL: Duration = Duration::from_secs(5);

/// A page of users, and how many there are on all pages, as far as they are counted.
pub async fn list(app: &App, listing: &Listing<'_>) -> Result<(Vec<User>, i64)> {
    let users = app.db.run(async |conn| Ok(listing.load(conn).await?)).await?;
    let count = async || app.db.run(async |conn| Ok(listing.count(conn).await?)).await;
    let total = match listing.is_filtered() {
        true => count().await?,
        false => app.cache.get_or_load(USER_COUNT, COUNT_TTL, count).await?,
    };
    Ok((users, total))
}

/// # Errors
/// [`Error::NotFound`].
pub async fn find(app: &App, id: i64) -> Result<User> {
    app.db.run(async |conn| User::find(conn, id).await?.ok_or(Error::NotFound("User"))).await
}

/// Holds the admins, and makes sure that there is another than this one who can act. Before anything else is locked.
///
/// # Errors
/// [`Error::LastAdmin`].
pub async fn ensure_another_admin(conn: &AsyncPgConnection, id: i64) -> Result<()> {
    let admins = User::lock_admins(conn).await?;
    match admins.contains(&id) && admins.len() == 1 {
        true => Err(Error::LastAdmin),
        false => Ok(()),
    }
}

/// What is to change of a user; `None` leaves it as it is.
#[derive(Default)]
pub struct Changes {
    pub full_name: Option<Option<String>>,
    pub role: Option<Role>,
    pub is_active: Option<bool>,
}

/// Changes a user. Whoever is deactivated is signed out everywhere.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::LastAdmin`].
pub async fn update(app: &App, context: &RequestContext, id: i64, changes: &Changes) -> Result<User> {
    transaction(app, context, async |tx| {
        if changes.role == Some(Role::User) || changes.is_active == Some(false) {
            ensure_another_admin(tx, id).await?;
        }
        let before = User::lock(tx, id).await?.ok_or(Error::NotFound("User"))?;
        let full_name = changes.full_name.as_ref().map(Option::as_deref);
        let row =
            UserChanges { full_name, role: changes.role, is_active: changes.is_active, ..Default::default() };
        if full_name.is_none() && row.role.is_none() && row.is_active.is_none() {
            return Ok(before);
        }
        let after = User::update(tx, id, &row).await?;
        if before.is_active && !after.is_active {
            Session::revoke_all(tx, id, None).await?;
            OneTimeToken::forget(tx, id, Purpose::ALL).await?;
        }
        Entry::about(id, Action::UserUpdated).changed(&before, &after).write(tx).await?;
        Ok(after)
    })
    .await
}

/// Makes an account without a password, and sends a link to choose one.
///
/// # Errors
/// [`Error::EmailTaken`].
pub async fn invite(
    app: &App,
    context: &RequestContext,
    email: &str,
    full_name: Option<&str>,
    role: Role,
) -> Result<User> {
    let email = normalize_email(email);
    let user = transaction(app, context, async |tx| {
        let row = NewUser { email: &email, hashed_password: None, full_name, role, email_verified_at: None };
        let user = row.insert(tx).await.on_constraint("users_email_key", Error::EmailTaken)?;
        Entry::about(user.id, Action::UserInvited).after(audit_fields(&user).into()).write(tx).await?;
        OutboxMessage::Invite { user_id: user.id }.send(tx).await?;
        Ok(user)
    })
    .await?;
    app.cache.invalidate(USER_COUNT).await;
    Ok(user)
}

/// Sends the invitation again.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] where it was taken.
pub async fn invite_again(app: &App, context: &RequestContext, id: i64) -> Result<()> {
    transaction(app, context, async |tx| {
        let user = User::find(tx, id).await?.ok_or(Error::NotFound("User"))?;
        if user.hashed_password.is_some() {
            return Err(Error::Conflict("The invitation has been taken already"));
        }
        Entry::about(id, Action::UserInvited).write(tx).await?;
        OutboxMessage::Invite { user_id: id }.send(tx).await
    })
    .await
}

/// Erases a user now.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::LastAdmin`].
pub async fn delete(app: &App, context: &RequestContext, id: i64) -> Result<()> {
    transaction(app, context, async |tx| {
        ensure_another_admin(tx, id).await?;
        let user = User::lock(tx, id).await?.ok_or(Error::NotFound("User"))?;
        erase(tx, &user).await
    })
    .await?;
    app.cache.invalidate(USER_COUNT).await;
    Ok(())
}

/// Erases a user and what hangs on them. The trail keeps what they did, until its own time is over.
pub(super) async fn erase(tx: &Tx<'_>, user: &User) -> Result<()> {
    User::delete(tx, user.id).await?;
    Entry::about(user.id, Action::UserDeleted).before(audit_fields(user).into()).write(tx).await?;
    OutboxMessage::notice(user, Notice::AccountDeleted).send(tx).await
}

/// Turns the second factor of somebody off who has lost it, and signs them out everywhere.
///
/// # Errors
/// [`Error::NotFound`], also where it is not on.
pub async fn remove_second_factor(app: &App, context: &RequestContext, id: i64) -> Result<()> {
    transaction(app, context, async |tx| {
        let user = User::lock(tx, id).await?.ok_or(Error::NotFound("User"))?;
        if !two_factor::remove(tx, &user).await? {
            return Err(Error::NotFound("Second factor"));
        }
        Session::revoke_all(tx, id, None).await?;
        Ok(())
    })
    .await
}

/// Signs somebody out everywhere.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn sign_out(app: &App, context: &RequestContext, id: i64) -> Result<()> {
    find(app, id).await?;
    super::sessions::revoke_all(app, context, id).await
}
