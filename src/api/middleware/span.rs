//! The tracing span of a request.

use poem::{Endpoint, Request, Response, Result};
use tracing::Instrument;

use crate::context::RequestContext;

/// Adds the request id to all log lines of the request.
pub(super) struct RequestSpan<E> {
    pub(super) inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for RequestSpan<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let id = req
            .data::<RequestContext>()
            .and_then(|context| context.request_id.as_deref())
            .unwrap_or_default();
        let span = tracing::info_span!("request", request_id = id);
        self.inner.call(req).instrument(span).await
    }
}
