//! Extractors of request bodies: JSON and forms. A [`Checker`] checks the whole body before it is converted to its Rust type.
//! So the response reports all invalid fields that the check finds, up to [`MAX_FIELD_ERRORS`].

use std::{
    any::{Any, TypeId},
    collections::{BTreeSet, HashMap},
    sync::{LazyLock, RwLock},
};

use poem::{Request, RequestBody, Result as PoemResult};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions, impl_apirequest_for_payload,
    payload::{Json, ParsePayload, Payload},
    registry::{MetaRequest, MetaSchemaRef, Registry},
    types::{ParseFromJSON, Type},
};
use serde_json::{Map, Value};

use super::{
    body_bytes::{BodyBytes, MAX_DECLARED_BYTES},
    media_type::utf8_media_type,
};
use crate::{
    api::{
        problem::{ApiError, Result},
        validation::{Checker, MAX_FIELD_ERRORS},
    },
    error::{FieldError, Loc},
};

/// Maximum size of a body in bytes, unless the operation declares another limit.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// The byte order mark (U+FEFF) in UTF-8, which some programs write at the beginning of a text. A parser of JSON may ignore
/// it (RFC 8259 section 8.1).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A JSON body of at most `MAX_BYTES`. Unknown fields are refused.
pub struct Body<T, const MAX_BYTES: usize = MAX_BODY_BYTES>(pub T);

/// A form (`application/x-www-form-urlencoded`) of at most `MAX_BYTES`. Repeated fields are refused (RFC 6749 section
/// 3.2).
pub struct Form<T, const MAX_BYTES: usize = MAX_BODY_BYTES>(pub T);

/// The fields of a form. All values are text.
pub type FormFields = Map<String, Value>;

/// The content of a [`Form`].
pub trait FormContent: Send + Sized {
    /// The type whose schema the OpenAPI document contains.
    type Schema: Type;

    /// Parses the fields, usually with [`parse_form`].
    ///
    /// # Errors
    /// If a field is invalid, or has a value that the operation does not support.
    fn parse(fields: FormFields) -> Result<Self>;
}

/// The fields of `T` as query parameters, if the query contains at least one of them or the request has no `Content-Type`.
/// Otherwise, a body like [`Body`].
///
/// The OpenAPI document describes only the body, for two reasons: a long query does not fit into the head of a request, and
/// generated clients cannot have a parameter and a body field of the same name.
pub struct BodyOrQuery<T, const MAX_BYTES: usize = MAX_BODY_BYTES>(pub T);

impl<T: Type, const MAX_BYTES: usize> Payload for Body<T, MAX_BYTES> {
    const CONTENT_TYPE: &'static str = "application/json";
    fn check_content_type(content_type: &str) -> bool {
        utf8_media_type(content_type).is_some_and(<Json<T> as Payload>::check_content_type)
    }
    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }
    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ParseFromJSON + Any, const MAX_BYTES: usize> ParsePayload for Body<T, MAX_BYTES> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> PoemResult<Self> {
        const { assert!(MAX_BYTES <= MAX_DECLARED_BYTES) };
        let bytes = BodyBytes::read(request, body, MAX_BYTES).await?;
        let json = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
        if json.is_empty() {
            return Err(missing_body().into());
        }
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| ApiError::MalformedBody(format!("The body is not valid JSON: {error}")))?;
        Ok(Self(parse("body", value, false)?))
    }
}

impl_apirequest_for_payload!(Body<T, MAX_BYTES>, T: ParseFromJSON + Any, const MAX_BYTES: usize);

impl<T: FormContent, const MAX_BYTES: usize> Payload for Form<T, MAX_BYTES> {
    const CONTENT_TYPE: &'static str = "application/x-www-form-urlencoded";
    fn check_content_type(content_type: &str) -> bool {
        utf8_media_type(content_type).is_some_and(|kind| kind.eq_ignore_ascii_case(Self::CONTENT_TYPE))
    }
    fn schema_ref() -> MetaSchemaRef {
        T::Schema::schema_ref()
    }
    fn register(registry: &mut Registry) {
        T::Schema::register(registry);
    }
}

impl<T: FormContent, const MAX_BYTES: usize> ParsePayload for Form<T, MAX_BYTES> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> PoemResult<Self> {
        const { assert!(MAX_BYTES <= MAX_DECLARED_BYTES) };
        let bytes = BodyBytes::read(request, body, MAX_BYTES).await?;
        Ok(Self(T::parse(form_fields(&bytes)?)?))
    }
}

impl_apirequest_for_payload!(Form<T, MAX_BYTES>, T: FormContent, const MAX_BYTES: usize);

fn form_fields(bytes: &[u8]) -> Result<FormFields> {
    let (mut fields, mut repeated) = (FormFields::new(), BTreeSet::new());
    for (name, value) in form_urlencoded::parse(bytes) {
        let name = name.into_owned();
        if fields.contains_key(&name) {
            repeated.insert(name);
        } else {
            fields.insert(name, value.into());
        }
    }
    if repeated.is_empty() {
        return Ok(fields);
    }
    let error = |name: &String| FieldError {
        loc: vec![Loc::key("body"), Loc::key(name)],
        msg: "This field is repeated; send it once".into(),
        kind: "repeated",
    };
    Err(ApiError::InvalidFields(repeated.iter().take(MAX_FIELD_ERRORS + 1).map(error).collect()))
}

/// Parses the fields of a form. Ignores unknown fields, because OAuth2 clients send additional fields (RFC 6749 section
/// 3.2).
///
/// # Errors
/// [`ApiError::InvalidFields`] with the invalid fields, up to `MAX_FIELD_ERRORS`.
pub fn parse_form<T: ParseFromJSON + Any>(fields: FormFields) -> Result<T> {
    parse("body", Value::Object(fields), true)
}

impl<'a, T: ParseFromJSON + Any, const MAX_BYTES: usize> ApiExtractor<'a> for BodyOrQuery<T, MAX_BYTES> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        <Body<T, MAX_BYTES> as ApiExtractor<'a>>::request_meta()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> PoemResult<Self> {
        let fields = fields_in_query::<T>(request);
        // A request without `Content-Type` is treated as a request without a body: the response reports the missing
        // parameters.
        if !fields.is_empty() || request.content_type().is_none() {
            return Ok(Self(parse("query", Value::Object(fields), false)?));
        }
        let Body(value) =
            <Body<T, MAX_BYTES> as ApiExtractor<'a>>::from_request(request, body, options).await?;
        Ok(Self(value))
    }
}

/// Returns the query parameters that are fields of `T`. If a parameter is repeated, its first value is used.
fn fields_in_query<T: ParseFromJSON + Any>(request: &Request) -> Map<String, Value> {
    let schema = match T::schema_ref() {
        MetaSchemaRef::Reference(name) => registry_of::<T>().schemas.get(&name),
        MetaSchemaRef::Inline(_) => None,
    };
    let is_field = |name: &str| {
        schema.is_some_and(|schema| schema.properties.iter().any(|(property, _)| *property == name))
    };
    let mut fields = Map::new();
    let query = request.uri().query().unwrap_or_default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| is_field(name)) {
        fields.entry(name).or_insert(value.into());
    }
    fields
}

fn missing_body() -> ApiError {
    let loc = vec![Loc::Key("body".into())];
    ApiError::InvalidFields(vec![FieldError { loc, msg: "Field required".into(), kind: "missing" }])
}

/// Checks and parses a value. `root` is the part of the request that contains the value: `body` or `query`. `lenient`
/// allows unknown fields.
fn parse<T: ParseFromJSON + Any>(root: &str, mut value: Value, lenient: bool) -> Result<T> {
    let mut checker = Checker::new(registry_of::<T>(), root, lenient);
    checker.check(&T::schema_ref(), &mut value);
    let errors = checker.finish();
    if !errors.is_empty() {
        return Err(ApiError::InvalidFields(errors));
    }
    // The type may have checks that are not in its schema.
    T::parse_from_json(Some(value)).map_err(|error| {
        let loc = vec![Loc::Key(root.into())];
        ApiError::InvalidFields(vec![FieldError { loc, msg: error.into_message(), kind: "value_error" }])
    })
}

/// Returns the registry with the schemas that `T` refers to. It is created at the first request with a `T`.
fn registry_of<T: Type + Any>() -> &'static Registry {
    static REGISTRIES: LazyLock<RwLock<HashMap<TypeId, &'static Registry>>> = LazyLock::new(Default::default);
    let id = TypeId::of::<T>();
    if let Some(registry) = REGISTRIES.read().ok().and_then(|known| known.get(&id).copied()) {
        return registry;
    }
    let mut registry = Registry::new();
    T::register(&mut registry);
    // The leak is bounded: a body type has one registry, and a few more only if its first requests are concurrent.
    let registry: &'static Registry = Box::leak(Box::new(registry));
    if let Ok(mut known) = REGISTRIES.write() {
        known.insert(id, registry);
    }
    registry
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any};

    use super::*;
    use crate::property::property;

    #[test]
    fn a_form_parses_to_the_fields_it_was_written_from_unless_one_is_repeated() {
        property(1, vec(("[a-c&=+% \u{e9}]{0,2}", any::<String>()), 0..8), |pairs| {
            let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            let names: BTreeSet<_> = pairs.iter().map(|(name, _)| name.as_str()).collect();
            let is_repeated =
                |name: &&&str| pairs.iter().filter(|(other, _)| other.as_str() == **name).count() > 1;
            match form_fields(form.as_bytes()) {
                Ok(fields) => {
                    let expected = pairs.iter().map(|(name, value)| (name.clone(), value.clone().into()));
                    assert_eq!(fields, expected.collect::<FormFields>());
                    assert_eq!(fields.len(), pairs.len());
                }
                Err(ApiError::InvalidFields(errors)) => {
                    assert_eq!(errors.len(), names.iter().filter(is_repeated).count());
                    assert!(!errors.is_empty() && errors.iter().all(|error| error.kind == "repeated"));
                }
                Err(other) => panic!("{other}"),
            }
        });
    }

    #[test]
    fn any_octets_parse_to_at_most_one_field_per_ampersand_separated_part() {
        property(1, vec(any::<u8>(), 0..60), |octets| {
            let fields = octets.split(|octet| *octet == b'&').filter(|field| !field.is_empty()).count();
            let read = form_fields(&octets).map_or(0, |read| read.len());
            assert!(read <= fields);
        });
    }
}
