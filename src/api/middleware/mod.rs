//! The middleware of all requests, in the order of [`wrap`].

mod access_log;
mod admission;
mod catch_panic;
mod compression;
mod context;
mod cors;
mod headers;
mod normal_path;
mod problems;
mod span;

pub(super) use access_log::RoutineRequest;
pub(super) use admission::HostRules;
pub(super) use compression::{accepts_gzip, gzip};

use std::{collections::HashSet, sync::Arc};

use poem::{Endpoint, EndpointExt, Response, middleware::CookieJarManager};

use self::{
    access_log::AccessLog, admission::Admission, catch_panic::CatchPanic, compression::Compression,
    context::WithContext, cors::Cors, headers::DefaultHeaders, normal_path::NormalPath, problems::Problems,
    span::RequestSpan,
};
use super::problem::RouteCatalog;
use crate::app::App;

/// The configuration of the middleware.
pub(super) struct Settings {
    pub(super) routes: RouteCatalog,
    /// Origins whose pages may read responses.
    pub(super) cors_origins: HashSet<String>,
    /// The hosts that clients may ask for.
    pub(super) hosts: HostRules,
    /// Whether clients reach the API over TLS.
    pub(super) https: bool,
    /// Number of trusted proxies in front of the server.
    pub(super) trusted_proxies: usize,
}

/// Wraps the routes in the middleware. The first line is the innermost layer; the last one sees a request first.
pub(super) fn wrap<E>(routes: E, app: App, settings: Settings) -> impl Endpoint<Output = Response> + use<E>
where
    E: Endpoint + 'static,
{
    let Settings { routes: catalog, cors_origins, hosts, https, trusted_proxies } = settings;
    let catalog = Arc::new(catalog);
    let inner = NormalPath { inner: routes.map_to_response().with(CookieJarManager::new()) };
    let inner = CatchPanic { inner };
    let inner = Problems { inner, app: app.clone(), catalog: catalog.clone() };
    let inner = Compression { inner };
    let inner = Cors { inner, origins: cors_origins };
    let inner = Admission { inner, app: app.clone(), catalog: catalog.clone(), hosts };
    let (log_client_address, debug) = (app.config.logs.log_client_address, app.config.core.debug);
    let inner = DefaultHeaders { inner, app }.with(headers::security(https));
    let inner = RequestSpan { inner };
    let inner = AccessLog { inner, catalog, log_client_address, debug };
    WithContext { inner, trusted_proxies }
}
