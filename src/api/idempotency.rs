//! The responses of operations that support the header `Idempotency-Key`.

use std::marker::PhantomData;

use poem::{
    Body, IntoResponse, Response,
    http::{HeaderName, HeaderValue, StatusCode},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaResponses, Registry},
};

use crate::services::idempotency::Answered;

/// The header of a response that is the stored answer to an earlier request with the same key.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A response of type `R`, or its stored copy. The status, the body and the headers of the operation are the same in both,
/// except for `Idempotency-Replayed`. The middleware adds its own headers to each response, such as a request id.
pub(super) struct Replayable<R> {
    answered: Answered,
    response: PhantomData<fn() -> R>,
}

impl<R> From<Answered> for Replayable<R> {
    fn from(answered: Answered) -> Self {
        Self { answered, response: PhantomData }
    }
}

impl<R: ApiResponse> ApiResponse for Replayable<R> {
    fn meta() -> MetaResponses {
        R::meta()
    }

    fn register(registry: &mut Registry) {
        R::register(registry);
    }
}

impl<R> IntoResponse for Replayable<R> {
    fn into_response(self) -> Response {
        let Answered { answer, is_replayed } = self.answered;
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = if answer.body.is_empty() { Body::empty() } else { answer.body.into() };
        let mut response = Response::builder().status(status).body(body);
        let headers = response.headers_mut();
        for (name, value) in answer.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.append(name, value);
            }
        }
        if is_replayed {
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}
