//! Which addresses lead to one mailbox.

use url::Host;

/// Returns the mailbox of an email address, for the limits of mails. Different addresses of one mailbox have the same
/// result, as far as they show it:
///
/// - a sub-address without its tag (RFC 5233): `ada+shop@example.com` is `ada@example.com`;
/// - a quoted local part without quotes (RFC 5321 section 4.1.2);
/// - an international domain in its ASCII form (RFC 5891);
/// - an address of Gmail without dots, which Gmail ignores.
///
/// The address must be normalized by [`normalize_email`](super::users::normalize_email).
pub(super) fn mailbox_of(email: &str) -> String {
    let (local, domain) = email.rsplit_once('@').unwrap_or((email, ""));
    let domain = Host::parse(domain).map_or_else(|_| domain.to_owned(), |host| host.to_string());
    let local: String = local.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
    let name = local.split('+').find(|part| !part.is_empty()).unwrap_or_default();
    match &*domain {
        "gmail.com" | "googlemail.com" => format!("{}@gmail.com", name.replace('.', "")),
        _ => format!("{name}@{domain}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_mailbox_have_the_same_result() {
        for (mailbox, addresses) in [
            ("ada@example.com", &["ada+1@example.com", "ada+a+b@example.com", "\"ada\"@example.com"][..]),
            ("ada@example.com", &["\"a\\da+x\"@example.com", "ada+@example.com", "\"ada+@\"@example.com"]),
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
