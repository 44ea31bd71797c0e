//! The query parameter `cursor` of a list.
//!
//! A cursor contains the position after which a page begins, a digest of the list (its path, its filters and its order), and a
//! checksum, by which a damaged cursor is recognized. It is opaque to clients, but neither secret nor signed. A forged cursor
//! only changes where the page begins. It does not change which items the caller may see.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use poem::{PathPattern, Request, RequestBody, http::Uri};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::problem::{ApiError, FailedRequest, Result, RouteCatalog},
    error::Error,
    security::{hash, hash_parts},
};

/// The name of the query parameter.
const NAME: &str = "cursor";
/// The parameters that select a page of a list. All other parameters select the list.
const PAGE_PARAMS: [&str; 3] = [NAME, "limit", "offset"];
/// Maximum length of a cursor. The longest cursors contain a name of 255 characters, and stay below this limit.
const MAX_CURSOR_CHARS: usize = 4_096;
/// Length in bytes of the digest of the list at the beginning of a cursor.
const DIGEST_BYTES: usize = 8;
/// Length in bytes of the checksum at the end of a cursor.
const CHECKSUM_BYTES: usize = 4;
/// The error message for a cursor that is malformed, belongs to another list or has an invalid position.
const INVALID_CURSOR: &str =
    "This cursor is damaged, or belongs to another list, filter or order; begin with the first page";

/// Where a page of a list begins.
///
/// An operation with this argument refuses query parameters that are not documented: a misspelled filter would be ignored,
/// and the list would have too many items. It also refuses repeated parameters: all but the first would be ignored.
pub struct Cursor {
    /// The position as JSON, if the request has a cursor.
    position: Option<Vec<u8>>,
    digest: [u8; DIGEST_BYTES],
    /// The path of the request, and its query without the parameters of the page.
    path: String,
    query: Vec<(String, String)>,
}

impl Cursor {
    /// Returns the position after which the page begins; `None` for the first page.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the field `cursor` if the position in the cursor is not a `P`.
    pub fn after<P: DeserializeOwned>(&self) -> Result<Option<P>> {
        self.after_valid(|_| true)
    }

    /// Like [`Self::after`], but also refuses a cursor whose position is not valid according to `is_valid`.
    ///
    /// # Errors
    /// As [`Self::after`]; also if `is_valid` returns false.
    pub fn after_valid<P: DeserializeOwned>(&self, is_valid: impl Fn(&P) -> bool) -> Result<Option<P>> {
        let Some(json) = &self.position else { return Ok(None) };
        let position = serde_json::from_slice(json).ok().filter(is_valid);
        Ok(Some(position.ok_or_else(|| Error::invalid(NAME, INVALID_CURSOR))?))
    }

    /// Refuses the parameter `name` in a request with a cursor. Call it only if the request has this parameter.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the field `name` if the request has a cursor.
    pub fn excludes(&self, name: &str) -> Result<()> {
        match self.position {
            None => Ok(()),
            Some(_) => Err(Error::invalid(name, "A request with a cursor cannot have this parameter").into()),
        }
    }

    /// Returns the cursor of the page that begins after `position`, and the path and query of a request for that page.
    pub(in crate::api) fn next(&self, position: &impl Serialize, limit: u32) -> (String, String) {
        let json = serde_json::to_vec(position).unwrap_or_default();
        let mut bytes = [&self.digest[..], &json].concat();
        bytes.extend(checksum(&bytes));
        let text = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.query).append_pair("limit", &limit.to_string()).append_pair(NAME, &text);
        let target = format!("{}?{}", self.path, query.finish());
        (text, target)
    }

    /// Creates a cursor for the first page of a list. For examples in the API document.
    pub(in crate::api) fn first_page() -> Self {
        Self { position: None, digest: [0; DIGEST_BYTES], path: String::new(), query: Vec::new() }
    }

    fn read(uri: &Uri) -> Result<Self> {
        let all = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned();
        let (page, mut query): (Vec<_>, Vec<_>) =
            all.partition(|(name, _)| PAGE_PARAMS.contains(&name.as_str()));
        query.sort();
        let path = uri.path().trim_end_matches('/').to_owned();
        let list = form_urlencoded::Serializer::new(String::new()).extend_pairs(&query).finish();
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&hash(&format!("{path}?{list}"))[..DIGEST_BYTES]);
        let mut cursors = page.into_iter().filter(|(name, _)| name == NAME).map(|(_, text)| text);
        let position = match (cursors.next(), cursors.next()) {
            (None, _) => None,
            (Some(text), None) => {
                Some(position(&text, &digest).ok_or_else(|| Error::invalid(NAME, INVALID_CURSOR))?)
            }
            (Some(_), Some(_)) => return Err(Error::invalid(NAME, "Send one cursor only").into()),
        };
        Ok(Self { position, digest, path, query })
    }
}

/// Returns the checksum of the other bytes of a cursor.
fn checksum(bytes: &[u8]) -> Vec<u8> {
    hash_parts(&[bytes])[..CHECKSUM_BYTES].to_vec()
}

/// Returns the position in a cursor. `None` if the cursor is damaged or has another digest.
fn position(text: &str, digest: &[u8; DIGEST_BYTES]) -> Option<Vec<u8>> {
    let bytes =
        BASE64_URL_SAFE_NO_PAD.decode(Some(text).filter(|text| text.len() <= MAX_CURSOR_CHARS)?).ok()?;
    let (bytes, found) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    (found == checksum(bytes)).then(|| bytes.strip_prefix(digest).map(<[u8]>::to_vec))?
}

/// Refuses a request with query parameters that the operation does not document, or with repeated query parameters. The error
/// reports these and the other invalid query and path parameters of the request.
fn refuse_ignored_params(request: &Request) -> Result<()> {
    let catalog = request.data::<Arc<RouteCatalog>>().zip(request.data::<PathPattern>());
    let (catalog, pattern) = catalog.ok_or_else(|| Error::internal("the route has no catalog"))?;
    let (method, uri) = (request.method(), request.original_uri());
    let errors = catalog.ignored_param_errors(&pattern.0, &FailedRequest { id: "", method, uri });
    if errors.is_empty() { Ok(()) } else { Err(ApiError::InvalidFields(errors)) }
}

impl<'a> ApiExtractor<'a> for Cursor {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = String;
    type ParamRawType = String;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(MetaSchema {
            max_length: Some(MAX_CURSOR_CHARS),
            ..MetaSchema::new("string")
        })))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<String>,
    ) -> poem::Result<Self> {
        refuse_ignored_params(request)?;
        Ok(Self::read(request.original_uri())?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any};

    use super::*;
    use crate::property::{property, text};

    fn read(target: &str) -> Result<Cursor> {
        Cursor::read(&target.parse().unwrap())
    }

    /// Returns the path and query of the page after `position`.
    fn target_after(target: &str, position: &impl Serialize) -> String {
        read(target).unwrap().next(position, 50).1
    }

    #[test]
    fn a_cursor_has_the_position_and_keeps_the_other_parameters() {
        for position in [0, -7, i64::MAX] {
            let next = target_after("/things/?role=a%26b&limit=3&offset=9&x=%C3%A9", &position);
            assert!(next.starts_with("/things?role=a%26b&x=%C3%A9&limit=50&cursor="), "{next}");
            assert_eq!(read(&next).unwrap().after::<i64>().unwrap(), Some(position));
            // A cursor is valid with another order of parameters, another page size, or a slash at the end of the path.
            let (_, cursor) = next.rsplit_once("cursor=").unwrap();
            let other = format!("/things/?cursor={cursor}&x=%C3%A9&limit=7&role=a%26b");
            assert_eq!(read(&other).unwrap().after::<i64>().unwrap(), Some(position));
        }
        assert_eq!(read("/things").unwrap().after::<i64>().unwrap(), None);
    }

    #[test]
    fn a_link_leads_to_the_position_in_the_same_list_only() {
        let inputs = (vec(any::<(String, String)>(), 0..4), any::<(String, i64)>(), 1..=200_u32);
        property(1, inputs, |(params, position, limit)| {
            let mut params: Vec<_> =
                params.into_iter().map(|(name, value)| (format!("p{name}"), value)).collect();
            let query = |params: &[(String, String)]| {
                form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish()
            };
            let list = read(&format!("/things?limit=7&{}&offset=9", query(&params))).unwrap();
            let (cursor, next) = list.next(&position, limit);
            let page = read(&next).unwrap();
            assert_eq!(page.after::<(String, i64)>().unwrap(), Some(position));
            assert!(page.after::<bool>().is_err());
            let uri: Uri = next.parse().unwrap();
            let mut sent: Vec<_> =
                form_urlencoded::parse(uri.query().unwrap().as_bytes()).into_owned().collect();
            let page_params = [("limit".to_owned(), limit.to_string()), (NAME.to_owned(), cursor.clone())];
            assert_eq!(sent.split_off(params.len()), page_params);
            params.sort();
            assert_eq!(sent, params);
            params.push(("p".into(), "another filter".into()));
            assert!(read(&format!("/things?{}&cursor={cursor}", query(&params))).is_err());
            assert!(read(&next.replacen("things", "others", 1)).is_err());
        });
    }

    #[test]
    fn any_text_is_a_cursor_of_the_list_or_refused() {
        let digest = read("/things").unwrap().digest;
        let inputs = (any::<bool>(), text("A eyJ WzUs XQ - _ = + / %", 8));
        property(1, inputs, |(has_digest, text)| {
            let cursor = if has_digest {
                let mut bytes = [&digest[..], b"[", text.as_bytes()].concat();
                bytes.extend(checksum(&bytes));
                BASE64_URL_SAFE_NO_PAD.encode(bytes)
            } else {
                text
            };
            let query = form_urlencoded::Serializer::new(String::new()).append_pair(NAME, &cursor).finish();
            let page = read(&format!("/things?{query}"));
            assert_eq!(page.is_ok(), has_digest, "{cursor}");
            assert!(
                page.is_err() || page.is_ok_and(|page| page.after::<i64>().is_err()),
                "a position that begins with a bracket is not an integer"
            );
        });
    }

    #[test]
    fn the_cursor_of_another_list_is_refused() {
        let next = target_after("/things?role=a", &5);
        let (_, cursor) = next.rsplit_once("cursor=").unwrap();
        for target in
            ["/things?role=a", "/things?role=b", "/things", "/others?role=a", "/things?role=a&role=a"]
        {
            let separator = if target.contains('?') { '&' } else { '?' };
            let is_accepted = read(&format!("{target}{separator}cursor={cursor}")).is_ok();
            assert_eq!(is_accepted, target == "/things?role=a", "{target}");
        }
    }

    #[test]
    fn a_damaged_cursor_is_refused() {
        let next = target_after("/things", &5);
        let (_, cursor) = next.rsplit_once("cursor=").unwrap();
        for damaged in [
            String::new(),
            "!".into(),
            cursor[1..].into(),
            cursor[..cursor.len() - 1].into(),
            format!("{cursor}="),
            format!("{cursor}&cursor={cursor}"),
            "A".repeat(MAX_CURSOR_CHARS + 4),
        ] {
            assert!(read(&format!("/things?cursor={damaged}")).is_err(), "{damaged}");
        }
        // A valid checksum, but the position is not an `i64`.
        let digest = &BASE64_URL_SAFE_NO_PAD.decode(cursor).unwrap()[..DIGEST_BYTES];
        for json in ["", "x", "null", "\"5\"", "5.5", "9223372036854775808", "[5]", "5 5"] {
            let mut bytes = [digest, json.as_bytes()].concat();
            bytes.extend(checksum(&bytes));
            let cursor = BASE64_URL_SAFE_NO_PAD.encode(bytes);
            let read = read(&format!("/things?cursor={cursor}")).unwrap();
            assert!(read.after::<i64>().is_err(), "{json}");
        }
    }
}
