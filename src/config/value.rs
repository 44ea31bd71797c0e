//! Settings whose text is parsed into a type.

use std::{collections::HashSet, convert::Infallible, fmt, net::IpAddr};

use clap::builder::TypedValueParser;
use lettre::message::Mailbox;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use crate::email_address::EmailAddress;

/// A setting in its parsed form, or the reason why its text is invalid.
///
/// An invalid text does not end the parsing of the command line. The reason is kept, so that start-up reports the
/// problems of all settings together and `saas doctor` can list them.
#[derive(Clone)]
pub struct Setting<T>(Result<Option<T>, String>);

impl<T> Setting<T> {
    /// Returns the value, or `None` if the setting is absent or blank.
    ///
    /// # Errors
    /// If the text is invalid; the message names the setting and what to write.
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

/// Returns a value parser for the setting `name`. `parse` returns what is wrong with the text; the name is put in front.
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

/// Parses the address of a site, without query and fragment.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    url.ok_or_else(|| format!("{text:?} is not the URL of a site; write https://app.example.com"))
}

/// The origins of web pages, as browsers write them in the header `Origin`.
pub type Origins = HashSet<String>;

/// Parses a list of origins: a JSON list, or separated by commas.
pub(super) fn origins(text: &str) -> Result<Origins, String> {
    list(text, r#"["https://app.example.com"]"#)?.iter().map(|text| origin(text)).collect()
}

/// Splits a list: a JSON list, or separated by commas. Blank items are dropped.
fn list(text: &str, example: &str) -> Result<Vec<String>, String> {
    let list: Vec<String> = match text.starts_with('[') {
        true => serde_json::from_str(text)
            .map_err(|error| format!("is not a JSON list of strings ({error}); write {example}"))?,
        false => text.split(',').map(str::to_owned).collect(),
    };
    let items = list.iter().map(|item| item.trim()).filter(|item| !item.is_empty());
    Ok(items.map(str::to_owned).collect())
}

/// The hosts of a server: names in lower case, and IP addresses.
pub type Hosts = HashSet<Host>;

/// Parses a list of hosts: a JSON list, or separated by commas.
pub(super) fn hosts(text: &str) -> Result<Hosts, String> {
    const EXAMPLE: &str = r#"["api.example.com"]"#;
    let hosts: Hosts = list(text, EXAMPLE)?.iter().map(|text| host(text)).collect::<Result<_, _>>()?;
    match hosts.is_empty() {
        true => Err(format!("is empty, which allows no host; write {EXAMPLE}")),
        false => Ok(hosts),
    }
}

fn host(text: &str) -> Result<Host, String> {
    // An IPv6 address may have no brackets here. A wildcard would be a valid name, but no host matches it.
    let ip = text.parse().ok().map(Host::Ipv6);
    let host = ip.or_else(|| Host::parse(text).ok()).filter(|_| !text.contains('*'));
    host.ok_or_else(|| {
        format!("has {text:?}, which is not a host; write a name or an IP address, such as api.example.com")
    })
}

fn origin(text: &str) -> Result<String, String> {
    let url = base_url(text).ok().filter(|url| url.path() == "/" && !text.contains('*'));
    url.map(|url| url.origin().ascii_serialization()).ok_or_else(|| {
        format!(
            "has {text:?}, which is not an origin; write scheme and host, such as https://app.example.com (a \
             wildcard does not work with credentials)"
        )
    })
}

/// Returns whether connections to a host stay in this machine.
pub(super) fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let is_loopback = host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback());
    is_loopback || host == "localhost" || host.ends_with(".localhost")
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

/// Returns a secret setting, or `None` if it is absent or blank.
pub fn secret(value: &Option<SecretString>) -> Option<&str> {
    given(value.as_ref().map(ExposeSecret::expose_secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn site_urls_are_checked() {
        for good in ["https://app.example.com", "http://localhost:8000/", "https://example.com/app"] {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for bad in [
            "example.com",
            "ftp://example.com",
            "https://",
            "https://a@example.com",
            "https://a.example/?x",
            "https://a.example/#x",
            "https://a b.example",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_normalized() {
        let wanted = Origins::from(["https://app.example.com".into(), "http://localhost:3000".into()]);
        assert_eq!(origins("https://App.example.com/, http://localhost:3000,").unwrap(), wanted);
        assert_eq!(origins(r#"["https://app.example.com:443", "http://localhost:3000"]"#).unwrap(), wanted);
        for bad in ["*", "https://*.example.com", "https://a.example/path", "app.example.com", "[1]"] {
            assert!(origins(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_normalized() {
        let wanted =
            Hosts::from([Host::Domain("api.example.com".into()), Host::Ipv6("::1".parse().unwrap())]);
        assert_eq!(hosts("API.example.com, [::1],").unwrap(), wanted);
        assert_eq!(hosts(r#"["api.example.com", "::1"]"#).unwrap(), wanted);
        assert!(hosts("bücher.example").unwrap().contains(&Host::Domain("xn--bcher-kva.example".into())));
        for bad in ["*", "*.example.com", "api.example.com:443", "https://api.example.com", "[]", ",", "a b"]
        {
            assert!(hosts(bad).is_err(), "{bad}");
        }
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
            setting("PUBLIC_URL", base_url).parse_ref(&command, None, text.as_ref()).unwrap()
        };
        assert!(!parse(" ").is_set() && parse(" ").get().unwrap().is_none());
        assert_eq!(parse("https://a.example").get().unwrap().unwrap().as_str(), "https://a.example/");
        let error = parse("nonsense").get().unwrap_err().to_string();
        assert!(error.starts_with("PUBLIC_URL \"nonsense\" is not"), "{error}");
    }
}
