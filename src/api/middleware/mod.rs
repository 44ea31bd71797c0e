//! The middleware that processes all requests.
//!
//! The middleware is one endpoint instead of a chain of endpoints, each of which would move and await the request. Each file
//! contains the functions for one step of [`Middleware::call`] before or after the handler.

mod access_log;
mod admission;
mod compression;
mod context;
mod cors;
mod headers;
mod normal_path;
mod problems;

pub(super) use access_log::RoutineRequest;
pub(super) use admission::HostRules;
pub(super) use compression::{accepts_gzip, gzip};

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures_util::FutureExt;
use poem::{
    Endpoint, EndpointExt, PathPattern, Request, Response, Result,
    http::{HeaderMap, HeaderValue, Method, Uri, header},
    middleware::CookieJarManager,
};
use tracing::Instrument;

use self::{access_log::AccessLog, cors::Cors, headers::DefaultHeaders, problems::Problems};
use super::{
    conditional,
    extract::LoggedUser,
    problem::RouteCatalog,
    quotas::{Charge, Quotas},
};
use crate::{app::App, context::RequestContext, error::Error};

/// The configuration of the middleware.
pub(super) struct Settings {
    pub(super) routes: Arc<RouteCatalog>,
    /// Origins whose pages may read responses.
    pub(super) cors_origins: HashSet<String>,
    /// The hosts that requests may name.
    pub(super) hosts: HostRules,
    /// Whether clients reach the API over TLS.
    pub(super) https: bool,
    /// Number of trusted proxies in front of the server.
    pub(super) trusted_proxies: usize,
    /// The rate limits; `None` if they are turned off.
    pub(super) quotas: Option<Arc<Quotas>>,
}

/// Wraps the routes in the middleware.
pub(super) fn wrap<E>(routes: E, app: App, settings: Settings) -> impl Endpoint<Output = Response> + use<E>
where
    E: Endpoint + 'static,
{
    let Settings { routes: catalog, cors_origins, hosts, https, trusted_proxies, quotas } = settings;
    let (log_client_address, debug) = (app.config.logs.log_client_address, app.config.core.debug);
    Middleware {
        handler: routes.map_to_response().with(CookieJarManager::new()),
        trusted_proxies,
        quotas,
        log: AccessLog { catalog: catalog.clone(), log_client_address, debug },
        headers: DefaultHeaders::new(app.clone(), https),
        hosts,
        cors: Cors { origins: cors_origins },
        problems: Problems { app, catalog },
    }
}

struct Middleware<E> {
    handler: E,
    trusted_proxies: usize,
    quotas: Option<Arc<Quotas>>,
    log: AccessLog,
    headers: DefaultHeaders,
    hosts: HostRules,
    cors: Cors,
    problems: Problems,
}

/// The parts of a request that are needed after the handler has consumed it.
struct Received {
    started: Instant,
    context: RequestContext,
    /// The ids of the caller, after an extractor has authenticated the request.
    user: LoggedUser,
    method: Method,
    uri: Uri,
}

impl<E: Endpoint<Output = Response>> Endpoint for Middleware<E> {
    type Output = Response;

    async fn call(&self, mut req: Request) -> Result<Response> {
        let received = self.receive(&mut req);
        let context = &received.context;
        let span = tracing::info_span!(
            "request",
            request_id = context.request_id.as_deref(),
            client_request_id = context.client_request_id.as_deref(),
        );
        let mut response = self.respond(req, &received).instrument(span).await;
        self.headers.set(&mut response, received.uri.path());
        // If the client has sent a valid id, the response has this id, because clients find their requests by their own ids.
        if let Ok(id) = HeaderValue::from_str(&context.response_id()) {
            response.headers_mut().insert(context::REQUEST_ID, id);
        }
        self.log.write(&received, &response);
        Ok(response)
    }
}

impl<E: Endpoint<Output = Response>> Middleware<E> {
    /// Attaches the context and the [`LoggedUser`] to the request, and makes `Content-Type` readable for the handler.
    /// Returns the parts that are needed after the handler.
    fn receive(&self, req: &mut Request) -> Received {
        let (context, user) = (context::create(req, self.trusted_proxies), LoggedUser::default());
        context::make_content_type_readable(req.headers_mut());
        req.set_data(context.clone());
        req.set_data(user.clone());
        let (method, uri) = (req.method().clone(), req.original_uri().clone());
        Received { started: Instant::now(), context, user, method, uri }
    }

    async fn respond(&self, req: Request, received: &Received) -> Response {
        if let Err(error) = admission::admit(&req, &self.hosts) {
            return self.problems.render(&error.into(), received);
        }
        let origin = req.headers().get(header::ORIGIN).cloned();
        let mut response = match self.cors.preflight(&req) {
            Some(response) => response,
            None => self.handle(req, received).await,
        };
        self.cors.decorate(&mut response, origin.as_ref());
        response
    }

    /// Normalizes the path and runs the handler. Then runs the steps that need the result of the handler: rate limits, the
    /// rendering of errors, compression and conditional requests. A panic of the handler becomes an internal error.
    async fn handle(&self, mut req: Request, received: &Received) -> Response {
        let accepts_gzip = accepts_gzip(&req);
        let is_read = matches!(*req.method(), Method::GET | Method::HEAD);
        let names = [header::IF_MATCH, header::IF_NONE_MATCH];
        let is_conditional = is_read && names.iter().any(|name| req.headers().contains_key(name));
        let conditions = is_conditional.then(|| req.headers().clone());
        if *req.method() == Method::HEAD {
            // The response to HEAD has the headers of the response to GET, which depend on the body. poem's router would
            // remove the body before the compression. hyper does not send the body of a response to HEAD.
            req.set_method(Method::GET);
        }
        let normalized = normal_path::normalize(&mut req);
        let charge =
            self.quotas.as_ref().and_then(|quotas| Charge::attach(quotas, &mut req, &received.context));
        let result = match normalized {
            Ok(()) => AssertUnwindSafe(self.handler.call(req)).catch_unwind().await,
            Err(error) => Ok(Err(error.into())),
        };
        let mut result = result.unwrap_or_else(|_| Err(Error::internal("handler panicked").into()));
        if let Some(charge) = &charge {
            result = charge.close(result);
        }
        let response = result.unwrap_or_else(|error| self.problems.render(&error, received));
        let mut response = compression::compress(response, accepts_gzip).await;
        if let Some(headers) = conditions {
            response = self.evaluate(&headers, response, received);
        }
        // Adds the headers last, because the response is replaced if a condition is malformed or false.
        if let Some(charge) = &charge {
            charge.add_headers(&mut response);
        }
        response
    }

    /// Evaluates the conditions of a request, for a response with status 200 and a tag: 304 if the client already has this
    /// response, 412 if `If-Match` does not match the tag, 400 if a condition is malformed. Otherwise, returns the
    /// response unchanged.
    fn evaluate(&self, headers: &HeaderMap, response: Response, received: &Received) -> Response {
        let pattern = response.data::<PathPattern>().cloned();
        conditional::evaluate(headers, response).unwrap_or_else(|error| {
            let mut error = poem::Error::from(error);
            pattern.into_iter().for_each(|pattern| error.set_data(pattern));
            self.problems.render(&error, received)
        })
    }
}
