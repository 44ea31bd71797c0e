use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use poem::{Endpoint, Request, Response, Result};

use crate::error::Error;

/// Turns a panic of a handler into an internal error.
///
/// poem's own middleware makes a response of it at once; ours leaves that to [`Problems`](super::problems::Problems),
/// like any other error.
pub(super) struct CatchPanic<E> {
    pub(super) inner: E,
}

impl<E: Endpoint<Output = Response>> Endpoint for CatchPanic<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let response = AssertUnwindSafe(self.inner.call(req)).catch_unwind().await;
        response.unwrap_or_else(|_| Err(Error::internal("a handler panicked").into()))
    }
}
