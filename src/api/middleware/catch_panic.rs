//! Panics of handlers.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use poem::{Endpoint, Request, Response, Result};

use crate::error::Error;

/// Turns a panic of a handler into an internal error.
///
/// poem's middleware would render the response itself. This one returns an error, which
/// [`Problems`](super::problems::Problems) renders like all others.
pub(super) struct CatchPanic<E> {
    pub(super) inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for CatchPanic<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let response = AssertUnwindSafe(self.inner.call(req)).catch_unwind().await;
        response.unwrap_or_else(|_| Err(Error::internal("handler panicked").into()))
    }
}
