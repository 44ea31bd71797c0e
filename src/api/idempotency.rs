//! Requests with the header `Idempotency-Key`: which operations take it, and how a stored answer is sent.

use std::{collections::HashMap, marker::PhantomData};

use poem::{
    Body, Endpoint, EndpointExt, IntoResponse, Request, Response,
    endpoint::BoxEndpoint,
    http::{HeaderName, HeaderValue, Method, StatusCode},
};
use poem_openapi::{
    ApiResponse, OpenApi,
    registry::{MetaApi, MetaOperation, MetaResponses, MetaSchemaRef, Registry},
};

use super::{
    extract::{IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_FORMAT, OperationId},
    problem::{ApiError, without_names},
};
use crate::{error::Error, services::idempotency::Answered};

/// The header of an answer that an earlier request has got too.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// An API whose operations refuse `Idempotency-Key`, unless they take [`IdempotencyKey`](super::extract::IdempotencyKey).
///
/// If they ignored the header, a client would repeat a request in the belief that it has no second effect. Methods that are
/// idempotent in HTTP (RFC 9110 section 9.2.2) need no key and ignore it.
pub(super) struct RefuseKeys<A>(pub(super) A);

impl<A: OpenApi> OpenApi for RefuseKeys<A> {
    fn meta() -> Vec<MetaApi> {
        A::meta()
    }

    fn register(registry: &mut Registry) {
        A::register(registry);
    }

    fn add_routes(self, table: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        let supporting = operations_with_key(A::meta());
        let mut routes = HashMap::new();
        self.0.add_routes(&mut routes);
        for (path, methods) in routes {
            let pattern = without_names(&path);
            let guarded = methods.into_iter().map(|(method, endpoint)| {
                if method.is_idempotent() {
                    return (method, endpoint);
                }
                let operation = supporting.get(&(pattern.clone(), method.clone())).copied();
                (method, Guarded { endpoint, operation }.boxed())
            });
            table.entry(path).or_default().extend(guarded);
        }
    }
}

/// Returns the ids of the operations that take a key, by path and method. The paths have no names of parameters.
fn operations_with_key(meta: Vec<MetaApi>) -> HashMap<(String, Method), OperationId> {
    let mut found = HashMap::new();
    for path in meta.into_iter().flat_map(|api| api.paths) {
        for operation in path.operations.iter().filter(|operation| takes_key(operation)) {
            if let Some(id) = operation.operation_id {
                found.insert((without_names(&path.path), operation.method.clone()), OperationId(id));
            }
        }
    }
    found
}

fn takes_key(operation: &MetaOperation) -> bool {
    let format = |schema: &MetaSchemaRef| match schema {
        MetaSchemaRef::Inline(schema) => schema.format,
        MetaSchemaRef::Reference(_) => None,
    };
    operation.params.iter().any(|param| format(&param.schema) == Some(IDEMPOTENCY_KEY_FORMAT))
}

/// An operation, with its id if it takes a key.
struct Guarded {
    endpoint: BoxEndpoint<'static>,
    operation: Option<OperationId>,
}

impl Endpoint for Guarded {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        if request.headers().contains_key(IDEMPOTENCY_KEY) {
            match self.operation {
                Some(operation) => request.set_data(operation),
                None => return Err(ApiError::Domain(Error::IdempotencyNotSupported).into()),
            }
        }
        self.endpoint.call(request).await
    }
}

/// A response of type `R`, or its stored copy: both have the same status, headers and body.
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
