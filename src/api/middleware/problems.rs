//! Errors as responses.

use std::sync::Arc;

use poem::{Endpoint, PathPattern, Request, Response, Result};

use crate::{
    api::problem::{FailedRequest, RouteCatalog, render},
    context::RequestContext,
};

/// Renders errors as problem details (RFC 9457). The outer layers see only responses.
pub(super) struct Problems<E> {
    pub(super) inner: E,
    pub(super) catalog: Arc<RouteCatalog>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Problems<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let id = req.data::<RequestContext>().map(RequestContext::response_id).unwrap_or_default();
        let (method, uri) = (req.method().clone(), req.original_uri().clone());
        let error = match self.inner.call(req).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let pattern = error.data::<PathPattern>().cloned();
        let request = FailedRequest { id: &id, method: &method, uri: &uri };
        let mut response = render(&error, &request, &self.catalog);
        if let Some(pattern) = pattern {
            response.set_data(pattern);
        }
        Ok(response)
    }
}
