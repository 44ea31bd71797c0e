//! OpaqueToken tokens: 256 random bits for whoever holds them, and their SHA-256 for the database.
//!
//! A plain hash is enough, unlike for passwords: nobody tries 2^256 tokens (OWASP ASVS 5, 7.2.3 and 11.4).

use aws_lc_rs::{digest, hmac, rand};

use crate::error::{Error, Result};

/// The text of a token, in hexadecimal, and what the database keeps of it.
pub struct OpaqueToken {
    pub text: String,
    pub hash: Vec<u8>,
}

impl OpaqueToken {
    /// A new one, from the system's generator.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn random() -> Result<Self> {
        Ok(Self::of(hex(&random_bytes::<32>()?)))
    }

    pub(super) fn of(text: String) -> Self {
        let hash = hash(&text);
        Self { text, hash }
    }
}

/// What the database knows a token by.
pub fn hash(text: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

/// # Errors
/// When the system has no randomness to give.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Error::internal("the system gives no random numbers"))?;
    Ok(bytes)
}

/// The refresh token that follows one.
///
/// It is computed from the one before rather than drawn, so that an immediate retry gets the same one though the
/// database has only its hash. Without the key nothing can be said of it.
pub(super) fn next_refresh_token(key: &hmac::Key, token: &str) -> OpaqueToken {
    let tag = hmac::sign(key, &[b"successor of a refresh token\0", token.as_bytes()].concat());
    OpaqueToken::of(hex(tag.as_ref()))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_256_bits_and_differ() {
        let (one, other) = (OpaqueToken::random().unwrap(), OpaqueToken::random().unwrap());
        assert_eq!((one.text.len(), one.hash.len()), (64, 32));
        assert!(one.text != other.text && one.hash == hash(&one.text) && one.hash != other.hash);
    }

    #[test]
    fn a_successor_depends_on_the_token_and_the_key() {
        let key = |text: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, text);
        let next = next_refresh_token(&key(b"a"), "token");
        assert_eq!(next.text, next_refresh_token(&key(b"a"), "token").text);
        assert_ne!(next.text, next_refresh_token(&key(b"a"), "other").text);
        assert_ne!(next.text, next_refresh_token(&key(b"b"), "token").text);
        assert_eq!(next.text.len(), 64);
    }
}
