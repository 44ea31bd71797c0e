//! The header `Content-Type` of requests.

/// Returns the media type of a text in UTF-8, without parameters. `None` if the parameter `charset` names another encoding
/// (RFC 9110 section 8.3.2).
pub(super) fn utf8_media_type(content_type: &str) -> Option<&str> {
    let mut parts = split_outside_quotes(content_type);
    let media_type = parts.next()?.trim();
    let mut charsets = parts.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim())
    });
    charsets.all(is_utf8).then_some(media_type)
}

/// Returns whether a charset is UTF-8. `utf8` is not its registered name, but common.
fn is_utf8(charset: &str) -> bool {
    let quoted = charset.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let name = quoted.unwrap_or(charset);
    name.eq_ignore_ascii_case("utf-8") || name.eq_ignore_ascii_case("utf8")
}

/// Splits a text at its semicolons, except those in quoted strings (RFC 9110 section 5.6.4).
fn split_outside_quotes(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c: char| {
        let separates = c == ';' && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        separates
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charset_is_absent_or_utf8() {
        for text in [
            "a/b",
            " a/b ; x=y",
            "a/b;charset=utf-8",
            "a/b; Charset=\"UTF-8\"; x",
            "a/b;charset=utf8;charset=UTF-8",
            r#"a/b; title="x; charset=latin1""#,
            r#"a/b; title="\"; charset=latin1""#,
            "a/b; xcharset=latin1; charset",
        ] {
            assert_eq!(utf8_media_type(text), Some("a/b"), "{text}");
        }
        for text in [
            "a/b;charset=latin1",
            "a/b; charset=\"utf-16\"",
            "a/b; charset = us-ascii",
            "a/b; charset=utf-8; charset=latin1",
            "a/b; charset=",
            "a/b; charset=?",
            r#"a/b; title="x"; charset=latin1"#,
            r#"a/b; title="\\"; charset=latin1"#,
        ] {
            assert_eq!(utf8_media_type(text), None, "{text}");
        }
    }
}
