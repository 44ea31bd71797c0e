//! The second factor: codes of an authenticator (RFC 6238), and recovery codes for when that is lost.

use diesel_async::AsyncPgConnection;
use totp_rs::{Builder, Secret, Totp};

use super::{
    audit::{Action, Entry},
    outbox::OutboxMessage,
    throttle::Throttle,
    transaction::transaction,
    tx::Tx,
};
use crate::{
    app::App,
    context::RequestContext,
    error::{Error, Result},
    mail::Notice,
    models::{
        session::{Identity, Session},
        two_factor::{RecoveryCode, TwoFactor},
        user::User,
    },
    security::{self, random_bytes},
};

const RECOVERY_CODES: usize = 10;

/// How it stands with a user.
pub struct Status {
    pub enabled: bool,
    pub recovery_codes_left: i64,
}

/// What an authenticator has to be told. Not `Debug`.
pub struct Setup {
    /// In base 32, to be typed.
    pub secret: String,
    /// The same to be shown as a QR code.
    pub otpauth_uri: String,
}

pub async fn status(app: &App, user: &User) -> Result<Status> {
    app.db
        .run(async |conn| {
            let enabled = TwoFactor::is_on(conn, user.id).await?;
            Ok(Status { enabled, recovery_codes_left: RecoveryCode::count(conn, user.id).await? })
        })
        .await
}

/// Begins to turn it on: it is on once a code has been [`confirm`]ed.
///
/// # Errors
/// [`Error::Conflict`] where it is on already, or the server has no key to keep secrets with;
/// [`Error::EmailNotVerified`].
pub async fn begin(app: &App, context: &RequestContext, user: &User) -> Result<Setup> {
    if !app.sealer.is_set_up() {
        return Err(Error::Conflict(
            "Two-factor authentication is not set up here: TWO_FACTOR_KEY is missing",
        ));
    }
    // Whoever has not shown that the address is theirs could lock its owner out.
    if user.email_verified_at.is_none() {
        return Err(Error::EmailNotVerified);
    }
    let secret = random_bytes::<20>()?;
    let sealed = app.sealer.seal(&secret_aad(user.id), &secret)?;
    transaction(app, context, async |tx| {
        User::lock_checked(tx, user).await?.ok_or(Error::WrongPassword)?;
        match TwoFactor::begin(tx, user.id, &sealed).await? {
            0 => Err(ALREADY_ON),
            _ => Ok(()),
        }
    })
    .await?;
    let totp = totp(app, &user.email, &secret)?;
    let otpauth_uri = totp.to_url().map_err(Error::internal)?;
    Ok(Setup { secret: totp.secret().to_base32(), otpauth_uri })
}

const ALREADY_ON: Error = Error::Conflict("Two-factor authentication is on already");

/// Turns it on, and answers the recovery codes: they are shown this once. The session counts as signed in with it;
/// the others end, since they were not.
///
/// # Errors
/// [`Error::InvalidCode`]; [`Error::Conflict`] where it was not begun, or is on already.
pub async fn confirm(app: &App, context: &RequestContext, who: &Identity, code: &str) -> Result<Vec<String>> {
    let user = &who.user;
    guarded(app, context, user, async |tx: &Tx<'_>| {
        let known = TwoFactor::find(tx, user.id).await?;
        let known = known.ok_or(Error::Conflict("Ask for a secret first, then confirm it with a code"))?;
        if known.confirmed_at.is_some() {
            return Err(ALREADY_ON);
        }
        check_totp(app, tx, user, &known, code).await?;
        TwoFactor::confirm(tx, user.id).await?;
        Session::set_second_factor(tx, who.session.id).await?;
        Session::revoke_all(tx, user.id, Some(who.session.id)).await?;
        let codes = renew_codes(tx, user.id).await?;
        Entry::about(user.id, Action::TwoFactorEnabled).write(tx).await?;
        OutboxMessage::notice(user, Notice::TwoFactorEnabled).send(tx).await?;
        Ok(codes)
    })
    .await
}

/// Turns it off, for which a code is wanted.
///
/// # Errors
/// [`Error::InvalidCode`], [`Error::TooManyAttempts`].
pub async fn disable(app: &App, context: &RequestContext, user: &User, code: &str) -> Result<()> {
    guarded(app, context, user, async |tx: &Tx<'_>| {
        check(app, tx, user, code).await?;
        remove(tx, user).await?;
        Ok(())
    })
    .await
}

/// Turns it off for somebody who has lost everything; whether it was on.
pub async fn remove(tx: &Tx<'_>, user: &User) -> Result<bool> {
    let was_on = TwoFactor::delete(tx, user.id).await?;
    if was_on {
        Session::forget_second_factor(tx, user.id).await?;
        Entry::about(user.id, Action::TwoFactorDisabled).write(tx).await?;
        OutboxMessage::notice(user, Notice::TwoFactorDisabled).send(tx).await?;
    }
    Ok(was_on)
}

/// New recovery codes in the place of those there are, for which a code is wanted.
///
/// # Errors
/// [`Error::InvalidCode`], [`Error::TooManyAttempts`].
pub async fn replace_codes(
    app: &App,
    context: &RequestContext,
    user: &User,
    code: &str,
) -> Result<Vec<String>> {
    guarded(app, context, user, async |tx: &Tx<'_>| {
        check(app, tx, user, code).await?;
        let codes = renew_codes(tx, user.id).await?;
        Entry::about(user.id, Action::RecoveryCodesReplaced).write(tx).await?;
        Ok(codes)
    })
    .await
}

/// Does something that begins with a code, so that codes cannot be tried out by the thousand.
async fn guarded<T>(
    app: &App,
    context: &RequestContext,
    user: &User,
    work: impl AsyncFnOnce(&Tx<'_>) -> Result<T>,
) -> Result<T> {
    let attempt = Throttle::code(app, context, &user.email).await?;
    let result = transaction(app, context, async |tx| {
        User::lock_checked(tx, user).await?.ok_or(Error::InvalidToken)?;
        work(tx).await
    })
    .await;
    if result.is_ok() {
        attempt.succeeded().await;
    }
    result
}

/// Takes a code of the authenticator or a recovery code, which is used up by it.
///
/// # Errors
/// [`Error::InvalidCode`], also where the second factor is not on.
pub async fn check(app: &App, tx: &Tx<'_>, user: &User, code: &str) -> Result<()> {
    let known = TwoFactor::find(tx, user.id).await?;
    let known = known.filter(|known| known.confirmed_at.is_some()).ok_or(Error::InvalidCode)?;
    if digits(code).len() == 6 && code.chars().all(|c| c.is_ascii_digit() || c.is_whitespace()) {
        return check_totp(app, tx, user, &known, code).await;
    }
    if !RecoveryCode::take(tx, user.id, &security::hash(&plain(code))).await? {
        return Err(Error::InvalidCode);
    }
    Entry::by_themselves(user.id, Action::RecoveryCodeUsed).write(tx).await?;
    OutboxMessage::notice(user, Notice::RecoveryCodeUsed).send(tx).await
}

async fn check_totp(app: &App, tx: &Tx<'_>, user: &User, known: &TwoFactor, code: &str) -> Result<()> {
    let secret = app.sealer.open(&secret_aad(user.id), &known.secret)?;
    let now = chrono::Utc::now().timestamp().unsigned_abs();
    let step = totp(app, &user.email, &secret)?.check(&digits(code), now).ok_or(Error::InvalidCode)?;
    let step = i64::try_from(step).map_err(Error::internal)?;
    // Sealed again, so that a change of the key is over for everybody who has signed in since.
    let sealed = app.sealer.seal(&secret_aad(user.id), &secret)?;
    match TwoFactor::burn(tx, user.id, step, &sealed).await? {
        true => Ok(()),
        false => Err(Error::InvalidCode),
    }
}

async fn renew_codes(conn: &AsyncPgConnection, user_id: i64) -> Result<Vec<String>> {
    let code = || Ok(Secret::new(Box::new(random_bytes::<15>()?)).to_base32());
    let codes = (0..RECOVERY_CODES).map(|_| code()).collect::<Result<Vec<String>>>()?;
    let hashes: Vec<_> = codes.iter().map(|code| security::hash(code)).collect();
    RecoveryCode::replace(conn, user_id, &hashes).await?;
    Ok(codes.iter().map(|code| grouped(code)).collect())
}

/// SHA-1, 6 digits, 30 seconds, one step to either side: what every authenticator does.
fn totp(app: &App, account: &str, secret: &[u8]) -> Result<Totp> {
    // A colon ends the issuer in the label.
    let issuer = app.config.core.project_name.replace(':', " ");
    Builder::new()
        .with_secret(secret)
        .with_account_name(account.replace(':', " "))
        .with_issuer(Some(issuer))
        .build()
        .map_err(|error| Error::internal(error.to_string()))
}

/// A secret can be read in the row of its user only.
fn secret_aad(user_id: i64) -> String {
    format!("two_factor of user {user_id}")
}

fn digits(code: &str) -> String {
    code.chars().filter(char::is_ascii_digit).collect()
}

/// `abcd-efgh-..` as it was made.
fn plain(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase()
}

fn grouped(code: &str) -> String {
    let chars: Vec<_> = code.chars().collect();
    chars.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-").to_lowercase()
}
