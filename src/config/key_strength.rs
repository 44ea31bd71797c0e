//! The check whether a key is published or too regular to be secret.

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};

/// Minimum number of bytes that [`unpredictable_bytes`] must count. Random keys of 32 letters and digits practically always have
/// more; most example keys have fewer.
const MIN_UNPREDICTABLE_BYTES: usize = 16;
/// Minimum number of distinct bytes. A key with fewer is too regular to be random.
const MIN_DISTINCT_BYTES: usize = 8;
/// Maximum number of bytes of a key that are examined: the time to find repetitions grows with the square of their number.
const MAX_EXAMINED_BYTES: usize = 256;
/// Minimum number of bytes of a text whose repetition counts as predictable.
const REPETITION_BYTES: usize = 4;
/// Published keys: from the documentation of FastAPI and Flask, from examples of JWT, and the SHA-256 of the empty text and of
/// `password`.
const PUBLISHED_KEYS: &[&str] = &[
    "404e635266556a586e3272357538782f413f4428472b4b6250645367566b5970",
    "5367566b59703373367639792f423f4528482b4d6251655468576d5a71347437",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
];
/// Words of example keys, and rows of a keyboard. A random key contains some of the short words by chance, so a key is not
/// refused for a single word.
const EXAMPLE_WORDS: &str = "\
    admin and api app at bar base64 baz bit byte change char default demo develop django example \
    fastapi flask foo for generate hello here hex in insecure it jwt key least letmein local long me \
    minimum must my not now openssl own passwd password placeholder please prod production rand random \
    real replace saas safe sample secret secure session should signing some string super test that the \
    thing this to todo token use user value very welcome with world your qwert uiop asdf ghjkl zxcv \
    vbnm";

/// Returns whether a key is published, an example such as `change-me-in-production`, or regular such as `abcdefgh`
/// repeated. A random key of 32 or more hexadecimal or base64 digits is practically never found to be predictable.
pub(super) fn is_predictable(key: &str) -> bool {
    is_regular(key) || decoded_text(key).is_some_and(|text| is_regular(&text))
}

/// Returns the text that a key encodes in hexadecimal or base64. `None` if the key encodes no text: random bytes are not text.
fn decoded_text(key: &str) -> Option<String> {
    let hex = || {
        let digits: Option<Vec<_>> = key.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
        Some(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect::<Vec<u8>>())
    };
    let bytes = hex().or_else(|| STANDARD.decode(key).ok())?;
    let is_text = bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    String::from_utf8(bytes).ok().filter(|_| is_text)
}

/// Returns whether a text is published or has too few distinct or unpredictable bytes.
fn is_regular(key: &str) -> bool {
    let mut seen = [false; 256];
    key.bytes().for_each(|byte| seen[usize::from(byte)] = true);
    seen.iter().filter(|seen| **seen).count() < MIN_DISTINCT_BYTES
        || PUBLISHED_KEYS.contains(&key.to_ascii_lowercase().as_str())
        || unpredictable_bytes(key) < MIN_UNPREDICTABLE_BYTES
}

/// Counts the bytes that are not part of an example word, of a sequence such as `1234` or `aaaa`, or of a repetition of earlier
/// bytes. Examines the first [`MAX_EXAMINED_BYTES`] bytes. Ignores separators and the case of letters.
fn unpredictable_bytes(key: &str) -> usize {
    let letters = key.bytes().filter(|byte| !b"-_ .".contains(byte));
    let text: Vec<u8> = letters.take(MAX_EXAMINED_BYTES).map(|byte| byte.to_ascii_lowercase()).collect();
    let mut is_predictable = vec![false; text.len()];
    for (at, run) in text.windows(3).enumerate() {
        let step = |from: usize| i16::from(run[from + 1]) - i16::from(run[from]);
        if step(0) == step(1) && step(0).abs() <= 1 {
            is_predictable[at..at + 3].fill(true);
        }
    }
    for (at, part) in text.windows(REPETITION_BYTES).enumerate() {
        if text[..at + REPETITION_BYTES - 1].windows(REPETITION_BYTES).any(|earlier| earlier == part) {
            is_predictable[at..at + REPETITION_BYTES].fill(true);
        }
    }
    let spelled: Vec<u8> = text.iter().map(|byte| letter_of(*byte)).collect();
    for word in EXAMPLE_WORDS.split(' ').map(str::as_bytes) {
        for at in 0..(text.len() + 1).saturating_sub(word.len()) {
            let place = at..at + word.len();
            if text[place.clone()] == *word || spelled[place.clone()] == *word {
                is_predictable[place].fill(true);
            }
        }
    }
    is_predictable.iter().filter(|predictable| !**predictable).count()
}

/// Returns the letter that a digit or sign replaces, as in `s3cr3t`, or any other byte unchanged.
fn letter_of(byte: u8) -> u8 {
    match byte {
        b'0' => b'o',
        b'1' | b'!' => b'i',
        b'3' => b'e',
        b'4' | b'@' => b'a',
        b'5' | b'$' => b's',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand;

    use super::*;

    #[test]
    fn examples_and_regular_keys_are_predictable() {
        for key in [
            "CHANGE_ME_CHANGE_ME_CHANGE_ME_CHANGE_ME",
            "change-me-in-production-please-0123456789",
            "changethis-changethis-changethis-changethis",
            "your-secret-key-here-change-in-production",
            "your-super-secret-key-change-this-in-production",
            "a-string-secret-at-least-256-bits-long",
            "my-very-long-and-secure-secret-key-for-jwt-tokens",
            "password12345678password12345678",
            "S3cr3tS3cr3tS3cr3tS3cr3tS3cr3tS3cr3t",
            "P@ssw0rd!P@ssw0rd!P@ssw0rd!P@ssw0rd!",
            "abcdefghabcdefghabcdefghabcdefgh",
            "abcdabcdabcdabcdabcdabcdabcdabcd",
            "abcdefghijklmnopqrstuvwxyz012345",
            "x7Kp2mQ9vR4tW8zBx7Kp2mQ9vR4tW8zB",
            "qwertyuiopasdfghjklzxcvbnm123456",
            "0123456789abcdef0123456789abcdef",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "Y2hhbmdlLW1lLWNoYW5nZS1tZS1jaGFuZ2UtbWUtMTIzNA==",
            "6368616e67652d6d652d6368616e67652d6d652d6368616e67652d6d652d3132",
            "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
        ] {
            assert!(is_predictable(key), "{key}");
        }
    }

    #[test]
    fn random_keys_are_not_predictable() {
        const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for _ in 0..2_000 {
            let mut bytes = [0; 44];
            rand::fill(&mut bytes).unwrap();
            let base64: String =
                bytes.iter().map(|byte| char::from(BASE64[usize::from(byte % 64)])).collect();
            assert!(!is_predictable(&base64), "{base64}");
            let hex: String = bytes[..32].iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!is_predictable(&hex), "{hex}");
            // A word before a random key does not make it predictable.
            assert!(!is_predictable(&format!("secret-{hex}")));
        }
        assert!(!is_predictable("correct horse battery staple and a rubber duck"));
    }
}
