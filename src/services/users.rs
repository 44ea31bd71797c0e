//! How accounts begin, and what is wrong with an address or a password.

use chrono::Utc;
use diesel_async::AsyncPgConnection;

use super::{
    audit::{Action, Entry, audit_fields},
    outbox::OutboxMessage,
    transaction::transaction,
    tx::{Effects, Tx},
};
use crate::{
    app::App,
    context::RequestContext,
    db,
    error::{Error, OnConstraint, Result},
    models::user::{NewUser, Role, User, UserChanges},
    security::{MAX_PASSWORD_BYTES, Passwords, is_common},
};

/// Cache key of the number of all users; counting them takes longer than reading a page.
pub const USER_COUNT: &str = "users:count";
pub const MAX_EMAIL_CHARS: usize = 255;
pub const MIN_PASSWORD_CHARS: usize = 8;

/// The form in which an address is stored and compared.
pub fn normalize_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// What is wrong with an address, in words for the person who typed it.
pub fn check_email(email: &str) -> Result<(), &'static str> {
    let email = &*normalize_email(email);
    if email.chars().count() > MAX_EMAIL_CHARS {
        return Err("An email address has at most 255 characters");
    }
    let parsed: lettre::Address =
        email.parse().map_err(|_| "This is not a valid email address; it looks like name@example.com")?;
    // A host of one label is no public mail domain.
    match parsed.domain().split_once('.') {
        Some((first, rest)) if !first.is_empty() && !rest.is_empty() => Ok(()),
        _ => Err("The part of an email address after the @ needs a dot, as in name@example.com"),
    }
}

/// What is wrong with a new password (NIST SP 800-63B: length, no composition rules).
pub fn check_password(password: &str) -> Result<(), &'static str> {
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err("A password has at least 8 characters");
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err("A password has at most 72 bytes; letters with accents and emoji take 2 to 4 each");
    }
    if password.contains('\0') {
        return Err("A password cannot contain the NUL character");
    }
    if is_common(password) {
        return Err("This password is among the first that anybody would guess; choose another");
    }
    Ok(())
}

/// Refuses a password that is who its owner is, be it with digits after it (OWASP ASVS 5, 6.2.11).
///
/// # Errors
/// [`Error::Invalid`], naming `field`.
pub fn check_about(field: &str, password: &str, email: &str, full_name: Option<&str>) -> Result<()> {
    let bare = |text: &str| text.trim_end_matches(|c: char| !c.is_alphabetic()).to_lowercase();
    let local = email.split('@').next().unwrap_or_default();
    let about = [email, local, full_name.unwrap_or_default()].map(bare);
    match about.contains(&bare(password)) {
        true => Err(Error::invalid(field, "This password says too much about whose it is; choose another")),
        false => Ok(()),
    }
}

/// An account to be made; the address and the password have been checked.
pub struct Registration {
    pub email: String,
    pub password: String,
    pub full_name: Option<String>,
}

/// Makes an active user, and has a link sent to confirm the address. The password is hashed before a connection is
/// taken, since that is slow.
///
/// # Errors
/// [`Error::EmailTaken`] when the address has an account; [`Error::Invalid`] for a password that says who it is of.
pub async fn register(app: &App, context: &RequestContext, new: Registration) -> Result<User> {
    let email = normalize_email(&new.email);
    check_about("password", &new.password, &email, new.full_name.as_deref())?;
    let hashed_password = app.passwords.hash(new.password).await?;
    let row = NewUser {
        email: &email,
        hashed_password: Some(&hashed_password),
        full_name: new.full_name.as_deref(),
        role: Role::User,
        email_verified_at: None,
    };
    let user = transaction(app, context, async |tx| {
        let user = row.insert(tx).await.on_constraint("users_email_key", Error::EmailTaken)?;
        let entry = Entry::by_themselves(user.id, Action::UserRegistered);
        entry.after(audit_fields(&user).into()).write(tx).await?;
        OutboxMessage::VerifyEmail { user_id: user.id }.send(tx).await?;
        Ok(user)
    })
    .await?;
    app.cache.invalidate(USER_COUNT).await;
    Ok(user)
}

/// What [`ensure_admin`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    Created,
    Promoted,
    AlreadyThere,
    /// The address belongs to a plain user, and lifting one was not asked for.
    PlainUser,
}

/// Makes the admin, or lifts the user who has the address where `promote` says so. Doing it again, or twice at
/// once, changes nothing. The address counts as confirmed: whoever runs the server vouches for it.
pub async fn ensure_admin(
    conn: &mut AsyncPgConnection,
    passwords: &Passwords,
    email: &str,
    password: Option<String>,
    promote: bool,
) -> Result<Admin> {
    let email = normalize_email(email);
    let (context, effects) = (RequestContext::default(), Effects::default());
    if let Some(password) = password
        && User::find_by_email(conn, &email).await?.is_none()
    {
        let hashed_password = passwords.hash(password).await?;
        match db::transaction(conn, async |conn| {
            create_admin(&Tx::on(conn, &context, &effects), &email, &hashed_password).await
        })
        .await
        {
            Ok(()) => return Ok(Admin::Created),
            // Somebody else was faster; see below whom they made.
            Err(Error::EmailTaken) => {}
            Err(error) => return Err(error),
        }
    }
    db::transaction(conn, async |conn| {
        let user = User::find_by_email(conn, &email).await?.ok_or(Error::NotFound("User"))?;
        match (user.role, promote) {
            (Role::Admin, _) => Ok(Admin::AlreadyThere),
            (Role::User, false) => Ok(Admin::PlainUser),
            (Role::User, true) => {
                let changes = UserChanges { role: Some(Role::Admin), ..Default::default() };
                let after = User::update(conn, user.id, &changes).await?;
                Entry::about(user.id, Action::UserUpdated)
                    .changed(&user, &after)
                    .write(&Tx::on(conn, &context, &effects))
                    .await?;
                Ok(Admin::Promoted)
            }
        }
    })
    .await
}

async fn create_admin(tx: &Tx<'_>, email: &str, hashed_password: &str) -> Result<()> {
    let row = NewUser {
        email,
        hashed_password: Some(hashed_password),
        full_name: None,
        role: Role::Admin,
        email_verified_at: Some(Utc::now()),
    };
    let user = row.insert(tx).await.on_constraint("users_email_key", Error::EmailTaken)?;
    Entry::about(user.id, Action::UserCreated).after(audit_fields(&user).into()).write(tx).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["a@b.co", " Ada.Lovelace+x@Example.COM ", "x@sub.example.org"] {
            assert_eq!(check_email(good), Ok(()), "{good}");
        }
        for bad in
            ["", "a", "a@", "@b.co", "a@b", "a b@c.co", "a@b..co", "a@@b.co", "a@.co", "a@b.co\0", "a@b.co."]
        {
            assert!(check_email(bad).is_err(), "{bad}");
        }
        assert!(check_email(&format!("{}@example.com", "a".repeat(250))).is_err());
        // Each becomes two characters in lower case.
        assert!(check_email(&format!("{}@{}.com", "İ".repeat(32), "a.".repeat(108))).is_err());
        assert_eq!(normalize_email("  Ada@Example.COM\n"), "ada@example.com");
    }

    #[test]
    fn passwords() {
        assert!(check_password("1234567").is_err());
        assert!(check_password("12345678").is_err(), "anybody would try it");
        assert!(check_password("correct horse").is_ok());
        assert!(check_password(&"correct horse battery staple ".repeat(3)[..72]).is_ok());
        assert!(check_password(&"x".repeat(73)).is_err());
        assert!(check_password(&"é".repeat(37)).is_err(), "74 bytes");
        assert!(check_password("pass\0word").is_err());
    }
}
