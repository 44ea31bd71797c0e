//! Property tests of the form of API keys.

use proptest::{collection::vec, prelude::any, sample::select};

use super::{DIGITS, PREFIX, RANDOM_CHARS, checksum, has_prefix, hint, is_well_formed};
use crate::property::{property, text};

#[test]
fn a_key_is_accepted_and_every_change_of_one_character_is_refused() {
    let random = vec(select(DIGITS.to_vec()), RANDOM_CHARS);
    let length = PREFIX.len() + RANDOM_CHARS + 1 + 6;
    property(1, (random, 0..length, any::<char>()), |(random, at, other)| {
        let key = format!("{PREFIX}{}", String::from_utf8(random).unwrap());
        let key = format!("{key}_{}", checksum(&key));
        assert!(is_well_formed(&key) && has_prefix(&key), "{key}");
        let mut chars: Vec<_> = key.chars().collect();
        chars[at] = other;
        let changed: String = chars.into_iter().collect();
        assert_eq!(is_well_formed(&changed), changed == key, "{changed:?}");
    });
}

#[test]
fn no_text_without_the_right_checksum_is_accepted() {
    let parts = "saas_ saas _ __ 0 z 0000000000000000000000000000000000000000 000000 abcdef \u{e9} \u{2026} \0 Bearer";
    property(1, text(parts, 8), |text| {
        let key = text.rsplit_once('_').map(|(key, _)| format!("{key}_{}", checksum(key)));
        assert!(!is_well_formed(&text) || key.as_deref() == Some(&*text), "{text:?}");
        assert!(hint(&text).contains('…'));
    });
}
