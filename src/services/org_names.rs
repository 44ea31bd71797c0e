//! Rules for the names and slugs of organizations, and for the names of their API keys.

use crate::{
    error::{Error, Result},
    models::organization::{MAX_NAME_CHARS, MAX_SLUG_CHARS, MIN_SLUG_CHARS},
};

/// Checks a slug, the name of an organization in URLs: 3 to 50 lower-case letters, digits and single hyphens. A slug does not
/// end with a hyphen, and starts with a letter, so that it is never mistaken for an id.
///
/// # Errors
/// A message for the user.
pub fn check_slug(slug: &str) -> Result<(), &'static str> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let is_valid = (MIN_SLUG_CHARS..=MAX_SLUG_CHARS).contains(&slug.len())
        && slug.starts_with(|c: char| c.is_ascii_lowercase())
        && slug.split('-').all(is_part);
    match is_valid {
        true => Ok(()),
        false => Err("Use 3 to 50 lower-case letters, digits and single hyphens, beginning with a letter"),
    }
}

/// Returns the trimmed name of an organization or an API key.
///
/// # Errors
/// [`Error::Invalid`] for the field `name`.
pub(super) fn parse_name(name: &str) -> Result<&str> {
    let name = name.trim();
    if name.is_empty() {
        return Err(Error::invalid("name", "The name must not be blank"));
    }
    if name.chars().count() > MAX_NAME_CHARS {
        return Err(Error::invalid(
            "name",
            format!("The name must have at most {MAX_NAME_CHARS} characters"),
        ));
    }
    match name.chars().any(char::is_control) {
        true => Err(Error::invalid("name", "The name must not have control characters")),
        false => Ok(name),
    }
}

/// Checks a slug like [`check_slug`].
///
/// # Errors
/// [`Error::Invalid`] for the field `slug`.
pub(super) fn validate_slug(slug: &str) -> Result<()> {
    check_slug(slug).map_err(|msg| Error::invalid("slug", msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_lower_case_words_that_begin_with_a_letter() {
        for slug in ["abc", "a-b", "acme-2", "x1-2-3", &"a".repeat(50)] {
            assert_eq!(check_slug(slug), Ok(()), "{slug}");
        }
        for slug in [
            "",
            "ab",
            "Acme",
            "123",
            "1ab",
            "-ab",
            "ab-",
            "a--b",
            "a_b",
            "a b",
            "été",
            "ab\n",
            &"a".repeat(51),
        ] {
            assert!(check_slug(slug).is_err(), "{slug}");
        }
    }
}
