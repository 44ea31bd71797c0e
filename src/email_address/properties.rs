//! Property tests of the parser of email addresses.

use super::{EmailAddress, EmailLookup, MAX_EMAIL_CHARS};
use crate::property::{property, text};

#[test]
fn the_stored_form_is_a_spelling_of_the_same_address() {
    let parts = "a Z . @ \" \\ example.com b\u{fc}cher.example xn--bcher-kva.example EXAMPLE.org \u{df} \u{130} \
        \u{17f} \u{3a3} \u{301} \u{ff21} \u{ff20} \u{200b} \u{3002} - +";
    property(1, (text(parts, 4), text(parts, 4)), |(local, domain)| {
        let text = format!("{local}@{domain}");
        let Ok(address) = EmailAddress::parse(&text) else {
            return assert_eq!(EmailLookup::new(&text).key, None);
        };
        let stored = EmailAddress::parse(&address.stored).unwrap();
        assert_eq!((&stored.stored, &stored.key), (&address.stored, &address.key), "{text:?}");
        assert_eq!(EmailLookup::new(&text).subject(), address.key);
        assert_eq!(EmailLookup::new(&address.stored).subject(), address.key);
        assert!(address.stored.chars().count() <= MAX_EMAIL_CHARS);
        for form in [&address.stored, &address.key] {
            assert_eq!(form.matches('@').count(), 1, "{form:?}");
            assert!(!form.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"'), "{form:?}");
        }
        let (_, domain) = address.key.rsplit_once('@').unwrap();
        assert!(domain.is_ascii() && domain.contains('.') && !domain.ends_with('.'), "{domain}");
    });
}

#[test]
fn an_ordinary_address_is_accepted_in_any_case() {
    let local = "[a-z0-9_+-]{1,20}(\\.[a-z0-9]{1,8}){0,2}";
    let domain = "[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?(\\.[a-z]{2,6}){1,2}";
    property(1, (local, domain), |(local, domain)| {
        let text = format!("{local}@{domain}");
        let address = EmailAddress::parse(&text).unwrap();
        assert_eq!((&address.stored, &address.key), (&text, &text));
        assert_eq!(EmailLookup::new(&format!(" {}\n", text.to_uppercase())).subject(), text);
        assert_eq!(EmailLookup::new(&format!("\"{local}\"@{domain}")).subject(), text);
    });
}
