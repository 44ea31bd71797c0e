//! Finds the API key of a request.

use std::sync::Arc;

use super::api_key_uses;
use crate::{
    app::App,
    error::{Error, Result},
    models::api_key::KeyIdentity,
    security::{self, api_key},
};

/// The SHA-256 of a well-formed key, by which it is found.
pub struct KeyHash(Vec<u8>);

impl KeyHash {
    /// Checks the form and the checksum of a key, without a query.
    ///
    /// # Errors
    /// [`Error::InvalidToken`].
    pub fn parse(key: &str) -> Result<Self> {
        match api_key::is_well_formed(key) {
            true => Ok(Self(security::hash(key))),
            false => Err(Error::InvalidToken),
        }
    }
}

/// Returns a key and the rights of its creator, as they were read at most `IDENTITY_CACHE_MS` ago. The key may have ended.
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
