//! The life of an account.

use diesel_async::AsyncPgConnection;

use crate::{
    app::App,
    error::{Error, OnConstraint, Result},
    models::user::{NewUser, Role, User},
    security::{MAX_PASSWORD_BYTES, Passwords},
};

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
    Ok(())
}

/// An account to be made; the address and the password have been checked.
pub struct Registration {
    pub email: String,
    pub password: String,
    pub full_name: Option<String>,
}

/// Makes an active user. The password is hashed before a connection is taken, since that is slow.
///
/// # Errors
/// [`Error::EmailTaken`] when the address has an account.
pub async fn register(app: &App, new: Registration) -> Result<User> {
    create(app, new, Role::User).await
}

async fn create(app: &App, new: Registration, role: Role) -> Result<User> {
    let hashed_password = app.passwords.hash(new.password).await?;
    let email = normalize_email(&new.email);
    let row = NewUser {
        email: &email,
        hashed_password: &hashed_password,
        full_name: new.full_name.as_deref(),
        role,
    };
    app.db.run(async |conn| row.insert(conn).await.on_constraint("users_email_key", Error::EmailTaken)).await
}

/// The user behind an address and password.
///
/// # Errors
/// [`Error::BadCredentials`] for an unknown address, a wrong password and an inactive user alike, after the
/// same time, so that the answer does not tell which (OWASP Authentication Cheat Sheet).
pub async fn authenticate(app: &App, email: &str, password: String) -> Result<User> {
    let email = normalize_email(email);
    let user = app.db.run(async |conn| Ok(User::find_by_email(conn, &email).await?)).await?;
    let hash = user.as_ref().map(|user| user.hashed_password.clone());
    let matches = app.passwords.verify(password, hash).await?;
    user.filter(|user| matches && user.is_active).ok_or(Error::BadCredentials)
}

/// The user whom an access token was issued to.
///
/// # Errors
/// [`Error::InvalidToken`] when the token is no good or its user is gone, [`Error::Inactive`] when the user
/// may no longer sign in.
pub async fn from_token(app: &App, token: &str) -> Result<User> {
    let id = app.tokens.verify(token)?;
    let user = app.db.run(async |conn| Ok(User::find(conn, id).await?)).await?.ok_or(Error::InvalidToken)?;
    if user.is_active { Ok(user) } else { Err(Error::Inactive) }
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
/// once, changes nothing.
pub async fn ensure_admin(
    conn: &AsyncPgConnection,
    passwords: &Passwords,
    email: &str,
    password: Option<String>,
    promote: bool,
) -> Result<Admin> {
    let email = normalize_email(email);
    if let Some(password) = password
        && User::find_by_email(conn, &email).await?.is_none()
    {
        let hashed_password = passwords.hash(password).await?;
        let row =
            NewUser { email: &email, hashed_password: &hashed_password, full_name: None, role: Role::Admin };
        match row.insert(conn).await.on_constraint("users_email_key", Error::EmailTaken) {
            Ok(_) => return Ok(Admin::Created),
            // Somebody else was faster; see below whom they made.
            Err(Error::EmailTaken) => {}
            Err(error) => return Err(error),
        }
    }
    let user = User::find_by_email(conn, &email).await?.ok_or(Error::NotFound("User"))?;
    match (user.role, promote) {
        (Role::Admin, _) => Ok(Admin::AlreadyThere),
        (Role::User, false) => Ok(Admin::PlainUser),
        (Role::User, true) => {
            User::set_role(conn, user.id, Role::Admin).await?;
            Ok(Admin::Promoted)
        }
    }
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
        assert!(check_password("12345678").is_ok());
        assert!(check_password(&"x".repeat(72)).is_ok());
        assert!(check_password(&"x".repeat(73)).is_err());
        assert!(check_password(&"é".repeat(37)).is_err(), "74 bytes");
        assert!(check_password("pass\0word").is_err());
    }
}
