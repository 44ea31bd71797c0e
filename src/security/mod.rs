//! Passwords, tokens, and secrets at rest.

mod opaque_token;
mod password;
mod sealed;
mod token;

pub use opaque_token::{OpaqueToken, hash, hex, random_bytes};
pub use password::{HashPermit, MAX_PASSWORD_BYTES, Passwords, is_common};
pub use sealed::Sealer;
pub use token::{TokenSubject, Tokens};

/// 256 random bits in hexadecimal, from the system's generator.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_secret() -> anyhow::Result<String> {
    Ok(OpaqueToken::random()?.text)
}
