//! The formatting of the address headers of mails.

use mail_parser::{Addr, Address};

/// Returns the names and addresses of a header as `name <address>`, separated by commas.
pub(super) fn addresses(list: Option<&Address<'_>>) -> String {
    let format_one = |addr: &Addr<'_>| match (addr.name(), addr.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => address.or(name).unwrap_or_default().to_owned(),
    };
    let all: Vec<_> = list.into_iter().flat_map(|list| list.iter()).map(format_one).collect();
    all.join(", ")
}
