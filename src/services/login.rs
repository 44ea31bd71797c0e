//! Login with a password and, if the user has enabled it, a second factor.

use std::fmt;

use chrono::Duration;

use super::{
    actor::Actor,
    admin_password,
    audit::{Action, Entry},
    security_event::{Event, SecurityEvent},
    sessions::{self, Grant},
    throttle::Throttle,
    transaction::change_without_actor,
    two_factor,
};
use crate::{
    app::App,
    context::RequestContext,
    db::Tx,
    email_address::EmailLookup,
    error::{Error, Result},
    models::{
        one_time_token::{OneTimeToken, Purpose},
        two_factor::TwoFactor,
        user::{User, UserChanges},
    },
    security::{
        self, HashFor, MAX_PASSWORD_BYTES, OpaqueToken, PasswordMatch, TokenSubject, normalize_password,
    },
};

/// Maximum number of codes that a client can try with one challenge.
const MAX_CODE_ATTEMPTS: i32 = 5;
/// Lifetime of a challenge.
const CHALLENGE_SECONDS: u32 = 300;

/// The result of [`login`] with a correct password.
pub enum Login {
    LoggedIn(Grant),
    /// The user has a second factor, so the login also requires a code.
    Challenge(Challenge),
}

/// A proof of a correct password. The client exchanges it, together with a code, for a session.
#[derive(Clone)]
pub struct Challenge {
    pub token: String,
    /// Lifetime in seconds.
    pub expires_in: u64,
}

/// Omits the token, which is secret.
impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// Logs a user in with a password. A login that opens a session revokes the sessions in `replaced`, to which the tokens in the
/// cookies of the browser belong, and cancels a scheduled deletion of the account.
///
/// # Errors
/// - [`Error::BadCredentials`] for an unknown address, a wrong password or an inactive user, and for a password that was
///   replaced while it was verified. Also for an admin with a published password, unless `DEBUG` is on. An unknown address and a
///   wrong password take the same time, so that a client cannot find out which addresses are registered (OWASP ASVS 5, 6.3.8).
///   The exception is a hash whose work factor is above `BCRYPT_COST`.
/// - [`Error::TooManyAttempts`] after failed attempts or too many password hashes.
/// - [`Error::EmailNotVerified`] if `REQUIRE_VERIFIED_EMAIL` is set and the address is not verified.
/// - [`Error::Unavailable`] if too many passwords are being hashed or PostgreSQL does not answer.
pub async fn login(
    app: &App,
    context: &RequestContext,
    email: &str,
    password: String,
    replaced: &[TokenSubject],
) -> Result<Login> {
    let lookup = EmailLookup::new(email);
    let found = app.db.run(async |conn| Ok(User::find_by_email(conn, &lookup).await?)).await?;
    let hash = found.as_ref().and_then(|user| user.hashed_password.clone());
    let user_id = found.as_ref().map(|user| user.id);
    let about = |event| SecurityEvent::new(event).user(user_id).email(email);
    let (attempt, result) = verify_password(app, context, email, user_id, password.clone(), hash).await?;
    let user = match (refusal(app, found.as_ref(), result.is_match(), &password), found) {
        (None, Some(user)) => user,
        (reason, _) => {
            attempt.record_failure().await;
            let reason = reason.unwrap_or("unknown_account");
            about(Event::LoginRefused { reason }).log(app, context);
            return Err(Error::BadCredentials);
        }
    };
    if app.config.auth.require_verified_email && user.email_verified_at.is_none() {
        about(Event::LoginRefused { reason: "email_not_verified" }).log(app, context);
        return Err(Error::EmailNotVerified);
    }
    let login = open_session_or_challenge(app, context, &user, replaced).await?;
    match &login {
        Login::LoggedIn(grant) => {
            attempt.record_success().await;
            let event = about(Event::LoginAccepted { second_factor: false });
            event.session(grant.session_id).log(app, context);
        }
        Login::Challenge(_) => about(Event::LoginChallenged).log(app, context),
    }
    rehash(app, &user, password, result).await;
    Ok(login)
}

/// Returns the reason why a login is refused, or `None` if it is accepted. Only the log contains the reason.
fn refusal(app: &App, found: Option<&User>, matches: bool, password: &str) -> Option<&'static str> {
    match found {
        None => Some("unknown_account"),
        Some(_) if !matches => Some("wrong_password"),
        Some(user) if !user.is_active => Some("inactive_user"),
        Some(user) if admin_password::is_refused(app, user, password) => Some("default_password"),
        Some(_) => None,
    }
}

/// Verifies a password within the rate limits.
///
/// The limits are checked before hashing, because a hash is expensive. They are checked again after hashing, because
/// concurrent attempts may have failed in the meantime.
async fn verify_password<'a>(
    app: &'a App,
    context: &'a RequestContext,
    email: &'a str,
    user_id: Option<i64>,
    password: String,
    hash: Option<String>,
) -> Result<(Throttle<'a>, PasswordMatch)> {
    let attempt = Throttle::password(app, context, email, user_id).await?;
    let permit = app.passwords.permit(attempt.hash_for()).await?;
    let result = permit.verify(password, hash).await?;
    attempt.check().await?;
    Ok((attempt, result))
}

/// Opens a session for a user whose password was correct, or returns a challenge if the user has a second factor.
async fn open_session_or_challenge(
    app: &App,
    context: &RequestContext,
    user: &User,
    replaced: &[TokenSubject],
) -> Result<Login> {
    let (token, purpose) = (OpaqueToken::random()?, Purpose::SecondFactor);
    change_without_actor(app, context, async |tx| {
        // Locks the user before the second factor is read, because a concurrent request may enable it.
        let user = lock_unchanged(tx, user).await?;
        if TwoFactor::is_enabled(tx, user.id).await? {
            let lifetime = Duration::seconds(CHALLENGE_SECONDS.into());
            OneTimeToken::insert(tx, &token.hash, user.id, purpose, None, lifetime).await?;
            tx.set_identities_unchanged();
            return Ok(Login::Challenge(Challenge {
                token: token.text,
                expires_in: CHALLENGE_SECONDS.into(),
            }));
        }
        Ok(Login::LoggedIn(open_session(app, tx, user, false, replaced).await?))
    })
    .await
}

/// Completes a login with the challenge and a code from the authenticator or a recovery code. Revokes the sessions in
/// `replaced` and cancels a scheduled deletion of the account, as [`login`] does.
///
/// # Errors
/// [`Error::InvalidCode`] for a wrong code, and for a challenge that is unknown, used, expired, out of attempts or of an
/// inactive user; [`Error::BadCredentials`] if the user was deactivated or the password was set while the code was checked;
/// [`Error::TooManyAttempts`] after failed attempts; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn complete_with_code(
    app: &App,
    context: &RequestContext,
    challenge: &str,
    code: &str,
    replaced: &[TokenSubject],
) -> Result<Grant> {
    let hash = security::hash(challenge);
    let user =
        app.db.run(async |conn| Ok(OneTimeToken::owner(conn, &hash, Purpose::SecondFactor).await?)).await?;
    let user = user.filter(|user| user.is_active);
    let granted = match &user {
        Some(user) => accept_code(app, context, user, &hash, code, replaced).await,
        None => Err(Error::InvalidCode),
    };
    let about = |event| SecurityEvent::new(event).user(user.as_ref().map(|user| user.id));
    match &granted {
        Ok(grant) => {
            let event = about(Event::LoginAccepted { second_factor: true });
            event.session(grant.session_id).log(app, context);
        }
        Err(Error::InvalidCode) => about(Event::CodeRefused).log(app, context),
        Err(_) => {}
    }
    granted
}

/// Opens a session for the owner of a challenge, if the code is right. `hash` is the hash of the challenge.
async fn accept_code(
    app: &App,
    context: &RequestContext,
    user: &User,
    hash: &[u8],
    code: &str,
    replaced: &[TokenSubject],
) -> Result<Grant> {
    let attempt = Throttle::code(app, context, user).await?;
    // Counted outside the transaction below, so that a rollback does not undo the count.
    let is_allowed = app
        .db
        .run(async |conn| {
            Ok(OneTimeToken::count_attempt(conn, hash, Purpose::SecondFactor, MAX_CODE_ATTEMPTS).await?)
        })
        .await?;
    if !is_allowed {
        return Err(Error::InvalidCode);
    }
    two_factor::count_attempt(app, context, user.id).await?;
    let granted = change_without_actor(app, context, async |tx| {
        let user = lock_unchanged(tx, user).await?;
        two_factor::verify_code(app, tx, &user, code).await?;
        TwoFactor::reset_failures(tx, user.id).await?;
        OneTimeToken::consume(tx, hash, Purpose::SecondFactor).await?.ok_or(Error::InvalidCode)?;
        open_session(app, tx, user, true, replaced).await
    })
    .await?;
    attempt.record_success().await;
    Throttle::reset(app, context, user).await;
    Ok(granted)
}

/// Locks a user whose password was verified.
///
/// # Errors
/// [`Error::BadCredentials`] if the user was deactivated or the password was set since `checked` was read.
async fn lock_unchanged(tx: &Tx<'_>, checked: &User) -> Result<User> {
    User::lock_if_unchanged(tx, checked).await?.ok_or(Error::BadCredentials)
}

/// Opens a session for a locked user. Revokes the sessions in `replaced`, and cancels a scheduled deletion of the
/// account.
async fn open_session(
    app: &App,
    tx: &Tx<'_>,
    user: User,
    second_factor: bool,
    replaced: &[TokenSubject],
) -> Result<Grant> {
    let has_replaced = sessions::revoke_replaced(tx, replaced).await?;
    if user.deletion_due_at.is_some() {
        let changes = UserChanges { deletion_due_at: Some(None), ..Default::default() };
        User::update(tx, user.id, &changes).await?;
        Entry::by_self(user.id, Action::UserDeletionCancelled).write(tx).await?;
    } else if !has_replaced {
        // A new session changes no cached identity.
        tx.set_identities_unchanged();
    }
    sessions::open(app, tx, &user, second_factor).await
}

/// Replaces an outdated hash: its work factor is below `BCRYPT_COST`, or it was computed from the password before
/// Unicode normalization. A login does this, because a new hash needs the password. If this fails, the next login tries
/// again. Keeps the hash of a password that is too long in its normalized form: only the typed form can match.
async fn rehash(app: &App, user: &User, password: String, result: PasswordMatch) {
    if normalize_password(&password).len() > MAX_PASSWORD_BYTES {
        return;
    }
    let is_outdated = |hash: &&str| result == PasswordMatch::AsTyped || app.passwords.is_outdated(hash);
    let Some(old) = user.hashed_password.as_deref().filter(is_outdated) else {
        return;
    };
    let rehashed = async {
        let new = app.passwords.hash(password).await?;
        app.db.run(async |conn| Ok(User::rehash(conn, user.id, old, &new).await?)).await
    };
    match rehashed.await {
        Ok(_) => tracing::info!(user_id = user.id, "password rehashed"),
        Err(error) => tracing::warn!(
            user_id = user.id,
            error = crate::error::chain(&error),
            "cannot rehash a password; retrying at the next login"
        ),
    }
}

/// A signed-in user whose password was verified.
pub struct ConfirmedPassword {
    /// The row whose password was verified.
    pub user: User,
    /// The share from which the user may hash a new password.
    pub hash_for: HashFor,
}

/// Verifies the password of a signed-in user, before an action that a stolen session must not allow.
///
/// # Errors
/// [`Error::WrongPassword`]; [`Error::InvalidToken`] if the account no longer exists; [`Error::TooManyAttempts`] after failed
/// attempts or too many password hashes; [`Error::Unavailable`] if too many passwords are being hashed or PostgreSQL does not
/// answer.
pub async fn confirm_password(app: &App, actor: &Actor, password: String) -> Result<ConfirmedPassword> {
    let user_id = actor.user().id;
    // The user of an `Identity` has no password hash, so the user is read again.
    let found = app.db.run(async |conn| Ok(User::find(conn, user_id).await?)).await?;
    let user = found.ok_or(Error::InvalidToken)?;
    let hash = user.hashed_password.clone();
    let (attempt, result) =
        verify_password(app, actor.context(), &user.email, Some(user_id), password, hash).await?;
    if result.is_match() {
        let hash_for = attempt.hash_for();
        attempt.record_success().await;
        Ok(ConfirmedPassword { user, hash_for })
    } else {
        attempt.record_failure().await;
        Err(Error::WrongPassword)
    }
}
