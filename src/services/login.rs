//! Signing in: password, then the second factor where there is one.

use chrono::Duration;

use super::{
    audit::{Action, Entry},
    sessions::{self, Grant},
    throttle::Throttle,
    transaction::transaction,
    two_factor,
    tx::Tx,
    users::normalize_email,
};
use crate::{
    app::App,
    context::RequestContext,
    error::{Error, Result},
    models::{
        one_time_token::{OneTimeToken, Purpose},
        two_factor::TwoFactor,
        user::{User, UserChanges},
    },
    security::{self, OpaqueToken},
};

/// Codes that may be tried with one challenge.
const TRIES: i32 = 5;
/// How long a challenge can be answered, in seconds.
const CHALLENGE_SECONDS: u32 = 300;

pub enum Login {
    LoggedIn(Grant),
    /// The password was right, and a code is wanted too.
    Challenge(Challenge),
}

/// A password was right; this and a code sign in.
pub struct Challenge {
    pub token: String,
    /// Seconds.
    pub expires_in: u64,
}

/// Signs in with a password.
///
/// # Errors
/// [`Error::BadCredentials`] for an unknown address, a wrong password and an inactive user alike, after the same
/// time (OWASP ASVS 5, 6.3.8); [`Error::TooManyAttempts`]; [`Error::EmailNotVerified`] where the setting wants that.
pub async fn login(app: &App, context: &RequestContext, email: &str, password: String) -> Result<Login> {
    let email = normalize_email(email);
    let found = app.db.run(async |conn| Ok(User::find_by_email(conn, &email).await?)).await?;
    let hash = found.as_ref().and_then(|user| user.hashed_password.clone());
    let (attempt, matches) = try_password(app, context, &email, password.clone(), hash).await?;
    let Some(user) = found.filter(|user| matches && user.is_active) else {
        attempt.failed().await;
        tracing::info!("login refused: wrong address or password");
        return Err(Error::BadCredentials);
    };
    if app.config.auth.require_verified_email && user.email_verified_at.is_none() {
        return Err(Error::EmailNotVerified);
    }
    let login = enter(app, context, &user).await?;
    if matches!(login, Login::LoggedIn(_)) {
        attempt.succeeded().await;
    }
    rehash(app, &user, password).await;
    Ok(login)
}

/// Verifies a password within the limits for attempts. They are checked before the hash, which is expensive, and again
/// after it: of many attempts at once, each is subject to the failures of those that ended before it.
async fn try_password<'a>(
    app: &'a App,
    context: &RequestContext,
    email: &str,
    password: String,
    hash: Option<String>,
) -> Result<(Throttle<'a>, bool)> {
    let attempt = Throttle::password(app, context, email).await?;
    let matches = app.passwords.verify(password, hash).await?;
    attempt.check().await?;
    Ok((attempt, matches))
}

/// Opens a session for a user whose password was right, or asks for the second factor.
async fn enter(app: &App, context: &RequestContext, user: &User) -> Result<Login> {
    let (token, purpose) = (OpaqueToken::random()?, Purpose::SecondFactor);
    transaction(app, context, async |tx| {
        if TwoFactor::is_on(tx, user.id).await? {
            User::lock_checked(tx, user).await?.ok_or(Error::BadCredentials)?;
            let lifetime = Duration::seconds(CHALLENGE_SECONDS.into());
            OneTimeToken::insert(tx, &token.hash, user.id, purpose, None, lifetime).await?;
            tx.keeps_identities();
            return Ok(Login::Challenge(Challenge {
                token: token.text,
                expires_in: CHALLENGE_SECONDS.into(),
            }));
        }
        let user = lock_and_reactivate(tx, user).await?;
        Ok(Login::LoggedIn(sessions::open(app, tx, &user, false).await?))
    })
    .await
}

/// Signs in with the code that a challenge asks for: of the authenticator, or a recovery code.
///
/// # Errors
/// [`Error::InvalidCode`], also for a challenge that is used up, too old or unknown; [`Error::TooManyAttempts`].
pub async fn second_factor(
    app: &App,
    context: &RequestContext,
    challenge: &str,
    code: &str,
) -> Result<Grant> {
    let hash = security::hash(challenge);
    let user =
        app.db.run(async |conn| Ok(OneTimeToken::owner(conn, &hash, Purpose::SecondFactor).await?)).await?;
    let user = user.filter(|user| user.is_active).ok_or(Error::InvalidCode)?;
    let attempt = Throttle::challenge(app, context, &user.email).await?;
    // The try counts whatever becomes of it, so it is not part of the transaction below.
    let tried = app
        .db
        .run(async |conn| Ok(OneTimeToken::attempt(conn, &hash, Purpose::SecondFactor, TRIES).await?))
        .await?;
    if !tried {
        return Err(Error::InvalidCode);
    }
    let granted = transaction(app, context, async |tx| {
        let user = lock_and_reactivate(tx, &user).await?;
        two_factor::check(app, tx, &user, code).await?;
        // Once it has signed somebody in, it is of no more use.
        OneTimeToken::take(tx, &hash, Purpose::SecondFactor).await?.ok_or(Error::InvalidCode)?;
        sessions::open(app, tx, &user, true).await
    })
    .await?;
    attempt.succeeded().await;
    Throttle::reset(app, context, &user.email).await;
    Ok(granted)
}

/// The user, if they may still sign in with what was checked a moment ago. Signing in keeps an account that was to
/// be deleted.
async fn lock_and_reactivate(tx: &Tx<'_>, checked: &User) -> Result<User> {
    let user = User::lock_checked(tx, checked).await?.ok_or(Error::BadCredentials)?;
    if user.deletion_due_at.is_none() {
        return Ok(user);
    }
    let user =
        User::update(tx, user.id, &UserChanges { deletion_due_at: Some(None), ..Default::default() }).await?;
    Entry::by_themselves(user.id, Action::UserDeletionCancelled).write(tx).await?;
    Ok(user)
}

/// Brings the hash to today's work factor; now is the only time that the password is known. If that fails, the
/// next login does it.
async fn rehash(app: &App, user: &User, password: String) {
    let Some(old) = user.hashed_password.as_deref().filter(|hash| app.passwords.is_outdated(hash)) else {
        return;
    };
    let renewed = async {
        let new = app.passwords.hash(password).await?;
        app.db.run(async |conn| Ok(User::rehash(conn, user.id, old, &new).await?)).await
    };
    match renewed.await {
        Ok(_) => tracing::info!(user_id = user.id, "password hash renewed with the present BCRYPT_COST"),
        Err(error) => tracing::warn!(error = crate::error::chain(&error), "password hash not renewed"),
    }
}

/// Checks the password of somebody who is signed in, before something that a stolen session must not do.
///
/// # Errors
/// [`Error::WrongPassword`], [`Error::TooManyAttempts`].
pub async fn confirm_password(
    app: &App,
    context: &RequestContext,
    user: &User,
    password: String,
) -> Result<()> {
    // What is known of who is signed in has no hash.
    let found = app.db.run(async |conn| Ok(User::find(conn, user.id).await?)).await?;
    let hash = found.and_then(|user| user.hashed_password);
    let (attempt, matches) = try_password(app, context, &user.email, password, hash).await?;
    if matches {
        attempt.succeeded().await;
        Ok(())
    } else {
        attempt.failed().await;
        Err(Error::WrongPassword)
    }
}
