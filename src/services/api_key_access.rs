//! Finds the API key that a request presents.

use std::sync::Arc;

use super::api_key_uses;
use crate::{
    app::App,
    error::{Error, Result},
    models::api_key_identity::KeyIdentity,
    security::{self, api_key},
};

/// The SHA-256 hash of the text of a well-formed key. The database stores this hash instead of the key.
pub struct KeyHash(Vec<u8>);

impl KeyHash {
    /// Checks the format and the checksum of a key, and hashes the key, without a query.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] if the key is malformed.
    pub fn parse(key: &str) -> Result<Self> {
        match api_key::is_well_formed(key) {
            true => Ok(Self(security::hash(key))),
            false => Err(Error::InvalidToken),
        }
    }
}

/// Returns the key with this hash and the rights of its creator, from a cache whose values are at most `IDENTITY_CACHE_MS` old.
/// The key may be expired or revoked. Calls `api_key_uses::record` unless the key or its secret has ended.
///
/// # Errors
/// [`Error::InvalidToken`] if there is no such key; [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn identify(app: &App, KeyHash(hash): &KeyHash) -> Result<Arc<KeyIdentity>> {
    let load = async || app.db.run(async |conn| Ok(KeyIdentity::find(conn, hash).await?)).await;
    let identity = app.key_identities.get_or_load(hash.clone(), load).await?.ok_or(Error::InvalidToken)?;
    if !identity.has_ended() {
        api_key_uses::record(app, &identity.key);
    }
    Ok(identity)
}
