//! Registration, and the rules for email addresses and passwords.

use super::{
    audit::{Action, Entry, audit_fields},
    outbox::OutboxMessage,
    personal_orgs,
    security_event::{Event, SecurityEvent},
    throttle::{Recipient, Throttle},
    transaction::change_without_actor,
};
use crate::{
    app::App,
    config::is_published_password,
    context::RequestContext,
    email_address::{EmailAddress, EmailLookup},
    error::{Error, Result},
    models::{
        one_time_token::Purpose,
        user::{NewUser, Role, User},
    },
    security::{HashFor, MAX_PASSWORD_BYTES, is_common, normalize_password},
};

/// Cache key of the number of users. The number is cached because counting takes longer than reading a page.
pub const USER_COUNT: &str = "users:count";
/// The message about a password that [`check_not_personal`] refuses.
const PERSONAL_PASSWORD: &str = "Password must not be your email address or name";
/// Minimum length of a password (NIST SP 800-63B section 5.1.1.2).
pub const MIN_PASSWORD_CHARS: usize = 8;

/// Parses an email address.
///
/// # Errors
/// [`Error::Invalid`] for the field `email`.
pub(super) fn parse_email(email: &str) -> Result<EmailAddress> {
    EmailAddress::parse(email).map_err(|msg| Error::invalid("email", msg))
}

/// Converts a violation of the unique indexes of addresses to [`Error::EmailTaken`]. One index is on the
/// stored address, the other on its key.
///
/// # Errors
/// [`Error::EmailTaken`], or any other database error, converted.
pub(super) fn map_email_taken<T>(result: diesel::QueryResult<T>) -> Result<T> {
    result.map_err(|error| match &error {
        diesel::result::Error::DatabaseError(_, info)
            if matches!(info.constraint_name(), Some("users_email_key" | "users_email_key_key")) =>
        {
            Error::EmailTaken
        }
        _ => error.into(),
    })
}

/// Checks a new password in its normalized form, which is also the form that is hashed. Refuses common passwords, and published
/// defaults and examples. Requires no kinds of characters, such as digits (NIST SP 800-63B).
///
/// # Errors
/// A message for the user.
pub fn check_password(password: &str) -> Result<(), &'static str> {
    let password = &*normalize_password(password);
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err("Password must have at least 8 characters");
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err("Password must have at most 72 bytes; accented letters and emoji take 2 to 4 bytes each");
    }
    if password.contains('\0') {
        return Err("Password must not contain the NUL character");
    }
    if is_common(password) {
        return Err("Password is too common; choose another one");
    }
    if is_published_password(password) {
        return Err("Password is a published default or example; choose another one");
    }
    Ok(())
}

/// Checks a new password of the user with this address and name, as [`check_password`] and [`check_not_personal`] do.
///
/// # Errors
/// A message for the user.
pub fn check_password_of_user(
    password: &str,
    email: &str,
    full_name: Option<&str>,
) -> Result<(), &'static str> {
    check_password(password)?;
    match is_personal(password, email, full_name) {
        true => Err(PERSONAL_PASSWORD),
        false => Ok(()),
    }
}

/// Refuses a password that equals the email address, its local part or the name of the user. Ignores case, white space at
/// both ends, and digits and symbols at the end (OWASP ASVS 5, 6.2.11), unless nothing else is left.
///
/// # Errors
/// [`Error::Invalid`] for `field`.
pub fn check_not_personal(field: &str, password: &str, email: &str, full_name: Option<&str>) -> Result<()> {
    match is_personal(password, email, full_name) {
        true => Err(Error::invalid(field, PERSONAL_PASSWORD)),
        false => Ok(()),
    }
}

/// Returns whether [`check_not_personal`] refuses a password.
fn is_personal(password: &str, email: &str, full_name: Option<&str>) -> bool {
    let significant = |text: &str| {
        let text = normalize_password(text.trim()).to_lowercase();
        let stem = text.trim_end_matches(|c: char| !c.is_alphabetic());
        if stem.is_empty() { text } else { stem.to_owned() }
    };
    let local = email.split('@').next().unwrap_or_default();
    let password = significant(password);
    let personal = [Some(email), Some(local), full_name].into_iter().flatten();
    personal.map(significant).any(|text| text == password)
}

/// The data of a new account. The caller must have checked the password.
pub struct Registration {
    pub email: String,
    pub password: String,
    pub full_name: Option<String>,
}

/// Creates an active user and, if `PERSONAL_ORGANIZATIONS` is on, the user's personal organization. Sends a link to verify the
/// email address.
///
/// # Errors
/// [`Error::EmailTaken`] if the address is registered; [`Error::Invalid`] if the address is invalid or [`check_not_personal`]
/// refuses the password; [`Error::TooManyAttempts`] after too many mails by clients of this network or to the mailbox;
/// [`Error::Unavailable`] if PostgreSQL does not answer, or too many passwords are being hashed.
pub async fn register(app: &App, context: &RequestContext, new: Registration) -> Result<User> {
    let email = parse_email(&new.email)?.stored;
    check_not_personal("password", &new.password, &email, new.full_name.as_deref())?;
    Throttle::mail_by_client(app, context, &email).await?;
    let result = create_user(app, context, &email, new).await;
    match &result {
        Ok(user) => {
            let event = SecurityEvent::new(Event::UserRegistered).user(Some(user.id));
            event.email(&email).log(app, context);
        }
        Err(Error::EmailTaken) => {
            let event = SecurityEvent::new(Event::RegistrationRefused { reason: "email_taken" });
            event.email(&email).log(app, context);
        }
        Err(_) => {}
    }
    result
}

async fn create_user(app: &App, context: &RequestContext, email: &str, new: Registration) -> Result<User> {
    let lookup = EmailLookup::new(email);
    // Checked first, so that a registered address costs neither a hash nor a mail. For concurrent registrations, the
    // unique index below decides.
    if app.db.run(async |conn| Ok(User::find_by_email(conn, &lookup).await?)).await?.is_some() {
        return Err(Error::EmailTaken);
    }
    Throttle::mail_to_recipient(app, context, Purpose::VerifyEmail.as_str(), Recipient::Unverified(email))
        .await?;
    // Hashes before the transaction, because hashing is slow and must not hold a connection.
    let permit = app.passwords.permit(HashFor::Registration).await?;
    let hashed_password = permit.hash(new.password).await?;
    let row = NewUser {
        email,
        hashed_password: Some(&hashed_password),
        full_name: new.full_name.as_deref(),
        role: Role::User,
        email_verified_at: None,
    };
    let user = change_without_actor(app, context, async |tx| {
        let user = map_email_taken(row.insert(tx).await)?;
        let entry = Entry::by_self(user.id, Action::UserRegistered);
        entry.after(audit_fields(&user).into()).write(tx).await?;
        OutboxMessage::VerifyEmail { user_id: user.id }.send(tx).await?;
        personal_orgs::create(tx, &user, &app.config.organizations.personal).await?;
        Ok(user)
    })
    .await?;
    app.cache.invalidate(USER_COUNT).await;
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_long_common_and_published_passwords_are_refused() {
        assert!(check_password("1234567").is_err());
        assert!(check_password("12345678").is_err(), "too common");
        for public in ["changethis123", "ChangeThis123", "choose one", "and another", "one of your own"] {
            let refused = Err("Password is a published default or example; choose another one");
            assert_eq!(check_password(public), refused, "{public}");
        }
        assert!(check_password("correct horse").is_ok());
        assert!(check_password(&"correct horse battery staple ".repeat(3)[..72]).is_ok());
        assert!(check_password(&"x".repeat(73)).is_err());
        assert!(check_password(&"é".repeat(37)).is_err(), "74 bytes");
        assert!(check_password("pass\0word").is_err());
        // Lengths are those of the normalized password. é is one character of two bytes, even if it was typed as two
        // characters (three bytes).
        assert!(check_password("e\u{301}e\u{301}e\u{301}e\u{301}").is_err(), "4 characters");
        assert!(check_password(&"e\u{301}".repeat(36)).is_ok(), "72 bytes");
        assert!(check_password(&"e\u{301}".repeat(37)).is_err(), "74 bytes");
        // Normalization (NFC) can also make a password longer: this three-byte character becomes three characters of
        // two bytes.
        assert!(check_password(&"\u{FB2C}".repeat(13)).is_err(), "78 bytes");
    }

    #[test]
    fn a_password_is_compared_with_the_name_in_normalized_form() {
        let check =
            |password| check_not_personal("password", password, "a@example.com", Some("Zoe\u{308} Müller"));
        assert!(check("Zoë Müller").is_err() && check("Zoë Mu\u{308}ller!").is_err());
        assert!(check("Zoe Muller").is_ok());
    }

    #[test]
    fn a_password_is_compared_without_white_space_at_the_ends() {
        let check = |password, name| check_not_personal("password", password, "a@example.com", name);
        for (password, name) in [("Ada Lovelace", " Ada Lovelace"), ("\tada lovelace1", "Ada Lovelace ")] {
            assert!(check(password, Some(name)).is_err(), "{password:?}, {name:?}");
        }
        assert!(check("             ", None).is_ok());
    }

    #[test]
    fn a_password_without_letters_is_compared_as_a_whole() {
        for (email, name) in [("ada@example.com", None), ("8675309@example.com", Some("2024"))] {
            assert!(check_not_personal("password", "8675309-2024-1177", email, name).is_ok(), "{email}");
        }
        assert!(check_not_personal("password", "86753091", "86753091@example.com", None).is_err());
        assert!(check_not_personal("password", "AdaLovelace1815!", "adalovelace@example.com", None).is_err());
    }
}
