//! Administration of users by admins of the platform.

use std::time::Duration;

use super::{
    actor::{AdminActor, Affected},
    admins,
    audit::{Action, Entry, audit_fields},
    idempotency::{Answered, Once},
    members,
    outbox::OutboxMessage,
    personal_orgs,
    precondition::Precondition,
    sessions,
    throttle::Throttle,
    transaction::change,
    two_factor,
    users::{USER_COUNT, map_email_taken, parse_email},
};
use crate::{
    app::App,
    context::user_caller,
    db::Tx,
    email_address::EmailLookup,
    error::{Error, Result},
    mail::Notice,
    models::{
        idempotency_key::StoredAnswer,
        invitation::Invitation,
        one_time_token::{OneTimeToken, Purpose},
        user::{NewUser, Role, User, UserChanges},
        user_list::{Listing, Position, UserPage},
    },
};

/// Lifetime of the cached number of users. The API and the nightly job invalidate the cache. Changes by other means, such as
/// commands or SQL, become visible after this time at the latest.
const COUNT_TTL: Duration = Duration::from_secs(5);

/// The start of a page of users.
pub enum PageStart {
    /// After the last user of the previous page; `None` for the first page.
    After(Option<Position>),
    /// After this number of users, as in release 0.1.0. A larger number makes the query slower.
    Offset(i64),
}

/// Returns a page of users. The total is the number of users on all pages, up to
/// [`MAX_COUNTED_USERS`](crate::models::user_list::MAX_COUNTED_USERS). With a search or a filter, the total may be lower,
/// because it may count only among the newest users. A page after a cursor has no total.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn list(app: &App, listing: &Listing<'_>, start: &PageStart) -> Result<UserPage> {
    let page = app
        .db
        .run(async |conn| {
            Ok(match start {
                PageStart::After(after) => listing.page(conn, after.as_ref()).await?,
                PageStart::Offset(offset) => listing.page_at(conn, *offset).await?,
            })
        })
        .await?;
    if matches!(start, PageStart::After(Some(_))) {
        return Ok(UserPage { total: None, ..page });
    }
    let count = async || app.db.run(async |conn| Ok(listing.count(conn).await?)).await;
    let total = match (page.total, listing.filter.has_condition()) {
        (Some(total), _) => total,
        (None, true) => count().await?,
        (None, false) => app.cache.get_or_load(USER_COUNT, COUNT_TTL, count).await?,
    };
    // A search or a filter may count only matches among the newest users, so the count may be lower than the number of users on
    // this page.
    let total = total.max(page.users.len() as i64);
    Ok(UserPage { total: Some(total), ..page })
}

/// Returns a user by id.
///
/// # Errors
/// [`Error::NotFound`] if the user does not exist; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn find(app: &App, id: i64) -> Result<User> {
    app.db.run(async |conn| User::find(conn, id).await?.ok_or(Error::NotFound("User"))).await
}

/// Changes to a user. `None` keeps a field.
#[derive(Default)]
pub struct Changes {
    pub full_name: Option<Option<String>>,
    pub role: Option<Role>,
    pub is_active: Option<bool>,
}

/// Changes a user. A deactivation revokes all sessions, links and login challenges of the user, and purges the jobs that the
/// user has enqueued. A change that gives the user the rights of an admin also revokes the sessions, links and login
/// challenges, cancels a pending change of the address, and notifies the user and other admins. A change of the role to
/// `user` revokes the login challenges.
///
/// # Errors
/// [`Error::NotFound`] if the user does not exist; [`Error::PreconditionFailed`] if the user does not meet `precondition`;
/// [`Error::LastAdmin`] if the change removes the last admin ([`User::can_administer`]); [`Error::UserNotVerified`] if the change
/// gives the rights of an admin to a user whose address is not verified; [`Error::Conflict`] if it promotes a user whose account
/// is scheduled for deletion; and those of [`change`].
pub async fn update(
    app: &App,
    actor: &AdminActor,
    id: i64,
    changes: &Changes,
    precondition: &Precondition<'_, User>,
) -> Result<User> {
    let may_remove_admin = changes.role == Some(Role::User) || changes.is_active == Some(false);
    let affected = if may_remove_admin { Affected::UserAndAdmins(id) } else { Affected::User(id) };
    change(app, actor, affected, async |tx, locked| {
        let before = locked.user(id)?;
        precondition.check(before)?;
        if may_remove_admin {
            locked.ensure_another_admin(id)?;
        }
        let full_name = changes.full_name.as_ref().map(Option::as_deref);
        let row =
            UserChanges { full_name, role: changes.role, is_active: changes.is_active, ..Default::default() };
        if full_name.is_none() && row.role.is_none() && row.is_active.is_none() {
            return Ok(before.clone());
        }
        let after = match admins::grants_rights(before, &row) {
            true => admins::grant(tx, before, row, Some(&locked.actor().email)).await?,
            false => User::update(tx, id, &row).await?,
        };
        if before.is_active && !after.is_active {
            sessions::revoke_access(tx, id, None, Purpose::ALL).await?;
            tx.set_inactive(id);
        } else if before.role != after.role {
            OneTimeToken::revoke(tx, id, &[Purpose::SecondFactor]).await?;
        }
        Entry::new(id, Action::UserUpdated).changed(before, &after).write(tx).await?;
        Ok(after)
    })
    .await
}

/// Creates a user without a password, and sends a link to set a password. Also creates a personal organization if
/// `PERSONAL_ORGANIZATIONS` is on, and notifies other admins if `role` is [`Role::Admin`].
///
/// # Errors
/// [`Error::EmailTaken`] if the address is registered; [`Error::Invalid`] if the address is invalid;
/// [`Error::TooManyAttempts`] after many invitations to the mailbox; and those of [`Once::change`].
pub async fn invite(
    app: &App,
    actor: &AdminActor,
    once: &Once<'_, User>,
    email: &str,
    full_name: Option<&str>,
    role: Role,
) -> Result<Answered> {
    let email = parse_email(email)?.stored;
    let throttle = async || Throttle::invitation(app, actor.context(), &email).await;
    let answered = once
        .change(app, actor, Affected::Actor, throttle, async |tx, locked| {
            let row =
                NewUser { email: &email, hashed_password: None, full_name, role, email_verified_at: None };
            let user = map_email_taken(row.insert(tx).await)?;
            Entry::new(user.id, Action::UserInvited).after(audit_fields(&user).into()).write(tx).await?;
            OutboxMessage::Invite { user_id: user.id }.send(tx).await?;
            personal_orgs::create(tx, &user, &app.config.organizations.personal).await?;
            if role == Role::Admin {
                admins::notify_others(tx, &user, Some(&locked.actor().email)).await?;
            }
            Ok(user)
        })
        .await?;
    app.cache.invalidate(USER_COUNT).await;
    Ok(answered)
}

/// Sends the invitation of a user again.
///
/// # Errors
/// [`Error::NotFound`] if the user does not exist; [`Error::Conflict`] if the user already has a password or is
/// deactivated; [`Error::TooManyAttempts`] after many invitations to the mailbox; and those of [`Once::change`].
pub async fn invite_again(app: &App, actor: &AdminActor, once: &Once<'_, ()>, id: i64) -> Result<Answered> {
    let throttle = async || Throttle::invitation(app, actor.context(), &find(app, id).await?.email).await;
    once.change(app, actor, Affected::User(id), throttle, async |tx, locked| {
        let user = locked.user(id)?;
        if user.hashed_password.is_some() {
            return Err(Error::Conflict("The invitation has already been accepted"));
        }
        // A deactivated user gets no link: the job that sends the mail would drop the mail.
        if !user.is_active {
            return Err(Error::Conflict("The user is deactivated; activate the user first"));
        }
        Entry::new(id, Action::UserInvited).write(tx).await?;
        OutboxMessage::Invite { user_id: id }.send(tx).await
    })
    .await
}

/// Deletes an account immediately, without a grace period, and notifies the user by mail. Purges the jobs that the user has
/// enqueued, and schedules the erasure of the organizations in which the user is the owner and the only member.
///
/// # Errors
/// [`Error::NotFound`] if the user does not exist; [`Error::LastAdmin`] if the user is the last admin ([`User::can_administer`]);
/// [`Error::LastOwner`] if the user owns an organization that has other members and is not scheduled for deletion; and those of
/// [`change`].
pub async fn delete(app: &App, actor: &AdminActor, id: i64) -> Result<()> {
    change(app, actor, Affected::UserAndAdmins(id), async |tx, locked| {
        let user = locked.user(id)?;
        locked.ensure_another_admin(id)?;
        erase(tx, user).await
    })
    .await?;
    app.cache.invalidate(USER_COUNT).await;
    Ok(())
}

/// Deletes a user with all sessions, tokens, memberships and API keys, the second factor, and the stored answers to the user's
/// requests in sessions, and notifies the user by mail. Also deletes the ended invitations to the user's verified address, and
/// purges the jobs that the user has enqueued. Schedules the erasure of the organizations in which the user is the owner and the
/// only member. The user's audit trail entries stay until they are `AUDIT_RETENTION_DAYS` old.
///
/// # Errors
/// [`Error::LastOwner`] if the user owns an organization that has other members and is not scheduled for deletion;
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn erase(tx: &Tx<'_>, user: &User) -> Result<()> {
    let orgs = members::ensure_not_owner_of_others(tx, user.id).await?;
    members::delete_with_account(tx, &orgs).await?;
    User::delete(tx, user.id).await?;
    if user.email_verified_at.is_some() {
        // The ended invitations in the lists of organizations must not keep the address of the user.
        Invitation::delete_ended_to(tx, EmailLookup::new(&user.email).subject()).await?;
    }
    StoredAnswer::delete_all_of(tx, &user_caller(user.id)).await?;
    tx.set_inactive(user.id);
    Entry::new(user.id, Action::UserDeleted).before(audit_fields(user).into()).write(tx).await?;
    OutboxMessage::notice(user, Notice::AccountDeleted).send(tx).await
}

/// Disables the second factor of a user, for example after the loss of the authenticator. Revokes all sessions and login
/// challenges of the user, and notifies the user by mail.
///
/// # Errors
/// [`Error::NotFound`] if the user does not exist or the second factor is not enabled; and those of [`change`].
pub async fn remove_second_factor(app: &App, actor: &AdminActor, id: i64) -> Result<()> {
    change(app, actor, Affected::User(id), async |tx, locked| {
        if !two_factor::remove(tx, locked.user(id)?).await? {
            return Err(Error::NotFound("Second factor"));
        }
        sessions::revoke_access(tx, id, None, &[]).await
    })
    .await
}

/// Revokes all sessions and login challenges of a user.
///
/// # Errors
/// [`Error::NotFound`] if the user does not exist; and those of [`change`].
pub async fn sign_out(app: &App, actor: &AdminActor, id: i64) -> Result<()> {
    change(app, actor, Affected::User(id), async |tx, locked| {
        sessions::revoke_all_in(tx, locked.user(id)?.id).await
    })
    .await
}
