use secrecy::{ExposeSecret, SecretString};

/// Returns a text setting without surrounding space, or `None` if it is absent or blank.
pub(super) fn given(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

/// Returns a secret setting, or `None` if it is absent or blank.
pub fn secret(value: &Option<SecretString>) -> Option<&str> {
    given(value.as_ref().map(ExposeSecret::expose_secret))
}
