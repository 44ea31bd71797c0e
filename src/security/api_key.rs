//! The form of API keys: `saas_`, 40 random characters, `_` and a checksum of 6 characters.
//!
//! Programs that look for secrets in code and logs can recognize the form. By the form and the checksum, the server refuses a
//! mistyped or shortened key without a query. The checksum does not prove that a key is genuine: anyone can compute it.

use super::opaque_token::random_bytes;
use crate::error::Result;

/// The beginning of every key: the name of the product and `_`. Keys of clients and the rules of secret scanners contain it, so
/// it must not change after the first key was created.
pub const PREFIX: &str = "saas_";
/// Number of random characters of a key. They have 238 bits of entropy.
const RANDOM_CHARS: usize = 40;
const CHECKSUM_CHARS: usize = 6;
/// The base-62 digits of the random part and of the checksum, in the order of their values.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The highest multiple of 62 that fits in a byte. Random bytes from this value on are dropped, so that each of the 62
/// digits has the same probability.
const FAIR_BYTE_LIMIT: u8 = 248;
/// Number of characters at the beginning of a key that [`hint`] shows.
const HINT_START_CHARS: usize = 8;
/// Number of characters at the end of a key that [`hint`] shows.
const HINT_END_CHARS: usize = 4;

/// Creates a key.
///
/// # Errors
/// [`Error::Internal`](crate::error::Error::Internal) if the random number generator fails.
pub fn random() -> Result<String> {
    let mut key = PREFIX.to_owned();
    while key.len() < PREFIX.len() + RANDOM_CHARS {
        let fair = random_bytes::<RANDOM_CHARS>()?.into_iter().filter(|byte| *byte < FAIR_BYTE_LIMIT);
        let missing = PREFIX.len() + RANDOM_CHARS - key.len();
        key.extend(fair.take(missing).map(|byte| digit(byte.into())));
    }
    let checksum = checksum(&key);
    Ok(format!("{key}_{checksum}"))
}

/// Returns whether a text has the prefix of keys. No other token of the product begins with it.
pub fn has_prefix(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Returns whether a text has the form of a key and the right checksum.
pub fn is_well_formed(text: &str) -> bool {
    let Some((key, given)) = text.rsplit_once('_') else { return false };
    let is_random =
        |part: &str| part.len() == RANDOM_CHARS && part.bytes().all(|b| b.is_ascii_alphanumeric());
    key.strip_prefix(PREFIX).is_some_and(is_random) && checksum(key) == given
}

/// Returns the first 8 and the last 4 characters of a key with `…` between them, by which a person recognizes the key.
pub fn hint(key: &str) -> String {
    let start = key.get(..HINT_START_CHARS).unwrap_or_default();
    let end = key.get(key.len().saturating_sub(HINT_END_CHARS)..).unwrap_or_default();
    format!("{start}…{end}")
}

/// Returns the CRC-32 of a text in base 62, the highest digit first.
fn checksum(text: &str) -> String {
    let mut rest = crc32(text.as_bytes());
    let mut digits = ['0'; CHECKSUM_CHARS];
    for place in digits.iter_mut().rev() {
        *place = digit(rest % 62);
        rest /= 62;
    }
    digits.iter().collect()
}

fn digit(value: u32) -> char {
    char::from(DIGITS[value as usize % DIGITS.len()])
}

/// Returns the CRC-32 of ISO 3309 and ITU-T V.42, which gzip and PNG use.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_crc_32_in_base_62() {
        assert_eq!((crc32(b"123456789"), crc32(b"")), (0xcbf4_3926, 0));
        // 0xcbf43926 = 3 * 62^5 + 45 * 62^4 + 35 * 62^3 + 27 * 62^2 + 22 * 62 + 14
        assert_eq!((checksum("123456789").as_str(), checksum("").as_str()), ("3jZRME", "000000"));
    }

    #[test]
    fn random_keys_are_well_formed_and_differ() {
        let keys: Vec<_> = (0..200).map(|_| random().unwrap()).collect();
        for key in &keys {
            assert!(is_well_formed(key) && has_prefix(key), "{key}");
            assert_eq!(
                (key.len(), key.rfind('_')),
                (PREFIX.len() + 40 + 1 + 6, Some(PREFIX.len() + 40)),
                "{key}"
            );
        }
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        let used: std::collections::BTreeSet<_> =
            keys.concat().bytes().filter(u8::is_ascii_alphanumeric).collect();
        assert_eq!(used.len(), DIGITS.len(), "8,000 characters contain every digit");
    }

    #[test]
    fn every_change_of_one_character_is_refused() {
        let key = random().unwrap();
        for at in 0..key.len() {
            for other in (0..=127_u8).map(char::from).chain(['é', '…']) {
                let changed = format!("{}{other}{}", &key[..at], &key[at + 1..]);
                assert_eq!(is_well_formed(&changed), changed == key, "{changed:?}");
            }
            let (shorter, longer) =
                (format!("{}{}", &key[..at], &key[at + 1..]), format!("{}0{}", &key[..at], &key[at..]));
            assert!(!is_well_formed(&shorter) && !is_well_formed(&longer), "{shorter} {longer}");
        }
    }

    #[test]
    fn the_hint_has_twelve_characters_of_the_key() {
        assert_eq!(hint("saas_0123456789_abcdef"), "saas_012…cdef");
    }
}
