//! Settings whose text is parsed into a type.

use std::{convert::Infallible, fmt};

use clap::builder::TypedValueParser;
use lettre::message::Mailbox;
use secrecy::{ExposeSecret, SecretString};

use crate::email_address::EmailAddress;

/// A setting in its parsed form, or the reason why its text is invalid.
///
/// An invalid text does not end the parsing of the command line. The reason is kept, so that start-up reports the
/// problems of all settings together and `saas doctor` can list them. An invalid setting that has no effect is not reported.
#[derive(Clone)]
pub struct Setting<T>(Result<Option<T>, String>);

impl<T> Setting<T> {
    /// Returns the value, or `None` if the setting is absent or blank.
    ///
    /// # Errors
    /// If the text is invalid; the message names the setting.
    pub fn get(&self) -> anyhow::Result<Option<&T>> {
        match &self.0 {
            Ok(value) => Ok(value.as_ref()),
            Err(problem) => Err(anyhow::anyhow!(problem.clone())),
        }
    }

    /// Returns whether the setting has a text, valid or not.
    pub fn is_set(&self) -> bool {
        !matches!(self.0, Ok(None))
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.0.as_ref().err().cloned()
    }
}

impl<T> From<T> for Setting<T> {
    fn from(value: T) -> Self {
        Self(Ok(Some(value)))
    }
}

/// Hides the value, which may contain a secret.
impl<T> fmt::Debug for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("is_set", &self.is_set()).finish_non_exhaustive()
    }
}

/// Returns a value parser for the setting `name`. For an invalid text, `parse` returns the problem; the name
/// of the setting is put in front of it.
pub(super) fn setting<T>(
    name: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> impl TypedValueParser<Value = Setting<T>>
where
    T: Clone + Send + Sync + 'static,
{
    move |text: &str| -> Result<Setting<T>, Infallible> {
        let value = given(Some(text)).map(parse).transpose();
        Ok(Setting(value.map_err(|problem| format!("{name} {problem}"))))
    }
}

/// Parses the port of a server.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        // If a namespace has a service named `redis`, Kubernetes by default sets REDIS_PORT=tcp://... in the pods of the
        // namespace.
        _ if text.contains("://") && !text.contains('@') => Err(format!(
            "is {text:?}, which Kubernetes sets because of a service with this name: set the URL of the server instead, \
             or `enableServiceLinks: false` in the pod"
        )),
        _ => Err(not_a_number(text, "1 to 65535")),
    }
}

/// Parses the number of a Redis database.
pub(super) fn database_number(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| not_a_number(text, "0 to 255"))
}

/// Describes a text that is not a number in `range`. A text with an @ may be a URL with a password, so it is not repeated.
fn not_a_number(text: &str, range: &str) -> String {
    let shown = if text.contains('@') { "a text with an @".to_owned() } else { format!("{text:?}") };
    format!("has {shown}, which is not a number from {range}")
}

/// Parses a mail address, with or without a name. The domain becomes ASCII.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, String> {
    let parsed = text.parse::<Mailbox>().ok().and_then(|mailbox| {
        let address = EmailAddress::parse_sender(mailbox.email.as_ref()).ok()?;
        Some(Mailbox::new(mailbox.name, address.for_mail()))
    });
    parsed.ok_or_else(|| format!("{text:?} is not an address; write `Name <address@example.com>`"))
}

/// Returns a text setting without surrounding space, or `None` if it is absent or blank.
pub(super) fn given(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|value| !value.is_empty())
}

/// Returns a secret setting without surrounding space, or `None` if it is absent or blank.
pub fn secret(value: &Option<SecretString>) -> Option<&str> {
    given(value.as_ref().map(ExposeSecret::expose_secret))
}

/// Returns a password without the line ends at its end: a file of a secret often ends with one. `None` if the password is absent
/// or blank. Spaces are part of a password.
pub(super) fn password(value: &Option<SecretString>) -> Option<&str> {
    let text = value.as_ref()?.expose_secret().trim_end_matches(['\r', '\n']);
    Some(text).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::property::{property, text};

    #[test]
    fn invalid_ports_are_refused() {
        for good in ["1", "6379", "65535"] {
            assert!(port(good).is_ok(), "{good}");
        }
        for bad in ["", "0", "-1", "65536", "abc", "6379/tcp", "6.379"] {
            assert!(port(bad).unwrap_err().contains("not a number"), "{bad}");
        }
        assert!(port("tcp://10.0.0.1:6379").unwrap_err().contains("enableServiceLinks: false"));
        for problem in
            [port("redis://:hunter2@h:1").unwrap_err(), database_number("u:hunter2@h").unwrap_err()]
        {
            assert!(problem.contains("not a number") && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn line_ends_at_the_end_are_removed_from_a_password_and_spaces_are_kept() {
        for (text, wanted) in [
            (" a b ", Some(" a b ")),
            (" a\n", Some(" a")),
            ("a\r\n\r\n", Some("a")),
            ("\na", Some("\na")),
            (" ", None),
            ("\r\n", None),
            ("", None),
        ] {
            assert_eq!(password(&Some(text.into())), wanted, "{text:?}");
            assert_eq!(secret(&Some(text.into())), wanted.map(str::trim), "{text:?}");
        }
        assert_eq!(password(&None), None);
    }

    #[test]
    fn the_domain_of_a_sender_becomes_ascii() {
        for (text, wanted) in [
            ("Ada <Ada@bücher.example>", "Ada <Ada@xn--bcher-kva.example>"),
            ("ada@exam\u{200B}ple.com", "ada@example.com"),
            ("saas@localhost", "saas@localhost"),
        ] {
            assert_eq!(mailbox(text).unwrap().to_string(), wanted);
        }
        for bad in ["ada", "ada@", "Ada <a b@example.com>", "ada@127.0.0.1", "ada@exa_mple.com"] {
            assert!(mailbox(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn blank_settings_are_not_set_and_invalid_ones_are_named() {
        let parse = |text: &str| {
            let command = clap::Command::new("test");
            setting("REDIS_PORT", port).parse_ref(&command, None, text.as_ref()).unwrap()
        };
        assert!(!parse(" ").is_set() && parse(" ").get().unwrap().is_none());
        assert_eq!(parse(" 6379\n").get().unwrap(), Some(&6379));
        let error = parse("nonsense").get().unwrap_err().to_string();
        assert!(error.starts_with("REDIS_PORT has \"nonsense\""), "{error}");
    }

    #[test]
    fn a_password_is_its_text_without_trailing_line_ends() {
        property(1, text("a @", 8), |text| {
            let setting = Some(text.as_str().into());
            match password(&setting) {
                Some(password) => {
                    let rest = text.strip_prefix(password).unwrap();
                    assert!(rest.chars().all(|c| "\r\n".contains(c)) && !password.ends_with(['\r', '\n']));
                }
                None => assert_eq!(text.trim(), ""),
            }
            assert_eq!(secret(&setting), given(Some(&text)));
        });
    }
}
