//! Opaque tokens: the client gets 256 bits in hexadecimal, random or derived by HMAC, and the database stores the SHA-256
//! of this text.
//!
//! Unlike passwords, tokens need no slow hash: 2^256 values cannot be guessed (OWASP ASVS 5, 7.2.3 and 11.4).

use aws_lc_rs::{digest, hmac, rand};
use uuid::Uuid;

use crate::error::{Error, Result};

/// An opaque token and its hash.
pub struct OpaqueToken {
    /// The token in hexadecimal.
    pub text: String,
    /// The SHA-256 of `text`.
    pub hash: Vec<u8>,
}

impl OpaqueToken {
    /// Creates a token of 256 random bits.
    ///
    /// # Errors
    /// Those of [`random_bytes`].
    pub fn random() -> Result<Self> {
        Ok(Self::from_text(hex(&random_bytes::<32>()?)))
    }

    pub(super) fn from_text(text: String) -> Self {
        let hash = hash(&text);
        Self { text, hash }
    }
}

/// Returns the SHA-256 of a text. The database stores this hash instead of a token, an API key or a recovery code.
pub fn hash(text: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

/// Returns `N` bytes from the cryptographic random number generator.
///
/// # Errors
/// [`Error::Internal`] if the generator fails.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Error::internal("the random number generator failed"))?;
    Ok(bytes)
}

/// Returns the refresh token that replaces `token`.
///
/// The new token is an HMAC of `token`, not a random value. So a client that repeats a refresh within 10 seconds can get the same
/// token again, although the database stores only hashes. Without the key, the new token cannot be computed.
pub(super) fn next_refresh_token(key: &hmac::Key, token: &str) -> OpaqueToken {
    let tag = hmac::sign(key, &[b"successor of a refresh token\0", token.as_bytes()].concat());
    OpaqueToken::from_text(hex(tag.as_ref()))
}

/// Returns the token of an invitation, derived from the id of its link.
///
/// The token is an HMAC of the id. So each attempt to send the mail can compute the token again, although the database
/// stores only its hash.
pub(super) fn invitation_token(key: &hmac::Key, link_id: Uuid) -> OpaqueToken {
    let tag = hmac::sign(key, &[b"link of an invitation\0", &link_id.as_bytes()[..]].concat());
    OpaqueToken::from_text(hex(tag.as_ref()))
}

/// Returns bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any};

    use super::*;
    use crate::property::property;

    #[test]
    fn tokens_have_256_bits_and_differ() {
        let (one, other) = (OpaqueToken::random().unwrap(), OpaqueToken::random().unwrap());
        assert_eq!((one.text.len(), one.hash.len()), (64, 32));
        assert!(one.text != other.text && one.hash == hash(&one.text) && one.hash != other.hash);
    }

    #[test]
    fn the_next_refresh_token_depends_on_the_token_and_the_key() {
        let key = |text: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, text);
        let next = next_refresh_token(&key(b"a"), "token");
        assert_eq!(next.text, next_refresh_token(&key(b"a"), "token").text);
        assert_ne!(next.text, next_refresh_token(&key(b"a"), "other").text);
        assert_ne!(next.text, next_refresh_token(&key(b"b"), "token").text);
        assert_eq!(next.text.len(), 64);
    }

    #[test]
    fn hexadecimal_has_two_lower_case_digits_for_each_byte() {
        property(1, vec(any::<u8>(), 0..40), |bytes| {
            let text = hex(&bytes);
            assert!(text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)));
            let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            let read = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap());
            assert!(text.len() == 2 * bytes.len() && read.eq(bytes));
        });
    }

    #[test]
    fn the_token_of_an_invitation_depends_on_its_link_and_the_key() {
        let key = |text: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, text);
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let token = invitation_token(&key(b"a"), one);
        assert_eq!((token.text.len(), &token.hash), (64, &hash(&token.text)));
        assert_eq!(token.text, invitation_token(&key(b"a"), one).text);
        assert_ne!(token.text, invitation_token(&key(b"a"), other).text);
        assert_ne!(token.text, invitation_token(&key(b"b"), one).text);
    }
}
