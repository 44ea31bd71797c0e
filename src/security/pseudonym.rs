//! Keyed hashes of personal data, for log lines.

use aws_lc_rs::hmac;

use super::opaque_token::hex;

/// Length of a hash: 64 bits. Among a million accounts, the probability that any two have the same hash is 1
/// in 37 million.
const HASH_BYTES: usize = 8;

/// Computes keyed hashes of personal data. The same data has the same hash, so log lines can be compared. Without the
/// key, a reader of the log cannot find the data by hashing likely values.
pub struct Pseudonyms(hmac::Key);

impl Pseudonyms {
    /// Derives the key from `secret`.
    pub fn new(secret: &str) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let derived = hmac::sign(&secret, b"pseudonyms in logs");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Returns the hash of a text: 16 hexadecimal digits.
    pub fn of(&self, text: &str) -> String {
        hex(&hmac::sign(&self.0, text.as_bytes()).as_ref()[..HASH_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_depends_on_the_text_and_the_key() {
        let (one, other) = (Pseudonyms::new("one key"), Pseudonyms::new("another key"));
        assert_eq!(one.of("ada@example.com"), one.of("ada@example.com"));
        assert_ne!(one.of("ada@example.com"), one.of("bob@example.com"));
        assert_ne!(one.of("ada@example.com"), other.of("ada@example.com"));
        assert_eq!(one.of("").len(), 16);
    }
}
