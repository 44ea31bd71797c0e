//! Access tokens, which are JWTs (RFC 7519) signed with HS256, and the derivation of refresh tokens.

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
/// Capacity of the cache of verified tokens.
const VERIFIED_CACHE_TOKENS: usize = 10_000;

/// The claims of an access token (RFC 7519 section 4.1).
#[derive(Serialize, Deserialize)]
struct Claims {
    /// The user id.
    sub: String,
    /// The session id. The token is invalid when the session has ended.
    sid: Uuid,
    iss: String,
    /// Seconds since the Unix epoch, as `exp`.
    iat: u64,
    exp: u64,
}

/// The user and session that an access token identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenSubject {
    pub user_id: i64,
    pub session_id: Uuid,
}

/// Issues and verifies access tokens, and derives refresh tokens.
pub struct Tokens {
    signing: EncodingKey,
    /// The current key, then the previous one.
    verifying: Vec<DecodingKey>,
    /// The same keys, for refresh tokens.
    refresh_keys: Vec<hmac::Key>,
    validation: Validation,
    /// Lifetime of an access token in seconds.
    lifetime: u64,
    /// Verified tokens with their `exp`. Avoids verifying the same token at each request.
    verified: Cache<Box<str>, (TokenSubject, u64)>,
}

impl Tokens {
    /// Signs with `key`; verifies with `key` and `previous`, so that tokens stay valid after a key rotation. An expired
    /// token is accepted for `leeway_seconds`, because the clocks of replicas may differ (RFC 7519 section 4.1.4).
    pub fn new(key: &str, previous: Option<&str>, lifetime_minutes: u32, leeway_seconds: u64) -> Self {
        // The server fixes the algorithm and ignores the one in the token (RFC 8725 section 3.1).
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.leeway = leeway_seconds;
        let keys = || [Some(key), previous].into_iter().flatten().map(str::as_bytes);
        Self {
            signing: EncodingKey::from_secret(key.as_bytes()),
            verifying: keys().map(DecodingKey::from_secret).collect(),
            refresh_keys: keys().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect(),
            validation,
            lifetime: u64::from(lifetime_minutes) * 60,
            verified: Cache::new(VERIFIED_CACHE_TOKENS),
        }
    }

    /// Returns a new access token and its lifetime in seconds.
    ///
    /// # Errors
    /// [`Error::Internal`] if the token cannot be signed.
    pub fn issue(&self, subject: TokenSubject) -> Result<(String, u64)> {
        let iat = get_current_timestamp();
        let claims = Claims {
            sub: subject.user_id.to_string(),
            sid: subject.session_id,
            iss: ISSUER.into(),
            iat,
            exp: iat + self.lifetime,
        };
        let token =
            encode(&Header::new(Algorithm::HS256), &claims, &self.signing).map_err(Error::internal)?;
        Ok((token, self.lifetime))
    }

    /// Returns the user and session of a valid token. Does not check that the session is active.
    ///
    /// # Errors
    /// [`Error::InvalidToken`], without the reason, so that an attacker does not learn it.
    pub fn verify(&self, token: &str) -> Result<TokenSubject> {
        if let Some((subject, exp)) = self.verified.get(token)
            && exp.saturating_add(self.validation.leeway) >= get_current_timestamp()
        {
            return Ok(subject);
        }
        let read = |key| decode::<Claims>(token, key, &self.validation).ok();
        let claims = self.verifying.iter().find_map(read).ok_or(Error::InvalidToken)?.claims;
        let user_id = claims.sub.parse().map_err(|_| Error::InvalidToken)?;
        let subject = TokenSubject { user_id, session_id: claims.sid };
        self.verified.insert(token.into(), (subject, claims.exp));
        Ok(subject)
    }

    /// Returns the refresh tokens that replace `token`: the one derived with the current key, then the one with the
    /// previous key.
    pub fn next_refresh_tokens(&self, token: &str) -> impl Iterator<Item = OpaqueToken> {
        self.refresh_keys.iter().map(move |key| next_refresh_token(key, token))
    }
}
