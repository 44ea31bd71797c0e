//! The header `Content-Type` of requests.

/// Returns the media type without its parameters. `None` if a parameter `charset` has a value other than UTF-8 (RFC 9110
/// section 8.3.2).
pub(super) fn utf8_media_type(content_type: &str) -> Option<&str> {
    let mut parts = split_outside_quotes(content_type);
    let media_type = parts.next()?.trim();
    let mut charsets = parts.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim())
    });
    charsets.all(is_utf8).then_some(media_type)
}

/// Returns whether a charset is UTF-8. Also accepts `utf8`, which is not the registered name, but common.
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
    use proptest::{
        collection::vec,
        prelude::{Strategy, prop_oneof},
        sample::select,
    };

    use super::*;
    use crate::property::{property, text};

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

    #[test]
    fn only_the_charset_parameters_decide_whether_a_media_type_is_accepted() {
        let utf8 = select(vec!["utf-8", "UTF-8", "utf8", "\"utf-8\"", "\"UTF8\""]);
        let other_charset = select(vec!["latin1", "\"utf-16\"", "", "\"\"", "utf-88"]);
        let quoted = |text: String| format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""));
        let parts = r#"a ; = " \ ;charset=latin1"#;
        // The name of a parameter, its value, and whether a media type with this parameter is accepted.
        let parameter = prop_oneof![
            2 => utf8.prop_map(|charset| ("Charset", charset.to_owned(), true)),
            1 => other_charset.prop_map(|charset| ("charset", charset.to_owned(), false)),
            3 => text(parts, 6).prop_map(move |text| ("title", quoted(text), true)),
        ];
        let separator = select(vec![";", "; ", " ;\t"]);
        property(1, vec((separator, parameter), 0..5), |parameters| {
            let mut content_type = "a/b".to_owned();
            for (separator, (name, value, _)) in &parameters {
                content_type.push_str(&format!("{separator}{name}={value}"));
            }
            let is_utf8 = parameters.iter().all(|(_, (_, _, is_utf8))| *is_utf8);
            assert_eq!(utf8_media_type(&content_type), is_utf8.then_some("a/b"), "{content_type}");
        });
    }

    #[test]
    fn an_accepted_media_type_is_the_beginning_of_the_header() {
        let parts = r#"a/b ; charset = utf-8 " \ ,"#;
        property(1, text(parts, 10), |text| {
            let found = utf8_media_type(&text);
            assert!(found.is_none_or(|media_type| text.trim_start().starts_with(media_type)));
        });
    }
}
