//! Creation and promotion of admins, and the notices to other admins.
//!
//! Anyone can register with the address of another person. So a promotion requires a verified address. An account that is
//! scheduled for deletion is not promoted, because the nightly job could delete the new admin. A promotion also revokes the
//! user's sessions, links and login challenges, and notifies the user and other admins.

use chrono::Utc;
use diesel_async::AsyncPgConnection;

use super::{
    audit::{Action, Entry, audit_fields},
    outbox::OutboxMessage,
    personal_orgs, sessions,
    users::{map_email_taken, parse_email},
};
use crate::{
    config::PersonalOrganizations,
    context::RequestContext,
    db::{self, Effects, Tx},
    email_address::EmailLookup,
    error::{Error, Result},
    mail::Notice,
    models::{
        one_time_token::Purpose,
        user::{NewUser, Role, User, UserChanges},
    },
    security::Passwords,
};

/// The result of [`ensure_admin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnsureAdminOutcome {
    Created,
    /// The address belongs to an admin.
    Exists,
    /// The address belongs to a user without the admin role.
    NotAdmin,
}

/// Creates an admin unless the address is registered. Also creates a personal organization if `PERSONAL_ORGANIZATIONS` is on,
/// and notifies other admins.
///
/// The call is idempotent, also if several processes make it at the same time. The address of a created admin counts as
/// verified, because the operator of the server has chosen it. Without a password, the function only looks the user up.
///
/// # Errors
/// [`Error::NotFound`] without a password if the address is not registered; [`Error::Invalid`] if the address of a new admin is
/// invalid; [`Error::Unavailable`] if PostgreSQL does not answer or too many passwords are being hashed.
pub async fn ensure_admin(
    conn: &mut AsyncPgConnection,
    passwords: &Passwords,
    email: &str,
    password: Option<String>,
    personal: &PersonalOrganizations,
) -> Result<EnsureAdminOutcome> {
    let lookup = EmailLookup::new(email);
    if let Some(password) = password
        && User::find_by_email(conn, &lookup).await?.is_none()
    {
        let address = parse_email(email)?.stored;
        let hashed_password = passwords.hash(password).await?;
        let (context, effects) = (RequestContext::default(), Effects::default());
        match db::transaction(conn, async |conn| {
            create(&Tx::on(conn, &context, &effects), &address, &hashed_password, personal).await
        })
        .await
        {
            Ok(()) => return Ok(EnsureAdminOutcome::Created),
            // A concurrent transaction has created the user, whose role is checked below.
            Err(Error::EmailTaken) => {}
            Err(error) => return Err(error),
        }
    }
    let user = User::find_by_email(conn, &lookup).await?.ok_or(Error::NotFound("User"))?;
    Ok(match user.role {
        Role::Admin => EnsureAdminOutcome::Exists,
        Role::User => EnsureAdminOutcome::NotAdmin,
    })
}

async fn create(
    tx: &Tx<'_>,
    email: &str,
    hashed_password: &str,
    personal: &PersonalOrganizations,
) -> Result<()> {
    let row = NewUser {
        email,
        hashed_password: Some(hashed_password),
        full_name: None,
        role: Role::Admin,
        email_verified_at: Some(Utc::now()),
    };
    let user = map_email_taken(row.insert(tx).await)?;
    Entry::new(user.id, Action::UserCreated).after(audit_fields(&user).into()).write(tx).await?;
    personal_orgs::create(tx, &user, personal).await?;
    notify_others(tx, &user, None).await
}

/// Makes the user with this address an admin. Revokes the sessions, links and login challenges of the user, cancels a pending
/// change of the address, and notifies the user and other admins. The operator of the server calls this from the command
/// line. Changes nothing and returns false if the user is already an admin.
///
/// # Errors
/// [`Error::NotFound`] if the address is not registered; [`Error::Inactive`] if the user is deactivated;
/// [`Error::UserNotVerified`] if the user has not verified the address; [`Error::Conflict`] if the account is scheduled for
/// deletion; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn promote(conn: &mut AsyncPgConnection, email: &str) -> Result<bool> {
    let lookup = EmailLookup::new(email);
    let (context, effects) = (RequestContext::default(), Effects::default());
    db::transaction(conn, async |conn| {
        let tx = &Tx::on(conn, &context, &effects);
        let found = User::find_by_email(tx, &lookup).await?.ok_or(Error::NotFound("User"))?;
        let before = User::lock(tx, found.id).await?.ok_or(Error::NotFound("User"))?;
        if before.role == Role::Admin {
            return Ok(false);
        }
        if !before.is_active {
            return Err(Error::Inactive);
        }
        let changes = UserChanges { role: Some(Role::Admin), ..Default::default() };
        let after = grant(tx, &before, changes, None).await?;
        Entry::new(before.id, Action::UserUpdated).changed(&before, &after).write(tx).await?;
        Ok(true)
    })
    .await
}

/// Returns whether a change gives a user the rights of an admin: it grants the role, or activates a deactivated admin.
pub(super) fn grants_rights(before: &User, changes: &UserChanges<'_>) -> bool {
    let is_admin = changes.role.unwrap_or(before.role) == Role::Admin;
    let is_activated = !before.is_active && changes.is_active == Some(true);
    is_admin && (before.role != Role::Admin || is_activated)
}

/// Applies changes that give a locked user the rights of an admin. Revokes the sessions, links and login challenges of the
/// user, and cancels a pending change of the address. Notifies the user and other admins. `by` is the address of the admin
/// who makes the change, or `None` for the operator of the server.
///
/// # Errors
/// [`Error::UserNotVerified`] if the address of the user is not verified; [`Error::Conflict`] if the changes promote a user
/// whose account is scheduled for deletion; [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn grant(
    tx: &Tx<'_>,
    before: &User,
    changes: UserChanges<'_>,
    by: Option<&str>,
) -> Result<User> {
    if before.email_verified_at.is_none() {
        return Err(Error::UserNotVerified);
    }
    // An admin may be activated nevertheless: a deactivated user cannot sign in to cancel the deletion.
    if before.role != Role::Admin && before.deletion_due_at.is_some() {
        return Err(Error::Conflict(
            "The account of the user is scheduled for deletion; the user can sign in to cancel that",
        ));
    }
    // Cancels a pending change of the address, because a session that is now revoked may have requested it.
    let changes = UserChanges { pending_email: Some(None), ..changes };
    let after = User::update(tx, before.id, &changes).await?;
    sessions::revoke_access(tx, before.id, None, Purpose::ALL).await?;
    OutboxMessage::notice(&after, Notice::AdminRoleGranted).send(tx).await?;
    notify_others(tx, &after, by).await?;
    Ok(after)
}

/// Notifies the other admins in [`User::verified_admins`] about a new admin. `by` is the address of the admin who made the
/// change, or `None` for the operator of the server.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn notify_others(tx: &Tx<'_>, admin: &User, by: Option<&str>) -> Result<()> {
    for other in User::verified_admins(tx).await? {
        if other.id != admin.id {
            let notice = Notice::AdminAdded { email: admin.email.clone(), by: by.map(str::to_owned) };
            OutboxMessage::notice(&other, notice).send(tx).await?;
        }
    }
    Ok(())
}
