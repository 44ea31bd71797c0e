//! Passwords and access tokens.

mod password;
mod token;

pub use password::{MAX_PASSWORD_BYTES, Passwords};
pub use token::Tokens;

/// 256 random bits in hexadecimal, from the system's generator.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_secret() -> anyhow::Result<String> {
    let mut bytes = [0u8; 32];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
