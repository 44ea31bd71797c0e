//! Encryption of secrets in the database: AES-256-GCM with `TWO_FACTOR_KEY`, bound to the row of the secret.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};

use crate::error::{Error, Result};

/// Encrypts with the first key, and decrypts with any key. Without a key, both operations fail.
#[derive(Default)]
pub struct Sealer {
    keys: Vec<RandomizedNonceKey>,
}

impl Sealer {
    /// Creates a sealer with the current key, followed by the previous keys. Without keys, no secret can be stored.
    ///
    /// # Errors
    /// If the cipher refuses a key, which does not happen with 32 bytes.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let key = |text: &str| {
            // The setting can be longer than 32 bytes, and the cipher requires exactly 32 bytes.
            let key = digest::digest(&digest::SHA256, text.as_bytes());
            RandomizedNonceKey::new(&AES_256_GCM, key.as_ref())
                .map_err(|_| anyhow::anyhow!("cannot create an AES-256-GCM key from TWO_FACTOR_KEY"))
        };
        Ok(Self { keys: keys.into_iter().map(key).collect::<anyhow::Result<_>>()? })
    }

    /// Returns whether there is a key, so secrets can be stored.
    pub fn has_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Encrypts a secret. Returns a random nonce, followed by the ciphertext and the authentication tag. `aad` (additional
    /// authenticated data) names the row of the secret; [`Self::open`] needs the same `aad`.
    ///
    /// # Errors
    /// [`Error::Internal`] if there is no key, or the encryption fails.
    pub fn seal(&self, aad: &str, secret: &[u8]) -> Result<Vec<u8>> {
        let key = self
            .keys
            .first()
            .ok_or_else(|| Error::internal("cannot encrypt a secret without a key; set TWO_FACTOR_KEY"))?;
        let mut text = secret.to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(aad.as_bytes()), &mut text)
            .map_err(|_| Error::internal("cannot encrypt a secret"))?;
        Ok([nonce.as_ref().as_slice(), &text].concat())
    }

    /// Decrypts a result of [`Self::seal`].
    ///
    /// # Errors
    /// [`Error::Internal`] if `sealed` was encrypted with an unknown key or another `aad`, or was changed.
    pub fn open(&self, aad: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let decrypt = |key: &RandomizedNonceKey| {
            let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = text.to_vec();
            let secret = key.open_in_place(nonce, Aad::from(aad.as_bytes()), &mut text).ok()?;
            Some(secret.to_vec())
        };
        self.keys.iter().find_map(decrypt).ok_or_else(|| {
            Error::internal("cannot decrypt a secret; set TWO_FACTOR_KEY_PREVIOUS to the old key")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_decrypted_only_with_its_key_and_aad() {
        let old = Sealer::new(["old"]).unwrap();
        let sealed = old.seal("user 1", b"secret").unwrap();
        assert_ne!(sealed, old.seal("user 1", b"secret").unwrap(), "each call uses a new nonce");
        assert_eq!(old.open("user 1", &sealed).unwrap(), b"secret");
        assert!(old.open("user 2", &sealed).is_err());
        assert_eq!(Sealer::new(["new", "old"]).unwrap().open("user 1", &sealed).unwrap(), b"secret");
        assert!(Sealer::new(["new"]).unwrap().open("user 1", &sealed).is_err());
        assert!(old.open("user 1", b"short").is_err() && Sealer::default().seal("user 1", b"x").is_err());
    }
}
