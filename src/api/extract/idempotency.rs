//! The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).

use std::borrow::Cow;

use futures_util::FutureExt;
use poem::{
    IntoResponse, Request, RequestBody, Response,
    http::{HeaderMap, HeaderName},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef},
};
use serde_json::Value;

use super::body_bytes::peek;
use crate::{
    api::{
        header_fields::single,
        problem::{ApiError, Result},
    },
    error::{self, Error, FieldError, Loc},
    security::hash_parts,
    services::idempotency::{Answer, Once, RequestKey},
};

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The `format` of the parameter's schema. `api/docs` and `api/unsupported_headers.rs` recognize the parameter by this
/// format, because the argument of the operation may have any name.
pub const IDEMPOTENCY_KEY_FORMAT: &str = "idempotency-key";
/// Maximum length of a key. The header value may be longer, because the quotes and the escaping backslashes do not count.
const MAX_KEY_CHARS: usize = 255;
/// Regular expression of the header values that [`parse`] accepts.
const PATTERN: &str = r#"^("([!#-\[\]-~]|\\["\\]){1,255}"|[!#-~][!-~]{0,254})$"#;

/// The idempotency key of a request, if the client has sent one.
///
/// An operation with this argument supports the header: it makes its change with [`IdempotencyKey::once`]. All other
/// operations with POST and PATCH refuse the header, see `api/unsupported_headers.rs`.
pub struct IdempotencyKey(Option<RequestKey>);

/// The id of the operation. `api/unsupported_headers.rs` attaches the id to a request with the header, if the operation takes
/// an [`IdempotencyKey`].
#[derive(Clone, Copy)]
pub struct OperationId(pub &'static str);

impl IdempotencyKey {
    /// Returns the [`Once`] that makes the change of the request. `respond` creates the response from the result of the
    /// change.
    pub fn once<'a, T, R: IntoResponse>(
        &'a self,
        respond: impl Fn(&T) -> R + Send + Sync + 'a,
    ) -> Once<'a, T> {
        Once::new(self.0.as_ref(), move |done: &T| answer(respond(done).into_response()))
    }
}

impl<'a> ApiExtractor<'a> for IdempotencyKey {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(MetaSchema {
            format: Some(IDEMPOTENCY_KEY_FORMAT),
            pattern: Some(PATTERN.into()),
            example: Some("\"01a203c5-1357-763a-a32d-0c63a944ff19\"".into()),
            ..MetaSchema::new("string")
        })))
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(read(request, body).await?))
    }
}

async fn read(request: &Request, body: &mut RequestBody) -> Result<Option<RequestKey>> {
    let Some(key) = find(request.headers())? else { return Ok(None) };
    let operation = request.data::<OperationId>();
    let OperationId(operation) =
        *operation.ok_or_else(|| Error::internal("the id of the operation is unknown"))?;
    let fingerprint = peek(request, body, |bytes| fingerprint(request, bytes)).await?;
    Ok(Some(RequestKey { operation, key, fingerprint }))
}

/// Returns the key of a request. `None` if the request has no header `Idempotency-Key`.
fn find(headers: &HeaderMap) -> Result<Option<String>> {
    if !headers.contains_key(IDEMPOTENCY_KEY) {
        return Ok(None);
    }
    let key = single(headers, IDEMPOTENCY_KEY).and_then(parse);
    key.map(Some).ok_or_else(|| {
        let loc = vec![Loc::key("header"), Loc::key("Idempotency-Key")];
        let msg = format!(
            "Send one key of 1 to {MAX_KEY_CHARS} visible ASCII characters, such as a UUID in quotes"
        );
        ApiError::InvalidFields(vec![FieldError { loc, msg, kind: "value_error" }])
    })
}

/// Parses the value of the header: a quoted string (RFC 9651 section 3.3.3). Also accepts a key without quotes, which many
/// clients send. Both forms yield the same key. `None` if the value is invalid.
fn parse(text: &str) -> Option<String> {
    let key = match text.strip_prefix('"') {
        Some(rest) => unescape(rest.strip_suffix('"')?)?,
        None => text.to_owned(),
    };
    let is_valid = (1..=MAX_KEY_CHARS).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    is_valid.then_some(key)
}

fn unescape(text: &str) -> Option<String> {
    let (mut key, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => return None,
            '\\' => key.push(chars.next().filter(|c| ['"', '\\'].contains(c))?),
            c => key.push(c),
        }
    }
    Some(key)
}

/// Returns the SHA-256 hash of the method, path, query and body. The hash depends neither on the order of different query
/// parameters nor on the order of fields and the insignificant whitespace in JSON.
fn fingerprint(request: &Request, body: &[u8]) -> Vec<u8> {
    let uri = request.uri();
    let mut query: Vec<_> = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
    // The sort is stable, so repeated parameters keep their order. Their order matters, because the server uses the first.
    query.sort_by(|(one, _), (other, _)| one.cmp(other));
    let body = canonical(body);
    let mut parts = vec![request.method().as_str().as_bytes(), uri.path().as_bytes()];
    for (name, value) in &query {
        parts.extend([name.as_bytes(), value.as_bytes()]);
    }
    parts.push(&body);
    hash_parts(&parts)
}

/// Returns JSON without insignificant whitespace and with sorted fields. Returns any other body unchanged.
fn canonical(body: &[u8]) -> Cow<'_, [u8]> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => value.to_string().into_bytes().into(),
        Err(_) => body.into(),
    }
}

/// Converts a response to the form in which it is stored.
fn answer(response: Response) -> error::Result<Answer> {
    let (parts, body) = response.into_parts();
    let body = body.into_bytes().now_or_never();
    let body = body.ok_or_else(|| Error::internal("a stream cannot be stored as an answer"))?;
    let body = String::from_utf8(body.map_err(Error::internal)?.to_vec()).map_err(Error::internal)?;
    let mut headers = Vec::new();
    for (name, value) in &parts.headers {
        headers.push((name.as_str().to_owned(), value.to_str().map_err(Error::internal)?.to_owned()));
    }
    Ok(Answer { status: parts.status.as_u16(), headers, body })
}

#[cfg(test)]
mod tests {
    use poem::http::Uri;
    use proptest::{
        collection::{btree_map, vec},
        prelude::any,
    };

    use super::*;
    use crate::property::{property, text};

    /// Returns a key as a quoted string (RFC 9651 section 3.3.3).
    fn quoted(key: &str) -> String {
        format!("\"{}\"", key.replace('\\', r"\\").replace('"', r#"\""#))
    }

    #[test]
    fn a_quoted_key_parses_to_the_same_key() {
        property(1, vec(0x21..=0x7e_u8, 1..MAX_KEY_CHARS), |octets| {
            let key = String::from_utf8(octets).unwrap();
            assert_eq!(parse(&quoted(&key)).as_ref(), Some(&key));
            assert!(key.starts_with('"') || parse(&key).as_ref() == Some(&key), "{key}");
        });
        property(1, text(r#"" \ \" \\ a k1 ;"#, 8), |text| {
            if let Some(key) = parse(&text) {
                assert_eq!(parse(&quoted(&key)), Some(key));
            }
        });
    }

    #[test]
    fn the_fingerprint_depends_on_the_json_value_and_not_on_its_text() {
        let hash = |body: &str| fingerprint(&Request::builder().finish(), body.as_bytes());
        let fields = btree_map(any::<String>(), any::<i32>(), 1..5);
        property(1, fields, |fields| {
            let first = hash(&serde_json::to_string(&fields).unwrap());
            assert_eq!(hash(&serde_json::to_string_pretty(&fields).unwrap()), first);
            let pair = |(name, value): (&String, &i32)| format!("{}:{value}", Value::from(name.as_str()));
            let reversed: Vec<_> = fields.iter().rev().map(pair).collect();
            assert_eq!(hash(&format!("{{{}}}", reversed.join(" , "))), first);
            for name in fields.keys() {
                let mut other = fields.clone();
                other.entry(name.clone()).and_modify(|value| *value ^= 1);
                assert_ne!(hash(&serde_json::to_string(&other).unwrap()), first, "{name}");
            }
        });
    }

    #[test]
    fn a_key_may_be_quoted_or_not() {
        let long = "k".repeat(MAX_KEY_CHARS);
        let (quoted, slashes) = (format!("\"{long}\""), "\\".repeat(MAX_KEY_CHARS));
        let escaped = format!("\"{}\"", slashes.replace('\\', r"\\"));
        for (text, key) in [
            ("\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#"a"b\c"#, r#"a"b\c"#),
            ("\"!#$,;=[]~\"", "!#$,;=[]~"),
            ("x", "x"),
            (long.as_str(), long.as_str()),
            (quoted.as_str(), long.as_str()),
            (escaped.as_str(), slashes.as_str()),
        ] {
            assert_eq!(parse(text).as_deref(), Some(key), "{text}");
        }
        for text in [
            "",
            "\"",
            "\"\"",
            "\"a",
            "\"a\"b\"",
            "\"a\" ",
            "\"a\";b=1",
            "a b",
            "\"a b\"",
            "a\tb",
            "é",
            "\"é\"",
            r#""a\""#,
            r#""a\b""#,
            "\u{7f}",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&format!("{long}k")), None);
        assert_eq!(parse(&format!("\"{long}k\"")), None);
    }

    #[test]
    fn requests_that_the_server_does_not_tell_apart_have_one_fingerprint() {
        let hash = |uri: &str, body: &str| {
            let request = Request::builder().uri(uri.parse::<Uri>().unwrap()).finish();
            fingerprint(&request, body.as_bytes())
        };
        let first = hash("/a?x=1&y=%41", r#"{"a": 1, "b": [2, "c"]}"#);
        for (uri, body) in [
            ("/a?y=A&x=%31", r#"{"b":[2,"c"],"a":1}"#),
            ("/a?x=1&y=A", " {\"b\" : [2,\"\\u0063\"],\n\"a\":1}"),
        ] {
            assert_eq!(hash(uri, body), first, "{uri} {body}");
        }
        for (uri, body) in [
            ("/b?x=1&y=A", r#"{"a":1,"b":[2,"c"]}"#),
            ("/a?x=1", r#"{"a":1,"b":[2,"c"]}"#),
            ("/a?x=1&y=A&y=A", r#"{"a":1,"b":[2,"c"]}"#),
            ("/a?x=1&y=A", r#"{"a":1,"b":["c",2]}"#),
            ("/a?x=1&y=A", r#"{"a":1}"#),
            ("/a?x=1&y=A", "{"),
            ("/a?x=1&y=A", ""),
        ] {
            assert_ne!(hash(uri, body), first, "{uri} {body}");
        }
        assert_ne!(
            hash("/a?x=1&x=2", ""),
            hash("/a?x=2&x=1", ""),
            "the server uses the first of repeated parameters"
        );
    }
}
