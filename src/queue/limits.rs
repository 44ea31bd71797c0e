//! How much of what others say is stored.

const MAX_TEXT_BYTES: usize = 8 * 1024;

/// Somebody's words, as far as they are kept.
pub(super) fn truncate(words: &mut String) {
    words.truncate(words.floor_char_boundary(MAX_TEXT_BYTES));
}

/// Deep JSON is written without a word, and refused when it is read.
pub(super) fn check_depth(text: &str) -> serde_json::Result<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop)
}
