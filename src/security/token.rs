//! Access tokens: JWT (RFC 7519) with HS256 and nothing else.

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode, get_current_timestamp,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const ISSUER: &str = "saas";

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    iss: String,
    /// Seconds since the epoch, as `exp`.
    iat: u64,
    exp: u64,
}

pub struct Tokens {
    signing: EncodingKey,
    /// The current key, then the one before it.
    verifying: Vec<DecodingKey>,
    validation: Validation,
    /// Seconds.
    lifetime: u64,
}

impl Tokens {
    pub fn new(key: &str, previous: Option<&str>, lifetime_minutes: u32) -> Self {
        // RFC 8725 section 3.1: the algorithm is ours to say, never the token's.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.leeway = 0;
        let keys = [Some(key), previous].into_iter().flatten();
        Self {
            signing: EncodingKey::from_secret(key.as_bytes()),
            verifying: keys.map(|key| DecodingKey::from_secret(key.as_bytes())).collect(),
            validation,
            lifetime: u64::from(lifetime_minutes) * 60,
        }
    }

    /// A token for the user, and its life in seconds.
    pub fn issue(&self, user_id: i64) -> Result<(String, u64)> {
        let iat = get_current_timestamp();
        let claims = Claims { sub: user_id.to_string(), iss: ISSUER.into(), iat, exp: iat + self.lifetime };
        let token =
            encode(&Header::new(Algorithm::HS256), &claims, &self.signing).map_err(Error::internal)?;
        Ok((token, self.lifetime))
    }

    /// The id of the user whom the token was issued to.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] for whatever is wrong with it; the caller learns nothing more.
    pub fn verify(&self, token: &str) -> Result<i64> {
        self.verifying
            .iter()
            .find_map(|key| decode::<Claims>(token, key, &self.validation).ok())
            .and_then(|data| data.claims.sub.parse().ok())
            .ok_or(Error::InvalidToken)
    }
}
