//! Limits of the texts and the JSON that Redis stores about a job.

use serde_json::Value;

const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Maximum number of levels of arrays and objects that `serde_json` parses.
const MAX_PARSED_DEPTH: usize = 127;

/// Shortens a text to at most 8 KiB, at a character boundary.
pub(super) fn truncate(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
}

/// Checks that JSON can be parsed again, also as a field of an object: `serde_json` serializes deeply nested values, but refuses
/// to parse them. The outcome of a job that was canceled while it waited contains the envelope as a field.
///
/// # Errors
/// If the JSON is nested more than 126 levels deep.
pub(super) fn check_depth(text: &str) -> serde_json::Result<()> {
    // Most texts have too few brackets to be nested too deeply. Parsing each text would slow down workers.
    let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if brackets < MAX_PARSED_DEPTH {
        return Ok(());
    }
    // `IgnoredAny` would not check the depth.
    serde_json::from_str::<[Value; 1]>(&format!("[{text}]")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_cannot_be_parsed_again_as_a_field_is_too_deep() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for (text, is_valid) in [
            (nested(MAX_PARSED_DEPTH - 1), true),
            (nested(MAX_PARSED_DEPTH), false),
            (nested(10_000), false),
            (format!("[{}{}]", "[],".repeat(1_000), nested(MAX_PARSED_DEPTH - 2)), true),
            (format!("[\"{}\"]", "[".repeat(1_000)), true),
            (format!("{{\"a\":{}}}", nested(MAX_PARSED_DEPTH - 1)), false),
        ] {
            assert_eq!(check_depth(&text).is_ok(), is_valid, "{text:.200}");
            let field = format!("{{\"a\":{text}}}");
            assert_eq!(serde_json::from_str::<Value>(&field).is_ok(), is_valid, "{text:.200}");
        }
    }
}
