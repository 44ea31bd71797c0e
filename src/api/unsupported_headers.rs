//! The refusal of headers that change the meaning of a request, by operations that do not evaluate these headers.

use std::collections::HashMap;

use poem::{
    Endpoint, EndpointExt, Request, Response,
    endpoint::BoxEndpoint,
    http::{HeaderMap, Method, header},
};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, MetaOperation, MetaParamIn, MetaSchemaRef, Registry},
};

use super::{
    conditional::IF_MATCH_ARGUMENT,
    extract::{IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_FORMAT, OperationId},
    problem::{ApiError, without_names},
};
use crate::error::Error;

/// An API whose operations refuse headers that they would otherwise ignore.
///
/// - `Idempotency-Key`, unless the operation takes [`IdempotencyKey`](super::extract::IdempotencyKey): a client would repeat a
///   request in the belief that it has no second effect. Methods that are idempotent in HTTP (RFC 9110 section 9.2.2) need no
///   key and ignore it.
/// - `If-None-Match` in all changes, and `If-Match` unless the change takes [`IfMatch`](super::conditional::IfMatch): a change
///   must not be made if its condition is false (RFC 9110 sections 13.1.1 and 13.1.2). The middleware evaluates the conditions
///   of reads.
pub(super) struct RefuseUnsupported<A>(pub(super) A);

impl<A: OpenApi> OpenApi for RefuseUnsupported<A> {
    fn meta() -> Vec<MetaApi> {
        A::meta()
    }

    fn register(registry: &mut Registry) {
        A::register(registry);
    }

    fn add_routes(self, table: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        let supported = supported_headers(A::meta());
        let mut routes = HashMap::new();
        self.0.add_routes(&mut routes);
        for (path, methods) in routes {
            let pattern = without_names(&path);
            let guarded = methods.into_iter().map(|(method, endpoint)| {
                if method.is_safe() {
                    return (method, endpoint);
                }
                let supported = supported.get(&(pattern.clone(), method.clone())).copied();
                let is_idempotent = method.is_idempotent();
                let guarded = Guarded { endpoint, is_idempotent, supported: supported.unwrap_or_default() };
                (method, guarded.boxed())
            });
            table.entry(path).or_default().extend(guarded);
        }
    }
}

/// The headers that an operation evaluates.
#[derive(Clone, Copy, Default)]
struct Supported {
    /// The id of the operation if it takes an idempotency key.
    key: Option<OperationId>,
    if_match: bool,
}

/// Returns the headers that each operation evaluates, by path and method. The paths have no names of parameters.
fn supported_headers(meta: Vec<MetaApi>) -> HashMap<(String, Method), Supported> {
    let mut found = HashMap::new();
    for path in meta.into_iter().flat_map(|api| api.paths) {
        for operation in &path.operations {
            let key = operation.operation_id.filter(|_| takes_key(operation)).map(OperationId);
            let supported = Supported { key, if_match: takes_if_match(operation) };
            found.insert((without_names(&path.path), operation.method.clone()), supported);
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

fn takes_if_match(operation: &MetaOperation) -> bool {
    let mut params = operation.params.iter();
    params.any(|param| matches!(param.in_type, MetaParamIn::Header) && param.name == IF_MATCH_ARGUMENT)
}

/// An operation with an unsafe method, with the headers that it evaluates.
struct Guarded {
    endpoint: BoxEndpoint<'static>,
    /// Whether the method of the operation is idempotent in HTTP.
    is_idempotent: bool,
    supported: Supported,
}

impl Guarded {
    /// Returns the name of a header with a condition on entity tags that the operation would ignore. `None` if there is no such
    /// header.
    fn ignored_condition(&self, headers: &HeaderMap) -> Option<&'static str> {
        if headers.contains_key(header::IF_NONE_MATCH) {
            return Some("If-None-Match");
        }
        (!self.supported.if_match && headers.contains_key(header::IF_MATCH)).then_some("If-Match")
    }
}

impl Endpoint for Guarded {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        if let Some(name) = self.ignored_condition(request.headers()) {
            return Err(ApiError::PreconditionNotSupported(name).into());
        }
        if !self.is_idempotent && request.headers().contains_key(IDEMPOTENCY_KEY) {
            match self.supported.key {
                Some(operation) => request.set_data(operation),
                None => return Err(ApiError::Domain(Error::IdempotencyNotSupported).into()),
            }
        }
        self.endpoint.call(request).await
    }
}
