//! Access tokens, which are JWTs (RFC 7519) signed with HS256, and the derivation of refresh tokens and invitation tokens.

use aws_lc_rs::hmac;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode, get_current_timestamp,
};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::opaque_token::{OpaqueToken, invitation_token, next_refresh_token};
use crate::error::{Error, Result};

const ISSUER: &str = "saas";
/// Capacity of the cache of verified tokens.
const VERIFIED_CACHE_TOKENS: usize = 10_000;

/// The claims of an access token.
#[derive(Serialize, Deserialize)]
struct Claims {
    /// The user id.
    sub: String,
    /// The session id.
    sid: Uuid,
    iss: String,
    /// Time of issue, in seconds since the Unix epoch.
    iat: u64,
    /// Time of expiry, in seconds since the Unix epoch.
    exp: u64,
}

/// The user and session that an access token identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenSubject {
    pub user_id: i64,
    pub session_id: Uuid,
}

/// Issues and verifies access tokens, and derives refresh tokens and invitation tokens.
pub struct Tokens {
    signing: EncodingKey,
    /// The current key, then the previous key if there was a rotation.
    verifying: Vec<DecodingKey>,
    /// The keys of `verifying` in the form for HMAC. The refresh tokens after the first one of a session, and invitation tokens,
    /// are derived from them.
    mac_keys: Vec<hmac::Key>,
    validation: Validation,
    /// Lifetime of an access token in seconds.
    lifetime: u64,
    /// Verified tokens with their subject and `exp`, so that the signature of a token is not verified at each request.
    verified: Cache<Box<str>, (TokenSubject, u64)>,
}

impl Tokens {
    /// Creates the issuer and verifier of tokens. It signs with `key` and verifies with `key` and `previous`, so that tokens
    /// stay valid after a key rotation. An expired token is accepted for `leeway_seconds`, because the clocks of replicas may
    /// differ (RFC 7519 section 4.1.4).
    pub fn new(key: &str, previous: Option<&str>, lifetime_minutes: u32, leeway_seconds: u64) -> Self {
        // jsonwebtoken refuses a token whose header names another algorithm than this one (RFC 8725 section 3.1).
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.leeway = leeway_seconds;
        let keys = || [Some(key), previous].into_iter().flatten().map(str::as_bytes);
        Self {
            signing: EncodingKey::from_secret(key.as_bytes()),
            verifying: keys().map(DecodingKey::from_secret).collect(),
            mac_keys: keys().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect(),
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

    /// Returns the tokens of an invitation, derived from the id of its link: first with the current key, then with the
    /// previous key.
    pub fn invitation_tokens(&self, link_id: Uuid) -> impl Iterator<Item = OpaqueToken> {
        self.mac_keys.iter().map(move |key| invitation_token(key, link_id))
    }

    /// Returns the refresh tokens that replace `token`, derived first with the current key, then with the previous key.
    pub fn next_refresh_tokens(&self, token: &str) -> impl Iterator<Item = OpaqueToken> {
        self.mac_keys.iter().map(move |key| next_refresh_token(key, token))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::{Just, Strategy, any, prop_oneof},
        sample::{Index, select},
    };
    use serde_json::json;

    use super::*;
    use crate::property::{property, text};

    const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
    const LEEWAY_SECONDS: u64 = 60;
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";

    fn tokens() -> Tokens {
        Tokens::new(KEY, None, 30, LEEWAY_SECONDS)
    }

    #[test]
    fn a_token_identifies_its_subject_and_no_changed_token_is_valid() {
        let tokens = tokens();
        let inputs = (any::<i64>(), any::<u128>(), any::<Index>(), select(DIGITS));
        property(4, inputs, |(user_id, session_id, at, digit)| {
            let subject = TokenSubject { user_id, session_id: Uuid::from_u128(session_id) };
            let (token, _) = tokens.issue(subject).unwrap();
            assert_eq!(tokens.verify(&token).unwrap(), subject);
            let at = at.index(token.len());
            let changed = format!("{}{}{}", &token[..at], char::from(digit), &token[at + 1..]);
            let shorter = &token[..at];
            assert!(changed == token || tokens.verify(&changed).is_err(), "{changed}");
            assert!(tokens.verify(shorter).is_err() && tokens.verify(&format!("{token}{shorter}.")).is_err());
        });
    }

    #[test]
    fn a_signed_token_is_valid_if_its_claims_are() {
        let (tokens, now) = (tokens(), get_current_timestamp());
        let sub = prop_oneof![
            2 => any::<i64>().prop_map(|id| json!(id.to_string())),
            1 => any::<i64>().prop_map(|id| json!(id)),
            1 => text("1 - + 0x 9223372036854775807", 3).prop_map(|text| json!(text)),
        ];
        let expires_in = prop_oneof![2 => -30..3_600_i64, 1 => -3_600..-120_i64];
        let issuer = prop_oneof![3 => Just(ISSUER), 1 => Just("Saas"), 1 => Just("")];
        let algorithms = [Algorithm::HS256, Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        let algorithm = select(algorithms.to_vec());
        let key = prop_oneof![3 => Just(KEY), 1 => Just("another key of at least 32 octets")];
        let inputs = (sub, expires_in, issuer, algorithm, key);
        property(4, inputs, |(sub, expires_in, issuer, algorithm, key)| {
            let exp = now.saturating_add_signed(expires_in);
            let claims = json!({ "sub": sub, "sid": Uuid::nil(), "iss": issuer, "iat": now, "exp": exp });
            let key_bytes = EncodingKey::from_secret(key.as_bytes());
            let token = encode(&Header::new(algorithm), &claims, &key_bytes).unwrap();
            let is_signed = algorithm == Algorithm::HS256 && key == KEY;
            let is_valid = is_signed && issuer == ISSUER && expires_in > -60;
            let expected = sub.as_str().filter(|_| is_valid).and_then(|text| text.parse::<i64>().ok());
            assert_eq!(tokens.verify(&token).ok().map(|subject| subject.user_id), expected);
        });
    }

    #[test]
    fn any_other_text_is_an_invalid_token() {
        let tokens = tokens();
        let parts = ". eyJhbGciOiJub25lIn0 eyJhbGciOiJIUzI1NiJ9 e30 = - _ null";
        property(1, text(parts, 8), |token| {
            assert!(matches!(tokens.verify(&token), Err(Error::InvalidToken)));
        });
    }
}
