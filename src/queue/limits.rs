//! Limits of the texts and the JSON that Redis stores about a job.

const MAX_TEXT_BYTES: usize = 8 * 1024;

/// Shortens a text to 8 KiB, at a character boundary.
pub(super) fn truncate(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
}

/// Checks that JSON can be parsed again: `serde_json` serializes deeply nested values, but refuses to parse them.
///
/// # Errors
/// If the JSON is nested more than 127 levels deep.
pub(super) fn check_depth(text: &str) -> serde_json::Result<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop)
}
