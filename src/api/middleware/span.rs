//! The tracing span of a request.

use poem::{Endpoint, Request, Response, Result};
use tracing::Instrument;

use crate::context::RequestContext;

/// Adds the request ids to all log lines of the request.
pub(super) struct RequestSpan<E> {
    pub(super) inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for RequestSpan<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let context = req.data::<RequestContext>();
        let span = tracing::info_span!(
            "request",
            request_id = context.and_then(|context| context.request_id.as_deref()),
            client_request_id = context.and_then(|context| context.client_request_id.as_deref()),
        );
        self.inner.call(req).instrument(span).await
    }
}
