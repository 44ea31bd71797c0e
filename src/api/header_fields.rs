//! Functions that read headers.
//!
//! The value of a header consists of octets, not text (RFC 9110 section 5.5). So a list is split into items before the
//! items are decoded. An item that cannot be decoded does not affect the other items.

use poem::http::{HeaderMap, HeaderName};

/// Returns the items of a list, without surrounding whitespace. Several lines of a header form one list (RFC 9110
/// section 5.3).
pub(super) fn items(
    headers: &HeaderMap,
    name: HeaderName,
    separator: u8,
) -> impl DoubleEndedIterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(move |line| line.as_bytes().split(move |octet| *octet == separator).map(<[u8]>::trim_ascii))
}

/// Returns the text of a header that a request has at most once. `None` if it is absent, repeated or not ASCII.
pub(super) fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut lines = headers.get_all(name).into_iter();
    let line = lines.next()?;
    lines.next().is_none().then(|| line.to_str().ok())?
}

#[cfg(test)]
mod tests {
    use poem::http::{HeaderValue, header};
    use proptest::{collection::vec, sample::select};

    use super::*;
    use crate::property::property;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let line = |line: &&[u8]| (header::ACCEPT, HeaderValue::from_bytes(line).unwrap());
        HeaderMap::from_iter(lines.iter().map(line))
    }

    #[test]
    fn all_lines_are_one_list_of_octets() {
        let headers = headers(&[b"a,\tb\xf8 ", b"", b"c , d"]);
        let wanted: [&[u8]; 5] = [b"a", b"b\xf8", b"", b"c", b"d"];
        assert!(items(&headers, header::ACCEPT, b',').eq(wanted));
        assert!(items(&headers, header::ACCEPT, b',').rev().eq(wanted.into_iter().rev()));
        assert_eq!(items(&headers, header::HOST, b',').count(), 0);
    }

    #[test]
    fn a_repeated_or_unreadable_value_is_none() {
        let accept = |lines| single(&headers(lines), header::ACCEPT).map(str::to_owned);
        assert_eq!(accept(&[b"one"]).as_deref(), Some("one"));
        let none: [&[&[u8]]; 3] = [&[], &[b"one", b"one"], &[b"one\xf8"]];
        assert!(none.into_iter().all(|lines| accept(lines).is_none()));
    }

    #[test]
    fn joined_items_are_split_again() {
        let item = vec(select(b"a=;\"\t \xf8".to_vec()), 0..4);
        property(1, vec(vec(item, 1..4), 0..3), |lines| {
            let joined: Vec<_> = lines.iter().map(|items| items.join(&b',')).collect();
            let joined: Vec<_> = joined.iter().map(Vec::as_slice).collect();
            let expected = lines.iter().flatten().map(|item| item.trim_ascii());
            assert!(items(&headers(&joined), header::ACCEPT, b',').eq(expected));
        });
    }
}
