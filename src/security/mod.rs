//! Passwords, tokens, and secrets at rest.

mod opaque;
mod password;
mod sealed;
mod token;

pub use opaque::{Opaque, hash, hex, random_bytes};
pub use password::{MAX_PASSWORD_BYTES, Passwords, Turn, is_common};
pub use sealed::Sealer;
pub use token::{Access, Tokens};

/// 256 random bits in hexadecimal, from the system's generator.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_secret() -> anyhow::Result<String> {
    Ok(Opaque::random()?.text)
}
