//! Maps email addresses to mailboxes, because one mailbox can have many addresses.

use crate::email_address::EmailLookup;

/// Returns the mailbox of an email address, for the rate limits of mails. The result is the same for all spellings of
/// an address and for sub-addresses such as `ada+shop@example.com` (RFC 5233). At Gmail, dots in the local part are
/// ignored too.
pub(super) fn mailbox_of(email: &str) -> String {
    let lookup = EmailLookup::new(email);
    let (local, domain) = lookup.subject().rsplit_once('@').unwrap_or((lookup.subject(), ""));
    let name = local.split('+').find(|part| !part.is_empty()).unwrap_or_default();
    match domain {
        "gmail.com" | "googlemail.com" => format!("{}@gmail.com", name.replace('.', "")),
        _ => format!("{name}@{domain}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_mailbox_are_mapped_to_it() {
        for (mailbox, addresses) in [
            ("ada@example.com", &["ada+1@example.com", "Ada+a+b@example.com", "\"ada\"@example.com"][..]),
            ("ada@example.com", &["\"a\\da+x\"@example.com", "ada+@example.com"]),
            ("a.b@example.com", &["a.b+x@example.com"]),
            ("ada@gmail.com", &["a.d.a+x@gmail.com", "ada@googlemail.com"]),
            ("ada@xn--bcher-kva.example", &["ada@bücher.example", "ada+x@bücher.example"]),
        ] {
            for address in addresses.iter().chain([&mailbox]) {
                assert_eq!(mailbox_of(address), mailbox, "{address}");
            }
        }
        assert_ne!(mailbox_of("ada@example.com"), mailbox_of("bob@example.com"));
        assert_ne!(mailbox_of("ada@example.com"), mailbox_of("ada@example.org"));
    }
}
