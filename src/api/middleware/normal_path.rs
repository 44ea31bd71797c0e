//! Normalization of paths, so that equivalent spellings of a path lead to the same operation.

use std::borrow::Cow;

use poem::{
    Request,
    error::NotFoundError,
    http::uri::{PathAndQuery, Uri},
};

/// Replaces the path of a request with its normal form, for the router (RFC 3986 section 6.2.2.2). Decodes
/// percent-encoded characters that need no encoding, and removes a final slash.
///
/// # Errors
/// For a path with an empty segment (`//`). If the router treated `//` as `/`, a client could bypass the path rules of
/// a proxy.
pub(super) fn normalize(req: &mut Request) -> Result<(), NotFoundError> {
    let path = req.uri().path();
    if path.contains("//") {
        return Err(NotFoundError);
    }
    let normal = normal_form(path);
    // If the path changes, the normal form is shorter.
    if normal.len() < path.len() {
        let target = match req.uri().query() {
            Some(query) => format!("{normal}?{query}"),
            None => normal.into_owned(),
        };
        let mut parts = req.uri().clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| NotFoundError)?);
        *req.uri_mut() = Uri::from_parts(parts).map_err(|_| NotFoundError)?;
    }
    Ok(())
}

fn normal_form(path: &str) -> Cow<'_, str> {
    let path = path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(path);
    match path.contains('%') {
        true => decode_unreserved(path).map_or(Cow::Borrowed(path), Cow::Owned),
        false => Cow::Borrowed(path),
    }
}

/// Decodes the unreserved characters (RFC 3986 section 2.3). All other characters stay encoded: `%2F` is part of a
/// segment, not a separator. `None` if an encoding is invalid, because decoding could turn it into a valid encoding.
fn decode_unreserved(path: &str) -> Option<String> {
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, encoded)) = rest.split_once('%') {
        let (digits, after) = encoded.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let octet = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
        text.push_str(before);
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            text.push(octet.into());
        } else {
            text.push('%');
            text.push_str(digits);
        }
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;

    use super::*;
    use crate::property::{property, text};

    #[test]
    fn equal_paths_have_one_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("/%61%2D%2e%5F%7e%39/", "/a-._~9"),
            ("/a%2Fb%2f", "/a%2Fb%2f"),
            ("/%20%25%3A%C3%BC", "/%20%25%3A%C3%BC"),
            ("/%2561", "/%2561"),
            ("/%61%2%35", "/%61%2%35"),
            ("/%61%+1", "/%61%+1"),
            ("/%61%2", "/%61%2"),
            ("/%61%\u{fc}", "/%61%\u{fc}"),
        ] {
            assert_eq!(normal_form(path), normal, "{path}");
        }
    }

    #[test]
    fn normalization_keeps_the_decoded_path_and_is_idempotent() {
        let parts = "/ % 61 %61 %2F %2f %7e %25 %c3 a ~ 2";
        property(1, text(parts, 8), |text| {
            let path = format!("/{text}");
            let normal = normal_form(&path).into_owned();
            let same = path.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(&path);
            assert!(percent_decode_str(&normal).eq(percent_decode_str(same)), "{path} and {normal}");
            assert!(normal.len() <= path.len() && normal.starts_with('/'));
            // `normalize` refuses a path with an empty segment.
            if !path.contains("//") {
                assert_eq!(normal_form(&normal), normal);
            }
        });
    }
}
