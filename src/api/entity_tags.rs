//! The lists of entity tags in `If-Match` and `If-None-Match` (RFC 9110 sections 8.8.3, 13.1.1 and 13.1.2).

/// The states of a resource that a client names in a header: any state (`*`), or the states with one of the listed tags.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntityTags {
    Any,
    List(Vec<EntityTag>),
}

/// An entity tag.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntityTag {
    /// Whether the tag is weak: representations with the same weak tag are equivalent, but may differ in their bytes.
    pub(super) is_weak: bool,
    /// The text between the quotes.
    pub(super) opaque: Vec<u8>,
}

impl EntityTags {
    /// Parses the lines of a header. Several lines form one list. `None` if the list is empty or malformed.
    pub(super) fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let list = lines.collect::<Vec<_>>().join(&b',');
        let mut rest = list.trim_ascii();
        if rest == b"*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            // A list may contain empty items (RFC 9110 section 5.6.1.2).
            while let Some(after) = rest.strip_prefix(b",") {
                rest = after.trim_ascii_start();
            }
            if rest.is_empty() {
                break;
            }
            let (tag, after) = EntityTag::parse_first(rest)?;
            tags.push(tag);
            rest = after.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(b",") {
                return None;
            }
        }
        (!tags.is_empty()).then_some(Self::List(tags))
    }

    /// Returns whether any of the tags matches. `*` always matches.
    pub(super) fn any(&self, matches: impl Fn(&EntityTag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(matches),
        }
    }
}

impl EntityTag {
    /// Parses the tag at the beginning of a text. Also returns the text after the tag. `None` if the text does not begin
    /// with a tag.
    fn parse_first(text: &[u8]) -> Option<(Self, &[u8])> {
        let after_weak_prefix = text.strip_prefix(b"W/");
        let quoted = after_weak_prefix.unwrap_or(text).strip_prefix(b"\"")?;
        let end = quoted.iter().position(|octet| *octet == b'"')?;
        let (opaque, rest) = (&quoted[..end], &quoted[end + 1..]);
        let is_valid = opaque.iter().all(|octet| matches!(*octet, 0x21 | 0x23..=0x7E | 0x80..));
        let is_weak = after_weak_prefix.is_some();
        is_valid.then(|| (Self { is_weak, opaque: opaque.to_vec() }, rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{Strategy, any},
        sample::select,
    };

    use super::*;
    use crate::property::{property, text};

    /// Returns a tag as a header contains it.
    fn written(tag: &EntityTag) -> Vec<u8> {
        let start: &[u8] = if tag.is_weak { b"W/\"" } else { b"\"" };
        [start, &tag.opaque, b"\""].concat()
    }

    #[test]
    fn a_list_of_tags_is_parsed_as_it_was_written() {
        let octet = select([0x21, 0x23, b'W', b'/', b',', b'*', b'\\', 0x7e, 0x80, 0xff].to_vec());
        let tag =
            (any::<bool>(), vec(octet, 0..6)).prop_map(|(is_weak, opaque)| EntityTag { is_weak, opaque });
        let separator = select(vec![",", ", ", " ,\t", ",,", " , ,"]);
        property(1, (vec(tag, 1..6), separator, any::<bool>()), |(tags, separator, in_one_line)| {
            let all: Vec<_> = tags.iter().map(written).collect();
            let lines = if in_one_line { vec![all.join(separator.as_bytes())] } else { all };
            assert_eq!(EntityTags::parse(lines.iter().map(Vec::as_slice)), Some(EntityTags::List(tags)));
        });
    }

    #[test]
    fn an_accepted_list_is_parsed_completely() {
        property(1, text("\" \"a\" W/\"b\" W/ , * \\ a", 8), |text| {
            if let Some(EntityTags::List(tags)) = parse(&[&text]) {
                let line = tags.iter().map(written).collect::<Vec<_>>().join(&b',');
                assert_eq!(EntityTags::parse([line.as_slice()].into_iter()), Some(EntityTags::List(tags)));
                assert_eq!(line.iter().filter(|octet| **octet == b'"').count(), text.matches('"').count());
            }
        });
    }

    fn parse(lines: &[&str]) -> Option<EntityTags> {
        EntityTags::parse(lines.iter().map(|line| line.as_bytes()))
    }

    /// Returns the tags, with `~` before weak tags.
    fn tags(lines: &[&str]) -> Option<Vec<String>> {
        let EntityTags::List(tags) = parse(lines)? else { return None };
        let text = |tag: &EntityTag| {
            format!("{}{}", if tag.is_weak { "~" } else { "" }, String::from_utf8_lossy(&tag.opaque))
        };
        Some(tags.iter().map(text).collect())
    }

    #[test]
    fn lists_are_parsed() {
        let cases: [(&[&str], &[&str]); 8] = [
            (&["\"a\""], &["a"]),
            (&["W/\"a\""], &["~a"]),
            (&["\"\""], &[""]),
            (&["\"a\",W/\"b\" , \"c\""], &["a", "~b", "c"]),
            (&["\"a,b\", \"*\""], &["a,b", "*"]),
            (&["\"a\"", "\"b\""], &["a", "b"]),
            (&[", ,\"a\",,", "", "\t\"b\" "], &["a", "b"]),
            (&["\"W/\\!\u{e9}\""], &["W/\\!\u{e9}"]),
        ];
        for (lines, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|tag| (*tag).to_owned()).collect();
            assert_eq!(tags(lines), Some(expected), "{lines:?}");
        }
        assert_eq!(parse(&[" * "]), Some(EntityTags::Any));
    }

    #[test]
    fn malformed_lists_are_refused() {
        let cases: [&[&str]; 14] = [
            &[""],
            &[" , "],
            &["a"],
            &["\"a"],
            &["a\""],
            &["w/\"a\""],
            &["W/ \"a\""],
            &["W/a"],
            &["\"a\" \"b\""],
            &["\"a\"b"],
            &["\"a b\""],
            &["\"a\u{7f}\""],
            &["*, \"a\""],
            &["*", "*"],
        ];
        for lines in cases {
            assert_eq!(parse(lines), None, "{lines:?}");
        }
    }
}
