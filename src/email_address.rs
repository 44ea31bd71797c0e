//! Email addresses: which are accepted, and when two spellings are the same address.
//!
//! A domain has several spellings: `bücher.example` is `xn--bcher-kva.example`, and UTS 46 maps full-width letters and removes
//! some invisible characters. A local part can be quoted. Code that stores an address, or finds an account by an address,
//! parses the address here.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use lettre::Address;
use unicode_normalization::UnicodeNormalization;

/// Maximum number of characters of an email address that the database stores.
pub const MAX_EMAIL_CHARS: usize = 255;

const INVALID_EMAIL: &str = "This is not a valid email address; it looks like name@example.com";
const EMAIL_TOO_LONG: &str = "Email address must have at most 255 characters";
const EMAIL_DOMAIN_WITHOUT_DOT: &str =
    "Email address must have a domain with a dot after the @, as in name@example.com";

/// Invisible characters, which would make two different addresses look alike.
const INVISIBLE_CHARS: [char; 4] = ['\u{115F}', '\u{1160}', '\u{17B4}', '\u{17B5}'];

/// An email address that this release accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailAddress {
    /// The address to store and to show: in lower case, without quotes and invisible characters. A domain that was written with
    /// characters beyond ASCII is in Unicode. A domain that was written in ASCII stays in ASCII, also with labels such as
    /// `xn--bcher-kva`.
    pub stored: String,
    /// A text that is the same for all spellings of an address: the local part in lower case and the domain
    /// in ASCII.
    pub key: String,
    for_mail: Address,
}

impl EmailAddress {
    /// Parses an address.
    ///
    /// IP addresses and domains without a dot are refused, because mail servers usually cannot deliver mail to them.
    /// Characters that are invisible or need quotes are refused in the local part.
    ///
    /// # Errors
    /// If the text is not an accepted address. The error is a message for the user.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let address = Self::parse_sender(text)?;
        match address.for_mail.domain().contains('.') {
            true => Ok(address),
            false => Err(EMAIL_DOMAIN_WITHOUT_DOT),
        }
    }

    /// As [`Self::parse`], but a domain without a dot is accepted, such as `localhost`. The sender of mails may be local.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_sender(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.chars().count() > MAX_EMAIL_CHARS {
            return Err(EMAIL_TOO_LONG);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(INVALID_EMAIL)?;
        let (ascii, readable) = domain_forms(domain).ok_or(INVALID_EMAIL)?;
        let local: String = unquoted(local).ok_or(INVALID_EMAIL)?.nfkc().collect();
        let folded: String = local.to_lowercase().nfkc().collect();
        if folded.contains('"') || folded.contains(INVISIBLE_CHARS) {
            return Err(INVALID_EMAIL);
        }
        let for_mail = Address::new(&local, &ascii).map_err(|_| INVALID_EMAIL)?;
        let key = Address::new(&folded, &ascii).map_err(|_| INVALID_EMAIL)?.to_string();
        let stored = format!("{folded}@{readable}");
        match stored.chars().count() > MAX_EMAIL_CHARS {
            true => Err(EMAIL_TOO_LONG),
            false => Ok(Self { stored, key, for_mail }),
        }
    }

    /// Returns the address for a mail: with the domain in ASCII, which every mail server understands, and the local part
    /// in the case in which it was written.
    pub fn for_mail(self) -> Address {
        self.for_mail
    }
}

/// Returns a domain in ASCII and in a readable form, by UTS 46 and the rules of host names (RFC 1123 section 2.1). `None` if
/// the domain is invalid or an IP address.
fn domain_forms(domain: &str) -> Option<(String, String)> {
    const UTS46: Uts46 = Uts46::new();
    let (bytes, deny, hyphens) = (domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast);
    let ascii = UTS46.to_ascii(bytes, deny, hyphens, DnsLength::Verify).ok()?.into_owned();
    // Each top-level domain begins with a letter; the last part of an IPv4 address is a number. The deny list refuses IPv6
    // addresses.
    if !ascii.rsplit('.').next()?.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    if domain.is_ascii() {
        return Some((ascii.clone(), ascii));
    }
    let (readable, valid) = UTS46.to_unicode(bytes, deny, hyphens);
    valid.ok()?;
    Some((ascii, readable.into_owned()))
}

/// Removes the quotes and escapes of a quoted local part (RFC 5321 section 4.1.2). Returns any other local part unchanged,
/// and `None` if an escape is incomplete.
fn unquoted(local: &str) -> Option<String> {
    let Some(quoted) = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Some(local.to_owned());
    };
    let (mut text, mut chars) = (String::new(), quoted.chars());
    while let Some(c) = chars.next() {
        text.push(if c == '\\' { chars.next()? } else { c });
    }
    Some(text)
}

/// An address in the forms by which an account is found. The address may be invalid, because an account of an earlier release may
/// have an address that this release does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailLookup {
    /// The address, trimmed and in lower case. Earlier releases have stored addresses in this form.
    pub stored: String,
    /// The [key](EmailAddress::key) of a valid address. `None` if the address is invalid.
    pub key: Option<String>,
}

impl EmailLookup {
    /// Creates the look-up of an address.
    pub fn new(text: &str) -> Self {
        let key = EmailAddress::parse(text).ok().map(|address| address.key);
        Self { stored: text.trim().to_lowercase(), key }
    }

    /// Returns a text that is equal for all spellings of a valid address: the key. For an invalid address, returns
    /// [`Self::stored`].
    pub fn subject(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.stored)
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_an_address_have_one_key() {
        let addresses: [(&str, &[&str]); 3] = [
            (
                "ada@example.com",
                &[
                    "ada@example.com",
                    " Ada@EXAMPLE.com\n",
                    "ada@exam\u{200B}ple.com",
                    "ada@exam\u{AD}ple.com",
                    "ada@example.com\u{200B}",
                    "ada@\u{FF45}xample.com",
                    "ada@example\u{3002}com",
                    "\u{FF41}da@example.com",
                    "\"ada\"@example.com",
                    "\"\\a\\d\\a\"@example.com",
                ],
            ),
            (
                "hal+x@xn--bcher-kva.example",
                &[
                    "hal+x@bücher.example",
                    "Hal+x@BÜCHER.example",
                    "hal+x@bu\u{308}cher.example",
                    "hal+x@XN--BCHER-KVA.example",
                ],
            ),
            ("zoë@example.com", &["zoë@example.com", "zoe\u{308}@example.com", "ZOË@example.com"]),
        ];
        for (key, spellings) in addresses {
            for spelling in spellings {
                let lookup = EmailLookup::new(spelling);
                assert_eq!((lookup.subject(), lookup.key.as_deref()), (key, Some(key)), "{spelling:?}");
            }
        }
        // A letter that only looks like another letter makes a different address.
        assert_ne!(EmailLookup::new("\u{430}da@example.com").subject(), "ada@example.com");
        assert_ne!(EmailLookup::new("ada@ex\u{430}mple.com").subject(), "ada@example.com");
    }

    #[test]
    fn an_address_is_stored_in_lower_case_and_mailed_with_the_domain_in_ascii() {
        for (text, stored, mailed) in [
            (" Ada@Example.COM", "ada@example.com", "Ada@example.com"),
            ("ada@BÜCHER.example", "ada@bücher.example", "ada@xn--bcher-kva.example"),
            ("ada@XN--bcher-kva.example", "ada@xn--bcher-kva.example", "ada@xn--bcher-kva.example"),
            ("\"Ada\"@exam\u{AD}ple.com", "ada@example.com", "Ada@example.com"),
        ] {
            let address = EmailAddress::parse(text).unwrap();
            assert_eq!((&*address.stored, &*address.clone().for_mail().to_string()), (stored, mailed));
            // The stored form is a spelling of the same address.
            assert_eq!(EmailAddress::parse(&address.stored).unwrap().key, address.key);
        }
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for bad in [
            "",
            "a",
            "a@",
            "@b.co",
            "a@b",
            "a b@c.co",
            "a@b..co",
            "a@@b.co",
            "a@.co",
            "a@b.co\0",
            "a@b.co.",
            "a@[127.0.0.1]",
            "a@[IPv6:::1]",
            "a@127.0.0.1",
            "a@1.2",
            "a@1.0x2",
            "a@\u{FF11}.\u{FF12}",
            "a@b_c.co",
            "a@-b.co",
            "a@b-.co",
            "a@xn--a.co",
            "a@b#c.co",
            "a\u{200B}b@c.co",
            "a\u{AD}@b.co",
            "a\u{3164}@b.co",
            "\u{FEFF}a@b.co",
            "a\u{7F}@b.co",
            ".a@b.co",
            "a..b@c.co",
            "\"a b\"@c.co",
            "\"a@b\"@c.co",
            "\"\"@b.co",
            "\"@b.co",
            "\"a\\\"@b.co",
            "\"\\\"a\\\"\"@b.co",
            "a\u{FF20}b@c.co",
            "a\u{FF02}b@c.co",
            "Ada <ada@b.co>",
        ] {
            assert!(EmailAddress::parse(bad).is_err(), "{bad:?}");
            assert_eq!(EmailLookup::new(bad).key, None, "{bad:?}");
        }
        assert_eq!(EmailAddress::parse("a@b"), Err(EMAIL_DOMAIN_WITHOUT_DOT));
        assert!(EmailAddress::parse_sender("a@localhost").is_ok());
        assert!(EmailAddress::parse_sender("a@127.0.0.1").is_err());
        assert_eq!(EmailAddress::parse(&format!("{}@example.com", "a".repeat(250))), Err(EMAIL_TOO_LONG));
        assert!(EmailAddress::parse(&format!("{}@example.com", "a".repeat(65))).is_err());
        assert!(EmailAddress::parse(&format!("a@{}.com", "b".repeat(64))).is_err());
    }
}
