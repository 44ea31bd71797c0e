//! Revocation of API keys: of leaked keys, of the keys of a user whose membership ends, and of the keys of an account that
//! another person takes over.
//!
//! A report of a leaked key needs no other authorization than the key itself.

use diesel_async::AsyncPgConnection;
use serde_json::json;

use super::{
    api_key_notices,
    audit::{Action, Entry},
    security_event::{Event, SecurityEvent},
    transaction::change_without_actor,
};
use crate::{
    app::App,
    context::RequestContext,
    db::{self, Effects, Tx},
    error::{Error, Result},
    mail::Notice,
    models::{api_key::ApiKey, organization::Organization},
    security::{self, api_key},
};

/// A key whose leaked secret was revoked.
pub struct LeakedKey {
    pub key: ApiKey,
    /// True if only the secret from before the last rotation has leaked. That secret was revoked, and the current
    /// secret stays valid.
    pub current_is_valid: bool,
}

/// Revokes the keys of which `texts` contains the current secret. For the secret from before the last rotation, revokes only that
/// secret. Writes an audit entry and logs a security event for each key of which a secret was revoked. The creator of the key and
/// the owner of its organization get a mail, unless they are suspended in the organization, no longer members, deactivated or
/// scheduled for deletion.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn report_leaks(app: &App, context: &RequestContext, texts: &[String]) -> Result<()> {
    let hashes = hashes_of(texts);
    // Most reports contain no existing key. This query avoids a transaction for them.
    let any_exists = async |conn: &mut AsyncPgConnection| Ok(ApiKey::any_has_hash(conn, &hashes).await?);
    if hashes.is_empty() || !app.db.run(any_exists).await? {
        return Ok(());
    }
    let revoke = async |tx: &Tx<'_>| revoke_leaked(tx, &hashes).await;
    for LeakedKey { key, .. } in change_without_actor(app, context, revoke).await? {
        let event = SecurityEvent::new(Event::ApiKeyLeaked).user(Some(key.created_by));
        event.api_key(key.id).log(app, context);
    }
    Ok(())
}

/// Revokes one key or its previous secret by the text of the secret, with the same mail and audit entry as [`report_leaks`]. For
/// the command `revoke-key`. Returns `None` if the text is not a valid secret of a key.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn revoke_by_text(conn: &mut AsyncPgConnection, text: &str) -> Result<Option<LeakedKey>> {
    let hashes = hashes_of(&[text.to_owned()]);
    let (context, effects) = (RequestContext::default(), Effects::default());
    db::transaction(conn, async |conn| {
        Ok(revoke_leaked(&Tx::on(conn, &context, &effects), &hashes).await?.pop())
    })
    .await
}

/// Revokes a key by its id, with the same mail and audit entry as [`report_leaks`]. For the command `revoke-key`. Returns
/// `None` if the key is already expired or revoked.
///
/// # Errors
/// [`Error::NotFound`] if there is no such key; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn revoke_by_id(conn: &mut AsyncPgConnection, id: i64) -> Result<Option<LeakedKey>> {
    let (context, effects) = (RequestContext::default(), Effects::default());
    db::transaction(conn, async |conn| {
        let tx = &Tx::on(conn, &context, &effects);
        let key = ApiKey::lock_by_id(tx, id).await?.ok_or(Error::NotFound("API key"))?;
        revoke_leaked_secret(tx, key, true).await
    })
    .await
}

/// Revokes the unexpired keys that a user has created in an organization, when the membership of the user ends. Writes
/// audit entries, and sends no mail.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn revoke_of_member(tx: &Tx<'_>, org_id: i64, user_id: i64) -> Result<()> {
    let ids = ApiKey::revoke_of_member(tx, org_id, user_id).await?;
    let keys = ids.into_iter().map(|id| (org_id, id)).collect();
    write_revoked(tx, keys, "membership_ended").await
}

/// Revokes all unexpired keys that a user has created, when another person takes over the account. Writes audit entries, and
/// sends no mail.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn revoke_of_user(tx: &Tx<'_>, user_id: i64) -> Result<()> {
    write_revoked(tx, ApiKey::revoke_of_user(tx, user_id).await?, "account_taken_over").await
}

/// Writes the audit entries of revoked keys. `keys` are pairs of the id of the organization and the id of the key.
async fn write_revoked(tx: &Tx<'_>, keys: Vec<(i64, i64)>, reason: &'static str) -> Result<()> {
    let entries = keys.into_iter().map(|(org_id, id)| {
        Entry::row(org_id, "api_key", id, Action::ApiKeyRevoked).after(json!({ "reason": reason }))
    });
    Entry::write_all(entries.collect(), tx).await
}

/// Returns the hashes of the texts that are well-formed keys.
fn hashes_of(texts: &[String]) -> Vec<Vec<u8>> {
    let keys = texts.iter().map(|text| text.trim()).filter(|text| api_key::is_well_formed(text));
    keys.map(security::hash).collect()
}

async fn revoke_leaked(tx: &Tx<'_>, hashes: &[Vec<u8>]) -> Result<Vec<LeakedKey>> {
    let mut revoked = Vec::new();
    for (key, current_has_leaked) in ApiKey::lock_by_hashes(tx, hashes).await? {
        revoked.extend(revoke_leaked_secret(tx, key, current_has_leaked).await?);
    }
    if revoked.is_empty() {
        tx.set_identities_unchanged();
    }
    Ok(revoked)
}

/// Revokes a locked key that has leaked, or only its secret from before the last rotation. Returns `None` if the key,
/// or that secret, has already ended.
async fn revoke_leaked_secret(
    tx: &Tx<'_>,
    key: ApiKey,
    current_has_leaked: bool,
) -> Result<Option<LeakedKey>> {
    if key.has_ended() {
        return Ok(None);
    }
    let (ended, action) = match current_has_leaked {
        true => (ApiKey::revoke(tx, key.id).await?, Action::ApiKeyRevoked),
        false => (ApiKey::end_overlap(tx, key.id).await?, Action::ApiKeyOverlapEnded),
    };
    if ended == 0 {
        return Ok(None);
    }
    let entry = Entry::row(key.org_id, "api_key", key.id, action);
    entry.after(json!({ "reason": "leaked" })).write(tx).await?;
    if let Some(org) = Organization::find(tx, key.org_id).await? {
        let (name, present_is_valid) = (key.name.clone(), !current_has_leaked);
        let notice = Notice::ApiKeyLeaked { organization: org.name, key: name, present_is_valid };
        api_key_notices::send(tx, &key, &notice, None).await?;
    }
    Ok(Some(LeakedKey { key, current_is_valid: !current_has_leaked }))
}
