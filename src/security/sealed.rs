//! Secrets at rest: AES-256-GCM with a key of their own, bound to the row that they lie in.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};

use crate::error::{Error, Result};

/// Encrypts with the current key and reads what that or the one before it wrote. No key, no secrets.
#[derive(Default)]
pub struct Sealer {
    keys: Vec<RandomizedNonceKey>,
}

impl Sealer {
    /// # Errors
    /// Never with a working library.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let key = |text: &str| {
            // The setting has at least 256 bits of entropy in any alphabet; the cipher wants exactly 32 bytes.
            let key = digest::digest(&digest::SHA256, text.as_bytes());
            RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| anyhow::anyhow!("unusable key"))
        };
        Ok(Self { keys: keys.into_iter().map(key).collect::<anyhow::Result<_>>()? })
    }

    pub fn has_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// `aad` (additional authenticated data) names the row of the secret; the secret can be opened with the same `aad` only.
    ///
    /// # Errors
    /// When there is no key.
    pub fn seal(&self, aad: &str, secret: &[u8]) -> Result<Vec<u8>> {
        let key = self
            .keys
            .first()
            .ok_or_else(|| Error::internal("there is no key to encrypt with: is TWO_FACTOR_KEY set?"))?;
        let mut text = secret.to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(aad.as_bytes()), &mut text)
            .map_err(|_| Error::internal("a secret cannot be encrypted"))?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }

    /// # Errors
    /// When it was written with another key, or for another place.
    pub fn open(&self, aad: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let read = |key: &RandomizedNonceKey| {
            let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = text.to_vec();
            let secret = key.open_in_place(nonce, Aad::from(aad.as_bytes()), &mut text).ok()?;
            Some(secret.to_vec())
        };
        self.keys
            .iter()
            .find_map(read)
            .ok_or_else(|| Error::internal("a secret cannot be decrypted: has TWO_FACTOR_KEY changed?"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_with_its_key_in_its_place_only() {
        let old = Sealer::new(["old"]).unwrap();
        let sealed = old.seal("user 1", b"secret").unwrap();
        assert_ne!(sealed, old.seal("user 1", b"secret").unwrap(), "a nonce of its own each time");
        assert_eq!(old.open("user 1", &sealed).unwrap(), b"secret");
        assert!(old.open("user 2", &sealed).is_err());
        assert_eq!(Sealer::new(["new", "old"]).unwrap().open("user 1", &sealed).unwrap(), b"secret");
        assert!(Sealer::new(["new"]).unwrap().open("user 1", &sealed).is_err());
        assert!(old.open("user 1", b"short").is_err() && Sealer::default().seal("user 1", b"x").is_err());
    }
}
