//! Password hashing, tokens, API keys, encryption of stored secrets, hashes of byte strings, and keyed hashes for logs.

pub mod api_key;
mod digest;
mod opaque_token;
mod password;
mod password_form;
mod pseudonym;
mod sealed;
mod token;

pub use digest::hash_parts;
pub use opaque_token::{OpaqueToken, hash, hex, random_bytes};
pub use password::{HashFor, HashPermit, Passwords, is_common};
pub use password_form::{MAX_PASSWORD_BYTES, PasswordMatch, normalize_password};
pub use pseudonym::Pseudonyms;
pub use sealed::Sealer;
pub use token::{TokenSubject, Tokens};

/// Returns 256 bits from the cryptographic random number generator, in hexadecimal.
///
/// # Errors
/// If the random number generator fails.
pub fn random_secret() -> anyhow::Result<String> {
    Ok(OpaqueToken::random()?.text)
}
