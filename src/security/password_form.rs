//! The forms in which a password is hashed: normalized and, for hashes of earlier releases, as it was typed.

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Maximum length of a password in its normalized form. bcrypt would silently ignore further bytes.
pub const MAX_PASSWORD_BYTES: usize = 72;

/// Returns a password in the form in which it is hashed, Unicode normalization form C (RFC 8265 section
/// 4.2.2). Devices encode the same character in different ways: é is one code point or two.
pub fn normalize_password(password: &str) -> Cow<'_, str> {
    match is_nfc(password) {
        true => password.into(),
        false => password.nfc().collect::<String>().into(),
    }
}

/// Whether a password matches a hash, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordMatch {
    Wrong,
    /// The password matches in its normalized form.
    Normalized,
    /// The password matches only as it was typed. Earlier releases hashed passwords without normalizing them.
    AsTyped,
}

impl PasswordMatch {
    /// Returns whether the password matches in one of the forms.
    pub fn is_match(self) -> bool {
        self != Self::Wrong
    }
}

/// Returns the forms of a password to verify, each with the result if that form matches. A form that is longer than
/// [`MAX_PASSWORD_BYTES`] cannot match, and is left out. If all forms are too long, one form remains, so that each
/// verification takes the time of at least one hash.
pub(super) fn forms(password: String) -> Vec<(String, PasswordMatch)> {
    let normalized = normalize_password(&password).into_owned();
    if normalized == password {
        return vec![(password, PasswordMatch::Normalized)];
    }
    let mut forms = vec![(password, PasswordMatch::AsTyped), (normalized, PasswordMatch::Normalized)];
    if forms.iter().any(|(form, _)| form.len() <= MAX_PASSWORD_BYTES) {
        forms.retain(|(form, _)| form.len() <= MAX_PASSWORD_BYTES);
    } else {
        forms.truncate(1);
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_hashes_depends_on_the_password_alone() {
        let count = |password: &str| forms(password.into()).len();
        assert_eq!((count("correct horse"), count("Zoë"), count("Zoe\u{308}")), (1, 1, 2));
        for one_hash in ["x".repeat(73), "e\u{301}".repeat(36), "e\u{301}".repeat(40)] {
            assert_eq!(count(&one_hash), 1, "{one_hash}");
        }
    }
}
