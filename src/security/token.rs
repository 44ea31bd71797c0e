//! TokenSubject tokens: JWT (RFC 7519) with HS256 and nothing else. And what refresh tokens follow each other by.

use aws_lc_rs::hmac;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode, get_current_timestamp,
};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::opaque_token::{OpaqueToken, next_refresh_token};
use crate::error::{Error, Result};

const ISSUER: &str = "saas";
/// Tokens that are remembered; those that are used least make room.
const REMEMBERED: usize = 10_000;

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    /// The session that it belongs to, and ends with.
    sid: Uuid,
    iss: String,
    /// Seconds since the epoch, as `exp`.
    iat: u64,
    exp: u64,
}

/// Whom and what an access token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenSubject {
    pub user_id: i64,
    pub session_id: Uuid,
}

pub struct Tokens {
    signing: EncodingKey,
    /// The current key, then the one before it.
    verifying: Vec<DecodingKey>,
    following: Vec<hmac::Key>,
    validation: Validation,
    /// Seconds.
    lifetime: u64,
    /// What was found good before, and until when: reading a token costs more than answering most requests.
    verified: Cache<Box<str>, (TokenSubject, u64)>,
}

impl Tokens {
    pub fn new(key: &str, previous: Option<&str>, lifetime_minutes: u32) -> Self {
        // RFC 8725 section 3.1: the algorithm is ours to say, never the token's.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.leeway = 0;
        let keys = || [Some(key), previous].into_iter().flatten().map(str::as_bytes);
        Self {
            signing: EncodingKey::from_secret(key.as_bytes()),
            verifying: keys().map(DecodingKey::from_secret).collect(),
            following: keys().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect(),
            validation,
            lifetime: u64::from(lifetime_minutes) * 60,
            verified: Cache::new(REMEMBERED),
        }
    }

    /// A token for the user in a session, and its life in seconds.
    pub fn issue(&self, access: TokenSubject) -> Result<(String, u64)> {
        let iat = get_current_timestamp();
        let claims = Claims {
            sub: access.user_id.to_string(),
            sid: access.session_id,
            iss: ISSUER.into(),
            iat,
            exp: iat + self.lifetime,
        };
        let token =
            encode(&Header::new(Algorithm::HS256), &claims, &self.signing).map_err(Error::internal)?;
        Ok((token, self.lifetime))
    }

    /// Whom the token was issued to.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] for whatever is wrong with it; the caller learns nothing more.
    pub fn verify(&self, token: &str) -> Result<TokenSubject> {
        if let Some((access, exp)) = self.verified.get(token)
            && exp >= get_current_timestamp()
        {
            return Ok(access);
        }
        let read = |key| decode::<Claims>(token, key, &self.validation).ok();
        let claims = self.verifying.iter().find_map(read).ok_or(Error::InvalidToken)?.claims;
        let user_id = claims.sub.parse().map_err(|_| Error::InvalidToken)?;
        let access = TokenSubject { user_id, session_id: claims.sid };
        self.verified.insert(token.into(), (access, claims.exp));
        Ok(access)
    }

    /// The refresh tokens that may follow one: under the current key, then under the one before it.
    pub fn next_refresh_tokens(&self, token: &str) -> impl Iterator<Item = OpaqueToken> {
        self.following.iter().map(move |key| next_refresh_token(key, token))
    }
}
