//! Recovery codes for a lost authenticator.

use totp_rs::Secret;

use crate::{
    db::Tx,
    error::Result,
    models::two_factor::RecoveryCode,
    security::{self, random_bytes},
};

const RECOVERY_CODE_COUNT: usize = 10;

/// Replaces the recovery codes of a user. Returns the new codes, which cannot be read again: the database has only hashes.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub(super) async fn renew_codes(tx: &Tx<'_>, user_id: i64) -> Result<Vec<String>> {
    let code = || Ok(Secret::new(Box::new(random_bytes::<15>()?)).to_base32());
    let codes = (0..RECOVERY_CODE_COUNT).map(|_| code()).collect::<Result<Vec<String>>>()?;
    let hashes: Vec<_> = codes.iter().map(|code| security::hash(code)).collect();
    RecoveryCode::replace(tx, user_id, &hashes).await?;
    Ok(codes.iter().map(|code| format_recovery_code(code)).collect())
}

/// Returns a recovery code in the form that is hashed: only ASCII letters, in upper case, and digits.
pub(super) fn normalize_recovery_code(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase()
}

/// Returns a recovery code in groups of four characters: `abcd-efgh-…`.
fn format_recovery_code(code: &str) -> String {
    let chars: Vec<_> = code.chars().collect();
    chars.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-").to_lowercase()
}
