//! Two-factor authentication with codes of an authenticator (TOTP, RFC 6238), and recovery codes for a lost
//! authenticator.

use chrono::Duration;
use totp_rs::{Builder, Totp};

use super::{
    actor::{Actor, Affected, LockedUsers},
    audit::{Action, Entry},
    outbox::OutboxMessage,
    recovery_codes::{normalize_recovery_code, renew_codes},
    security_event::{Event, SecurityEvent},
    sessions,
    throttle::Throttle,
    transaction::change,
};
use crate::{
    app::App,
    context::RequestContext,
    db::Tx,
    error::{Error, Result},
    mail::Notice,
    models::{
        one_time_token::{OneTimeToken, Purpose},
        session::Session,
        two_factor::{RecoveryCode, TwoFactor},
        user::User,
    },
    security::{self, random_bytes},
};

/// Maximum number of wrong codes of one user in a row within [`FAILURE_WINDOW`], over all challenges and operations. At this
/// rate, guessing a code of six digits takes several months on average. Only a client with the password or a session
/// can enter codes, so a stranger cannot delay the owner.
const MAX_FAILURES: i32 = 10;
const FAILURE_WINDOW: Duration = Duration::minutes(15);

/// The state of a user's two-factor authentication.
pub struct Status {
    pub enabled: bool,
    pub recovery_codes_left: i64,
}

/// The secret of an authenticator in two forms. Not `Debug`, so that the secret cannot get into a log.
pub struct Setup {
    /// The secret in Base32, for manual input.
    pub secret: String,
    /// The secret as an `otpauth` URI, for a QR code.
    pub otpauth_uri: String,
}

/// Returns whether the second factor is enabled, and how many recovery codes are unused.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn status(app: &App, user: &User) -> Result<Status> {
    app.db
        .run(async |conn| {
            let enabled = TwoFactor::is_enabled(conn, user.id).await?;
            Ok(Status { enabled, recovery_codes_left: RecoveryCode::count(conn, user.id).await? })
        })
        .await
}

/// Creates a secret for the actor's authenticator. [`confirm`] then enables the second factor. A new call replaces a secret
/// that is not confirmed yet. `user` is the row of the actor whose password was verified.
///
/// # Errors
/// [`Error::Conflict`] if the second factor is already enabled or `TWO_FACTOR_KEY` is not set;
/// [`Error::EmailNotVerified`] if the address of the user is not verified; [`Error::WrongPassword`] if the password was set
/// since the request began; and those of [`change`].
pub async fn begin(app: &App, actor: &Actor, user: &User) -> Result<Setup> {
    if !app.sealer.has_key() {
        return Err(Error::Conflict(
            "Two-factor authentication is not configured on this server: TWO_FACTOR_KEY is not set",
        ));
    }
    let secret = random_bytes::<20>()?;
    let sealed = app.sealer.seal(&secret_aad(user.id), &secret)?;
    change(app, actor, Affected::Actor, async |tx, locked| {
        // Without this check, a user who has registered the address of another person could lock out the owner of the
        // address.
        if locked.actor_if_password_unchanged(user)?.email_verified_at.is_none() {
            return Err(Error::EmailNotVerified);
        }
        match TwoFactor::begin(tx, user.id, &sealed).await? {
            0 => Err(ALREADY_ENABLED),
            _ => Ok(()),
        }
    })
    .await?;
    let totp = totp(app, &user.email, &secret)?;
    let otpauth_uri = totp.to_url().map_err(Error::internal)?;
    Ok(Setup { secret: totp.secret().to_base32(), otpauth_uri })
}

const ALREADY_ENABLED: Error = Error::Conflict("Two-factor authentication is already enabled");

/// Enables the second factor and returns new recovery codes, which cannot be read again.
///
/// The current session then counts as logged in with the second factor. The user's other sessions are revoked, because
/// they were opened without the second factor. The user gets a mail.
///
/// # Errors
/// [`Error::InvalidCode`] if the code is wrong; [`Error::TooManyAttempts`] after failed attempts; [`Error::Conflict`] without a
/// secret from [`begin`], or if the second factor is already enabled; and those of [`change`].
pub async fn confirm(app: &App, actor: &Actor, code: &str) -> Result<Vec<String>> {
    let session = actor.session().id;
    // Checks first that there is a secret to confirm: without one, the request must not count as an attempt.
    change(app, actor, Affected::Actor, async |tx, locked| {
        tx.set_identities_unchanged();
        find_unconfirmed(tx, locked.actor().id).await
    })
    .await?;
    run_throttled(app, actor, None, async |tx: &Tx<'_>, user: &User| {
        let two_factor = find_unconfirmed(tx, user.id).await?;
        verify_totp(app, tx, user, &two_factor, code).await?;
        TwoFactor::confirm(tx, user.id).await?;
        Session::set_second_factor(tx, session).await?;
        sessions::revoke_access(tx, user.id, Some(session), &[]).await?;
        let codes = renew_codes(tx, user.id).await?;
        Entry::new(user.id, Action::TwoFactorEnabled).write(tx).await?;
        OutboxMessage::notice(user, Notice::TwoFactorEnabled).send(tx).await?;
        Ok(codes)
    })
    .await
}

/// Returns the secret that a user has to confirm.
///
/// # Errors
/// [`Error::Conflict`] without a secret, or if the second factor is already enabled.
async fn find_unconfirmed(tx: &Tx<'_>, user_id: i64) -> Result<TwoFactor> {
    let found = TwoFactor::find(tx, user_id).await?;
    let found = found.ok_or(Error::Conflict("Request a secret first, then confirm it with a code"))?;
    match found.confirmed_at {
        Some(_) => Err(ALREADY_ENABLED),
        None => Ok(found),
    }
}

/// Disables the second factor, which requires a code, and notifies the user by mail. `confirmed` is the row of the actor whose
/// password was verified.
///
/// # Errors
/// [`Error::InvalidCode`] if the code is wrong or the second factor is not enabled; [`Error::TooManyAttempts`] after
/// failed attempts; [`Error::WrongPassword`] if the password was set since the request began; and those of [`change`].
pub async fn disable(app: &App, actor: &Actor, confirmed: &User, code: &str) -> Result<()> {
    run_throttled(app, actor, Some(confirmed), async |tx: &Tx<'_>, user: &User| {
        verify_code(app, tx, user, code).await?;
        remove(tx, user).await?;
        Ok(())
    })
    .await
}

/// Verifies a code of an actor who has a second factor, before an action that a stolen session must not allow. Does
/// nothing if the actor has no second factor. `confirmed` is the row of the actor whose password was verified.
///
/// # Errors
/// [`Error::Invalid`] if the code is missing; [`Error::InvalidCode`] if the code is wrong; [`Error::TooManyAttempts`]
/// after failed attempts; [`Error::WrongPassword`] if the password was set since the request began; and those of [`change`].
pub async fn confirm_code(app: &App, actor: &Actor, confirmed: &User, code: Option<&str>) -> Result<()> {
    let user_id = actor.user().id;
    if !app.db.run(async |conn| Ok(TwoFactor::is_enabled(conn, user_id).await?)).await? {
        return Ok(());
    }
    let code = code.ok_or_else(|| {
        Error::invalid("code", "You have two-factor authentication: enter a code of the authenticator")
    })?;
    let verify = async |tx: &Tx<'_>, user: &User| verify_code(app, tx, user, code).await;
    run_throttled(app, actor, Some(confirmed), verify).await
}

/// Disables the second factor without a code: deletes the secret and the recovery codes. If the second factor was enabled,
/// also revokes the login challenges of the user, and notifies the user by mail. Returns whether the second factor was enabled.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn remove(tx: &Tx<'_>, user: &User) -> Result<bool> {
    let was_enabled = TwoFactor::delete(tx, user.id).await?;
    if was_enabled {
        Session::clear_second_factor(tx, user.id).await?;
        // Revokes login challenges too, because they must not accept a code of an authenticator that the user sets up later.
        OneTimeToken::revoke(tx, user.id, &[Purpose::SecondFactor]).await?;
        Entry::new(user.id, Action::TwoFactorDisabled).write(tx).await?;
        OutboxMessage::notice(user, Notice::TwoFactorDisabled).send(tx).await?;
    }
    Ok(was_enabled)
}

/// Replaces the recovery codes. `code` is one of the authenticator or a recovery code. Returns the new recovery codes.
///
/// # Errors
/// As [`disable`], without those about the password.
pub async fn replace_codes(app: &App, actor: &Actor, code: &str) -> Result<Vec<String>> {
    run_throttled(app, actor, None, async |tx: &Tx<'_>, user: &User| {
        verify_code(app, tx, user, code).await?;
        let codes = renew_codes(tx, user.id).await?;
        Entry::new(user.id, Action::RecoveryCodesReplaced).write(tx).await?;
        Ok(codes)
    })
    .await
}

/// Runs a transaction that verifies a code, within the rate limits of codes. `confirmed` is the row of the actor whose
/// password was verified, if the operation requires the password.
async fn run_throttled<T>(
    app: &App,
    actor: &Actor,
    confirmed: Option<&User>,
    work: impl AsyncFnOnce(&Tx<'_>, &User) -> Result<T> + Clone,
) -> Result<T> {
    let user = actor.user();
    let attempt = Throttle::code(app, actor.context(), user).await?;
    count_attempt(app, actor.context(), user.id).await?;
    let checked = async |tx: &Tx<'_>, locked: &LockedUsers| {
        let user = match confirmed {
            Some(confirmed) => locked.actor_if_password_unchanged(confirmed)?,
            None => locked.actor(),
        };
        let result = work.clone()(tx, user).await?;
        TwoFactor::reset_failures(tx, user.id).await?;
        Ok(result)
    };
    let result = change(app, actor, Affected::Actor, checked).await;
    match &result {
        Ok(_) => attempt.record_success().await,
        Err(Error::InvalidCode) => SecurityEvent::new(Event::CodeRefused).log(app, actor.context()),
        Err(_) => {}
    }
    result
}

/// Counts an attempt with a code as failed. After a correct code, the caller resets the count by [`TwoFactor::reset_failures`].
/// PostgreSQL stores the count, so this limit also holds without Redis, and for all processes together.
///
/// # Errors
/// [`Error::TooManyAttempts`] if the user has had `MAX_FAILURES` within `FAILURE_WINDOW`; [`Error::Unavailable`] if PostgreSQL
/// does not answer.
pub async fn count_attempt(app: &App, context: &RequestContext, user_id: i64) -> Result<()> {
    let refused = app
        .db
        .run(async |conn| Ok(TwoFactor::count_attempt(conn, user_id, MAX_FAILURES, FAILURE_WINDOW).await?));
    match refused.await? {
        None => Ok(()),
        Some(rest) => {
            let seconds = rest.num_seconds().clamp(1, FAILURE_WINDOW.num_seconds());
            let event = SecurityEvent::new(Event::AttemptThrottled { rule: "codes" });
            event.user(Some(user_id)).log(app, context);
            Err(Error::TooManyAttempts { retry_after: seconds.unsigned_abs() })
        }
    }
}

/// Verifies a code of the authenticator or a recovery code. Each code can be used once. The use of a recovery code is announced
/// to the user by mail.
///
/// # Errors
/// [`Error::InvalidCode`] for a wrong or used code, or if the second factor is not enabled; [`Error::Unavailable`] if
/// PostgreSQL does not answer.
pub async fn verify_code(app: &App, tx: &Tx<'_>, user: &User, code: &str) -> Result<()> {
    let two_factor = TwoFactor::find(tx, user.id).await?;
    let two_factor =
        two_factor.filter(|two_factor| two_factor.confirmed_at.is_some()).ok_or(Error::InvalidCode)?;
    if digits(code).len() == 6 && code.chars().all(|c| c.is_ascii_digit() || c.is_whitespace()) {
        return verify_totp(app, tx, user, &two_factor, code).await;
    }
    if !RecoveryCode::consume(tx, user.id, &security::hash(&normalize_recovery_code(code))).await? {
        return Err(Error::InvalidCode);
    }
    Entry::by_self(user.id, Action::RecoveryCodeUsed).write(tx).await?;
    OutboxMessage::notice(user, Notice::RecoveryCodeUsed).send(tx).await
}

async fn verify_totp(app: &App, tx: &Tx<'_>, user: &User, two_factor: &TwoFactor, code: &str) -> Result<()> {
    let secret = app.sealer.open(&secret_aad(user.id), &two_factor.secret)?;
    // Uses the clock of the database, so that all replicas accept the same codes.
    let now = two_factor.clock.now().timestamp().unsigned_abs();
    let step = totp(app, &user.email, &secret)?.check(&digits(code), now).ok_or(Error::InvalidCode)?;
    let step = i64::try_from(step).map_err(Error::internal)?;
    // Each use of a TOTP code encrypts the secret again, with the current key. So a rotation of the key
    // reaches this user.
    let sealed = app.sealer.seal(&secret_aad(user.id), &secret)?;
    match TwoFactor::consume_step(tx, user.id, step, &sealed).await? {
        true => Ok(()),
        false => Err(Error::InvalidCode),
    }
}

/// Returns the TOTP of a secret, with the default parameters of authenticators: SHA-1, 6 digits, time steps of 30
/// seconds. The TOTP also accepts the code of the previous and the next time step.
fn totp(app: &App, account: &str, secret: &[u8]) -> Result<Totp> {
    // Replaces colons, because a colon separates the issuer from the account in the label of the URI.
    let issuer = app.config.core.project_name.replace(':', " ");
    Builder::new()
        .with_secret(secret)
        .with_account_name(account.replace(':', " "))
        .with_issuer(Some(issuer))
        .build()
        .map_err(|error| Error::internal(error.to_string()))
}

/// Returns the additional authenticated data that binds a secret to the row of its user.
fn secret_aad(user_id: i64) -> String {
    format!("two_factor of user {user_id}")
}

fn digits(code: &str) -> String {
    code.chars().filter(char::is_ascii_digit).collect()
}
