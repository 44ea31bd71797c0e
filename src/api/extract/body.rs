//! Request bodies: JSON and forms, checked whole before they are parsed.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{LazyLock, RwLock},
    time::Duration,
};

use poem::{Request, RequestBody, Result as PoemResult, http::header, web::headers::HeaderValue};
use poem_openapi::{
    impl_apirequest_for_payload,
    payload::{Json, ParsePayload, Payload},
    registry::{MetaSchemaRef, Registry},
    types::{ParseFromJSON, Type},
};
use serde_json::Value;

use crate::{
    api::{
        problem::{ApiError, Result},
        validation::Checker,
    },
    error::{Error, FieldError, Loc},
};

/// The longest body that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body. Every field that is wrong is reported, and a field that is not known is refused.
pub struct Body<T>(pub T);

/// A form (`application/x-www-form-urlencoded`). Fields that are not known are ignored, as OAuth2 clients send
/// some of their own (RFC 6749 section 3.2).
pub struct Form<T>(pub T);

impl<T: Type> Payload for Body<T> {
    const CONTENT_TYPE: &'static str = "application/json";
    fn check_content_type(content_type: &str) -> bool {
        <Json<T> as Payload>::check_content_type(content_type)
    }
    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }
    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ParseFromJSON + Any> ParsePayload for Body<T> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> PoemResult<Self> {
        let bytes = read(request, body, BODY_TIMEOUT).await?;
        if bytes.is_empty() {
            return Err(missing_body().into());
        }
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::MalformedBody(format!("The body is not valid JSON: {error}")))?;
        Ok(Self(parse(value, false)?))
    }
}

impl_apirequest_for_payload!(Body<T>, T: ParseFromJSON + Any);

impl<T: Type> Payload for Form<T> {
    const CONTENT_TYPE: &'static str = "application/x-www-form-urlencoded";
    fn check_content_type(content_type: &str) -> bool {
        content_type
            .split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case(Self::CONTENT_TYPE))
    }
    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }
    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: ParseFromJSON + Any> ParsePayload for Form<T> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> PoemResult<Self> {
        let bytes = read(request, body, BODY_TIMEOUT).await?;
        let fields =
            form_urlencoded::parse(&bytes).map(|(name, value)| (name.into_owned(), value.into())).collect();
        Ok(Self(parse(Value::Object(fields), true)?))
    }
}

impl_apirequest_for_payload!(Form<T>, T: ParseFromJSON + Any);

async fn read(request: &Request, body: &mut RequestBody, timeout: Duration) -> Result<Vec<u8>> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(length);
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(ApiError::BodyTooLarge { limit: MAX_BODY });
    }
    let body = body.take().map_err(Error::internal)?;
    let bytes = tokio::time::timeout(timeout, body.into_bytes_limit(MAX_BODY));
    let bytes = bytes.await.map_err(|_| ApiError::BodyTimeout)?.map_err(|error| match error {
        poem::error::ReadBodyError::PayloadTooLarge => ApiError::BodyTooLarge { limit: MAX_BODY },
        other => ApiError::MalformedBody(format!("The body could not be read: {other}")),
    })?;
    Ok(bytes.into())
}

/// Reads the body into memory and puts it back, for an extractor that has to wait until the client has sent it.
pub(super) async fn buffer(request: &Request, body: &mut RequestBody) -> Result<()> {
    let headers = request.headers();
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).and_then(length).is_some_and(|length| length > 0);
    if has_body {
        *body = RequestBody::new(poem::Body::from_vec(read(request, body, BODY_TIMEOUT).await?));
    }
    Ok(())
}

fn length(value: &HeaderValue) -> Option<usize> {
    value.to_str().ok()?.parse().ok()
}

fn missing_body() -> ApiError {
    let loc = vec![Loc::Key("body".into())];
    ApiError::InvalidFields(vec![FieldError { loc, msg: "Field required".into(), kind: "missing" }])
}

fn parse<T: ParseFromJSON + Any>(value: Value, lenient: bool) -> Result<T> {
    let mut checker = Checker::new(registry_of::<T>(), "body", lenient);
    checker.check(&T::schema_ref(), &value);
    if !checker.errors.is_empty() {
        return Err(ApiError::InvalidFields(checker.errors));
    }
    // What the walk does not know of, the type itself still checks.
    T::parse_from_json(Some(value)).map_err(|error| {
        let loc = vec![Loc::Key("body".into())];
        ApiError::InvalidFields(vec![FieldError { loc, msg: error.into_message(), kind: "value_error" }])
    })
}

/// The schemas that `T` refers to, made once for each type.
fn registry_of<T: Type + Any>() -> &'static Registry {
    static KNOWN: LazyLock<RwLock<HashMap<TypeId, &'static Registry>>> = LazyLock::new(Default::default);
    let id = TypeId::of::<T>();
    if let Some(registry) = KNOWN.read().ok().and_then(|known| known.get(&id).copied()) {
        return registry;
    }
    let mut registry = Registry::new();
    T::register(&mut registry);
    // Kept for the life of the process: there are as many as there are body types in the program.
    let registry: &'static Registry = Box::leak(Box::new(registry));
    if let Ok(mut known) = KNOWN.write() {
        known.insert(id, registry);
    }
    registry
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let nothing = stream::pending::<std::io::Result<Vec<u8>>>();
        let request = Request::builder().body(poem::Body::from_bytes_stream(nothing));
        let (request, mut body) = request.split();
        assert!(matches!(
            read(&request, &mut body, Duration::from_millis(50)).await,
            Err(ApiError::BodyTimeout)
        ));
    }
}
