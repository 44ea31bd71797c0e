//! Conditional requests (RFC 9110 section 13): entity tags, and the headers `If-None-Match` and `If-Match`.
//!
//! A response with a [`Tagged`], a [`TaggedVolatile`] or a page has an `ETag`. The middleware answers a read with 304 if the
//! client sends this tag in `If-None-Match`. An operation that takes [`IfMatch`] does not change the resource if the header
//! `If-Match` of the request has neither `*` nor the tag of the resource. All other changes refuse the header
//! ([`RefuseUnsupported`](super::unsupported_headers::RefuseUnsupported)).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use poem::{
    IntoResponse, Request, RequestBody, Response,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    payload::{Json, Payload},
    registry::{MetaHeader, MetaParamIn, MetaResponses, MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};

use super::{
    entity_tags::{EntityTag, EntityTags},
    problem::{ApiError, Result},
};
use crate::{error::Error, security::hash, services::precondition::Precondition};

/// Number of bytes of a digest in an entity tag, before the encoding as Base64.
const DIGEST_BYTES: usize = 16;
/// The suffix of the entity tag of a compressed response. The compressed bytes differ from the uncompressed bytes, so
/// their strong tags must differ too (RFC 9110 section 8.8.3.3).
const GZIP_SUFFIX: &[u8] = b"-gzip";
/// The name that every argument of type [`IfMatch`] must have, so that the API document and the refusal of the header
/// recognize it.
pub(super) const IF_MATCH_ARGUMENT: &str = "if_match";

/// A resource that is sent with its entity tag. The tag is a digest of the JSON, so it changes if and only if the JSON
/// changes.
pub(super) struct Tagged<T>(pub(super) T);

/// Returns the entity tag of a JSON text, without quotes.
pub(super) fn tag_of(json: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&hash(json)[..DIGEST_BYTES])
}

/// Returns a response with a JSON text of type `T` and its tag.
pub(super) fn response<T: ToJSON>(json: String, tag: &str) -> Response {
    let tag = format!("\"{tag}\"");
    Response::builder().content_type(Json::<T>::CONTENT_TYPE).header(header::ETAG, tag).body(json)
}

/// Returns the description of the responses that [`response`] creates, for the API document.
fn meta<T: ToJSON>() -> MetaResponses {
    let mut meta = Json::<T>::meta();
    for response in &mut meta.responses {
        response.headers.push(MetaHeader {
            name: "ETag".into(),
            description: None,
            required: false,
            deprecated: false,
            schema: String::schema_ref(),
        });
    }
    meta
}

impl<T: ToJSON> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let json = self.0.to_json_string();
        let tag = tag_of(&json);
        response::<T>(json, &tag)
    }
}

impl<T: ToJSON> ApiResponse for Tagged<T> {
    fn meta() -> MetaResponses {
        meta::<T>()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A resource with fields whose changes must not make a PATCH fail, such as the number of jobs of a queue.
pub(super) trait Volatile: ToJSON {
    /// The names of these fields.
    const VOLATILE_FIELDS: &'static [&'static str];

    /// Returns the digest of all fields except [`Self::VOLATILE_FIELDS`].
    fn stable_tag(&self) -> String {
        let mut json = self.to_json().unwrap_or_default();
        if let Some(fields) = json.as_object_mut() {
            fields.retain(|name, _| !Self::VOLATILE_FIELDS.contains(&name.as_str()));
        }
        tag_of(&json.to_string())
    }
}

/// Like [`Tagged`], for a resource with volatile fields. The tag is the digest of the stable fields, a dot, and the digest of
/// all fields. [`IfMatch::on_stable`] compares only the first digest, so that a change of a volatile field does not make a
/// PATCH fail.
pub(super) struct TaggedVolatile<T>(pub(super) T);

impl<T: Volatile> IntoResponse for TaggedVolatile<T> {
    fn into_response(self) -> Response {
        let json = self.0.to_json_string();
        let tag = format!("{}.{}", self.0.stable_tag(), tag_of(&json));
        response::<T>(json, &tag)
    }
}

impl<T: Volatile> ApiResponse for TaggedVolatile<T> {
    fn meta() -> MetaResponses {
        meta::<T>()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// Whether the operations that take [`IfMatch`] require the header: the setting `REQUIRE_IF_MATCH`.
#[derive(Clone, Copy)]
pub(super) struct RequireIfMatch(pub(super) bool);

/// The header `If-Match`: the entity tags of the states in which the client allows the change. `None` without the header.
pub(super) struct IfMatch(Option<EntityTags>);

impl IfMatch {
    /// Returns the condition that the entity tag of a row is in the header. Reads of the resource return the row as
    /// [`Tagged<O>`](Tagged). Without the header or with `*`, every row meets the condition.
    pub(super) fn on<O: From<R> + ToJSON, R: Clone>(&self) -> Precondition<'_, R> {
        match &self.0 {
            None => Precondition::none(),
            Some(tags) => Precondition::new(move |row: &R| {
                let tag = tag_of(&O::from(row.clone()).to_json_string());
                tags.any(|known| !known.is_weak && without_gzip(&known.opaque) == tag.as_bytes())
            }),
        }
    }

    /// Like [`Self::on`], for a resource whose reads return the row as [`TaggedVolatile<O>`](TaggedVolatile).
    pub(super) fn on_stable<O: From<R> + Volatile, R: Clone>(&self) -> Precondition<'_, R> {
        match &self.0 {
            None => Precondition::none(),
            Some(tags) => Precondition::new(move |row: &R| {
                let tag = O::from(row.clone()).stable_tag();
                tags.any(|known| !known.is_weak && stable_part(&known.opaque) == tag.as_bytes())
            }),
        }
    }
}

/// Returns a tag without the suffix of compressed responses.
fn without_gzip(opaque: &[u8]) -> &[u8] {
    opaque.strip_suffix(GZIP_SUFFIX).unwrap_or(opaque)
}

/// Returns the first part of the tag of a [`TaggedVolatile`].
fn stable_part(opaque: &[u8]) -> &[u8] {
    opaque.split(|octet| *octet == b'.').next().unwrap_or(opaque)
}

impl<'a> ApiExtractor<'a> for IfMatch {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = String;
    type ParamRawType = String;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(String::schema_ref())
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<String>,
    ) -> poem::Result<Self> {
        let tags = read_tags(request.headers(), header::IF_MATCH)?;
        let is_required = request.data::<RequireIfMatch>().is_some_and(|required| required.0);
        match tags {
            None if is_required => Err(ApiError::PreconditionRequired.into()),
            tags => Ok(Self(tags)),
        }
    }
}

fn read_tags(headers: &HeaderMap, name: HeaderName) -> Result<Option<EntityTags>> {
    if !headers.contains_key(&name) {
        return Ok(None);
    }
    let header = if name == header::IF_MATCH { "If-Match" } else { "If-None-Match" };
    let tags = EntityTags::parse(headers.get_all(name).into_iter().map(HeaderValue::as_bytes));
    Ok(Some(tags.ok_or(ApiError::MalformedTags(header))?))
}

/// Converts a response with status 200 to 304 if its entity tag is in `If-None-Match` (RFC 9110 section 15.4.5). A 304 has
/// neither the body nor the headers that describe the body. It keeps all other headers, because a client updates its stored
/// headers with them. Call this function only for GET and HEAD.
///
/// # Errors
/// [`ApiError::MalformedTags`]; [`Error::PreconditionFailed`] if the request has `If-Match` with neither `*` nor the tag.
pub(super) fn evaluate(request: &HeaderMap, mut response: Response) -> Result<Response> {
    if response.status() != StatusCode::OK {
        return Ok(response);
    }
    let Some(own) = response.headers().get(header::ETAG).cloned() else { return Ok(response) };
    let own = own.as_bytes().strip_prefix(b"W/").unwrap_or(own.as_bytes());
    let own = own.strip_prefix(b"\"").and_then(|own| own.strip_suffix(b"\"")).unwrap_or(own);
    // `If-Match` is evaluated before `If-None-Match` (RFC 9110 section 13.2.2).
    let required = read_tags(request, header::IF_MATCH)?;
    let is_required = |known: &EntityTag| !known.is_weak && without_gzip(&known.opaque) == without_gzip(own);
    if required.is_some_and(|tags| !tags.any(is_required)) {
        return Err(Error::PreconditionFailed.into());
    }
    let Some(tags) = read_tags(request, header::IF_NONE_MATCH)? else { return Ok(response) };
    if tags.any(|known| known.opaque == own) {
        response.set_status(StatusCode::NOT_MODIFIED);
        drop(response.take_body());
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LENGTH] {
            response.headers_mut().remove(name);
        }
    }
    Ok(response)
}

/// Adds [`GZIP_SUFFIX`] to the entity tag of a compressed response.
pub(super) fn mark_compressed(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(header::ETAG) else { return };
    let Some(open) = tag.as_bytes().strip_suffix(b"\"") else { return };
    if let Ok(tag) = HeaderValue::from_bytes(&[open, GZIP_SUFFIX, b"\""].concat()) {
        headers.insert(header::ETAG, tag);
    }
}
