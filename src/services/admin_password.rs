//! Admins with the default password, and how the command line replaces the password of an admin.
//!
//! The default password is public. Only `saas dev` creates an admin with it, in its private database. In any other database, an
//! earlier release or SQL may have created such an admin, and anyone could log in as this admin. Unless `DEBUG` is on,
//! `is_refused` prevents that login. [`find_default_passwords_at_start`] looks for such admins before a server listens, and
//! [`find_default_passwords`] for `saas doctor`.

use std::time::Duration;

use diesel_async::AsyncPgConnection;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    audit::{Action, Entry},
    outbox::OutboxMessage,
    sessions, two_factor,
};
use crate::{
    app::App,
    config::{DEFAULT_ADMIN_PASSWORD, is_published_password},
    context::RequestContext,
    db::{self, Effects, Tx},
    email_address::EmailLookup,
    error::{Error, Result},
    mail::Notice,
    models::{
        one_time_token::Purpose,
        two_factor::TwoFactor,
        user::{Role, User, UserChanges},
    },
    security::{Passwords, hash, hex, normalize_password},
};

/// Maximum number of admins whose passwords a server verifies when it starts. If there are more admins, the server verifies
/// only the newest passwords, because each verification costs a bcrypt hash and delays the start.
pub const MAX_ADMINS_AT_START: u32 = 20;
/// Time to live of a cached result: whether a password hash is a hash of the default password. The result never changes,
/// because a new password has another hash.
const RESULT_CACHE_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Returns whether to refuse the login of an admin although the password is correct, because the password is public.
/// With `DEBUG` on, the login is allowed, since `saas dev` creates an admin with the default password.
pub(super) fn is_refused(app: &App, user: &User, password: &str) -> bool {
    let is_public = is_published_password(&normalize_password(password));
    let refused = !app.config.core.debug && user.role == Role::Admin && is_public;
    if refused {
        tracing::warn!(
            user_id = user.id,
            "login refused: this admin has the default password or an example of the documentation, which are public; \
             set another one with `saas create-admin --set-password`"
        );
    }
    refused
}

/// Returns the addresses of active admins who have the default password. Checks only the `limit` admins with the newest
/// passwords.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer or too many passwords are being hashed.
pub async fn find_default_passwords(
    conn: &AsyncPgConnection,
    passwords: &Passwords,
    limit: u32,
) -> Result<Vec<String>> {
    let admins = User::admin_passwords(conn, limit.into()).await?;
    find(admins, async |hash| is_default_password(passwords, hash).await).await
}

/// Same as [`find_default_passwords`] with [`MAX_ADMINS_AT_START`], but caches the result for each hash in Redis. So a start
/// computes bcrypt only for hashes without a cached result. Without Redis, each start computes bcrypt for all hashes.
///
/// # Errors
/// As [`find_default_passwords`].
pub async fn find_default_passwords_at_start(app: &App) -> Result<Vec<String>> {
    let admins =
        app.db.run(async |conn| Ok(User::admin_passwords(conn, MAX_ADMINS_AT_START.into()).await?)).await?;
    find(admins, async |text| {
        let key = format!("default-password:{}", hex(&hash(text)));
        app.cache
            .get_or_load(&key, RESULT_CACHE_TTL, async || is_default_password(&app.passwords, text).await)
            .await
    })
    .await
}

async fn is_default_password(passwords: &Passwords, hash: &str) -> Result<bool> {
    passwords.verify(DEFAULT_ADMIN_PASSWORD.into(), Some(hash.to_owned())).await
}

/// Returns the addresses of the admins for whose password hash `has_default` returns true. `admins` are pairs of
/// address and hash.
async fn find(
    admins: Vec<(String, String)>,
    has_default: impl AsyncFn(&str) -> Result<bool>,
) -> Result<Vec<String>> {
    // One hash per core: more would wait for a free core, and `Passwords` limits the time of that wait.
    let concurrency = std::thread::available_parallelism().map_or(1, usize::from);
    let has_default = &has_default;
    let checked = stream::iter(admins)
        .map(|(email, hash)| async move { Ok(has_default(&hash).await?.then_some(email)) })
        .buffered(concurrency);
    checked.try_filter_map(async |email| Ok(email)).try_collect().await
}

/// The result of [`replace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplacedPassword {
    /// Whether two-factor authentication was turned off.
    pub two_factor_disabled: bool,
    /// Whether a scheduled deletion of the account was canceled.
    pub deletion_canceled: bool,
    /// Whether the admin is active. A deactivated admin cannot log in.
    pub is_active: bool,
}

/// Sets the password of an admin, and revokes all sessions, links and login challenges of the admin. Also cancels a pending
/// change of the address and a scheduled deletion of the account, and resets the count of wrong codes of the second factor. The
/// admin gets a mail. With `disable_two_factor`, also turns two-factor authentication off. The caller must have checked that the
/// password is allowed.
///
/// # Errors
/// [`Error::NotFound`] if no admin has the address; [`Error::Unavailable`] if PostgreSQL does not answer or too many passwords
/// are being hashed.
pub async fn replace(
    conn: &mut AsyncPgConnection,
    passwords: &Passwords,
    email: &str,
    password: String,
    disable_two_factor: bool,
) -> Result<ReplacedPassword> {
    let hashed_password = passwords.hash(password).await?;
    let (context, effects) = (RequestContext::default(), Effects::default());
    db::transaction(conn, async |conn| {
        let tx = &Tx::on(conn, &context, &effects);
        let found =
            User::find_by_email(tx, &EmailLookup::new(email)).await?.ok_or(Error::NotFound("Admin"))?;
        let user = User::lock(tx, found.id).await?.filter(|user| user.role == Role::Admin);
        let user = user.ok_or(Error::NotFound("Admin"))?;
        let changes = UserChanges { deletion_due_at: Some(None), ..UserChanges::password(&hashed_password) };
        User::update(tx, user.id, &changes).await?;
        sessions::revoke_access(tx, user.id, None, Purpose::ALL).await?;
        Entry::new(user.id, Action::PasswordChanged).write(tx).await?;
        let deletion_canceled = user.deletion_due_at.is_some();
        if deletion_canceled {
            Entry::new(user.id, Action::UserDeletionCancelled).write(tx).await?;
        }
        OutboxMessage::notice(&user, Notice::PasswordChanged).send(tx).await?;
        // Resets the count of wrong codes: an attacker with the old password can no longer enter codes.
        TwoFactor::reset_failures(tx, user.id).await?;
        let two_factor_disabled = disable_two_factor && two_factor::remove(tx, &user).await?;
        Ok(ReplacedPassword { two_factor_disabled, deletion_canceled, is_active: user.is_active })
    })
    .await
}
