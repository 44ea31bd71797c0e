//! Mails about API keys, to the creator of the key and the owner of the organization.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{outbox::OutboxMessage, transaction::change_by_job};
use crate::{
    app::App,
    db::Tx,
    error::Result,
    mail::Notice,
    models::{api_key::ApiKey, membership::Membership, organization::Organization},
};

/// A notice about the expiry of a key is sent when the key expires within this number of days.
const NOTICE_DAYS: i32 = 7;
/// Maximum number of keys whose notices one transaction writes.
const BATCH_KEYS: i64 = 50;
/// Time limit of one attempt at a batch, without the wait for a connection. It is longer than the default of
/// `DATABASE_TIMEOUT_MS`, because no client waits.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a notice to the creator of a key and to the owner of the organization of the key. Leaves out a user who is suspended
/// in the organization or no longer a member, a user who is deactivated or scheduled for deletion, and the user `muted`.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub(super) async fn send(tx: &Tx<'_>, key: &ApiKey, notice: &Notice, muted: Option<i64>) -> Result<()> {
    for user in Membership::active_owner_and(tx, key.org_id, key.created_by).await? {
        if Some(user.id) != muted {
            OutboxMessage::notice(&user, notice.clone()).send(tx).await?;
        }
    }
    Ok(())
}

/// Returns a date in UTC in words, such as `3 May 2026`.
pub(super) fn date_in_words(date: DateTime<Utc>) -> String {
    date.format("%-d %B %Y").to_string()
}

/// Sends the notices about active keys that expire within seven days, once for each expiry. Leaves out keys that have a lifetime
/// of at most seven days, and keys that another transaction has locked. Returns the number of announced keys.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub async fn announce_expiries(app: &App) -> Result<usize> {
    let mut announced = 0;
    loop {
        match change_by_job(app, BATCH_TIMEOUT, async |tx: &Tx<'_>| announce_batch(tx).await).await? {
            0 => return Ok(announced),
            number => announced += number,
        }
    }
}

async fn announce_batch(tx: &Tx<'_>) -> Result<usize> {
    tx.set_identities_unchanged();
    let keys = ApiKey::lock_expiring(tx, NOTICE_DAYS, BATCH_KEYS).await?;
    for key in &keys {
        let (Some(expires_at), Some(org)) = (key.expires_at, Organization::find(tx, key.org_id).await?)
        else {
            continue;
        };
        let (name, on) = (key.name.clone(), date_in_words(expires_at));
        send(tx, key, &Notice::ApiKeyExpires { organization: org.name, key: name, on }, None).await?;
    }
    let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
    ApiKey::mark_expiry_notified(tx, &ids).await?;
    Ok(keys.len())
}
