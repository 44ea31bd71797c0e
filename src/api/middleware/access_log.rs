//! The access log.

use std::{sync::Arc, time::Instant};

use poem::{Endpoint, PathPattern, Request, Response, Result};

use crate::{
    api::{extract::LoggedUser, paths::PREFIX, problem::RouteCatalog},
    context::{RequestContext, trace_id},
};

/// Writes one log line per request.
pub(super) struct AccessLog<E> {
    pub(super) inner: E,
    pub(super) catalog: Arc<RouteCatalog>,
    /// Whether the line has the client's address.
    pub(super) log_client_address: bool,
}

impl<E: Endpoint<Output = Response>> Endpoint for AccessLog<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let started = Instant::now();
        let context = req.data::<RequestContext>().cloned().unwrap_or_default();
        let logged_user = req.data::<LoggedUser>().cloned().unwrap_or_default();
        let method = req.method().clone();
        let response = self.inner.call(req).await?;
        let user = logged_user.get();
        // The route, not the path of the request, which may contain an id or a token.
        tracing::info!(
            method = method.as_str(),
            path = &*self.documented_path(response.data::<PathPattern>()),
            status = response.status().as_u16(),
            duration_ms = started.elapsed().as_micros() as f64 / 1_000.0,
            client_address = context.ip.filter(|_| self.log_client_address).map(tracing::field::display),
            request_id = context.request_id.as_deref(),
            client_request_id = context.client_request_id.as_deref(),
            trace_id = context.trace.as_deref().and_then(trace_id),
            user_id = user.map(|(id, _)| id),
            "request"
        );
        Ok(response)
    }
}

impl<E> AccessLog<E> {
    /// Returns the path as in the OpenAPI document; `-` if no route matches.
    fn documented_path(&self, pattern: Option<&PathPattern>) -> Arc<str> {
        match pattern {
            Some(PathPattern(pattern)) if &**pattern != PREFIX => {
                self.catalog.path(pattern).unwrap_or_else(|| pattern.clone())
            }
            _ => "-".into(),
        }
    }
}
