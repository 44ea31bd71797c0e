//! The HTTP API: the resources, their OpenAPI document, the HTML pages, the middleware and the server.
//!
//! To add a resource, add a file, its `mod` line, and a line in `resources`.

mod account_pages;
mod admin;
mod audit;
mod auth;
mod conditional;
mod cookies;
mod dev_mail;
mod docs;
mod entity_tags;
mod extract;
mod header_fields;
mod health;
mod host;
mod html;
mod idempotency;
mod ids;
mod jobs;
mod middleware;
mod orgs;
mod paths;
mod problem;
mod quotas;
mod respond;
mod secret_scanning;
mod server;
mod tag;
mod unsupported_headers;
mod users;
mod validation;

pub use paths::PREFIX;
pub use server::{Limits, serve};

use std::{collections::HashSet, sync::Arc};

use poem::{Endpoint, EndpointExt, Response};
use poem_openapi::{ContactObject, OpenApi, OpenApiService};

use self::{middleware::HostRules, unsupported_headers::RefuseUnsupported};
use crate::{
    app::App,
    config::{Core, Http, Mail, SecondFactorFor},
};

/// Returns all resources of the API.
fn resources(app: &App) -> impl OpenApi + use<> {
    (
        health::Health(app.clone()),
        auth::resources(app),
        users::resources(app),
        orgs::resources(app),
        jobs::resources(app),
        audit::Audit(app.clone()),
        secret_scanning::SecretScanning(app.clone()),
        admin::resources(app),
    )
}

/// Returns the resources as a service of poem-openapi, which also creates the OpenAPI document.
fn service(app: &App) -> OpenApiService<impl OpenApi + use<>, ()> {
    let resources = RefuseUnsupported(resources(app));
    OpenApiService::new(resources, &app.config.core.project_name, env!("CARGO_PKG_VERSION"))
        .url_prefix(PREFIX)
        .contact(ContactObject::new().name(&app.config.core.project_name))
        .description(
            "Errors are problem details (RFC 9457). `detail` is a message for people, `code` is a stable code for \
             programs, and `errors` lists the invalid fields. Include the `request_id` in support requests.\n\nLists have \
             pages: send `next_cursor` of a page as `cursor`, or follow its header `Link`.\n\n\
             A request that is repeated within 24 hours with the same `Idempotency-Key` has one effect. The operations that \
             support this have the header among their parameters. All other operations with POST and PATCH refuse it with \
             400 `idempotency_not_supported`.\n\n\
             Reads of resources and lists have an `ETag`: send it as `If-None-Match` to read again only what has \
             changed, and as `If-Match` with PATCH to change only what you have seen. Changes that do not take `If-Match` \
             refuse it with 400 `precondition_not_supported`.",
        )
}

/// Returns the OpenAPI document as JSON.
///
/// # Errors
/// If `PUBLIC_URL` is invalid, or if the document of poem-openapi cannot be parsed.
pub fn document(app: &App) -> anyhow::Result<String> {
    docs::document(&service(app).spec(), &servers(app)?)
}

/// Returns the server URLs for the document: `PUBLIC_URL`, if it is set, and the server from which a client downloads
/// the document.
fn servers(app: &App) -> anyhow::Result<Vec<String>> {
    let public_url = app.config.mail.public_url.get()?;
    let public_url = public_url.map(|url| url.as_str().trim_end_matches('/').to_owned());
    Ok(public_url.into_iter().chain([docs::THIS_SERVER.to_owned()]).collect())
}

/// Returns the endpoint of the server: the API, its documentation and the HTML pages, with the middleware.
///
/// # Errors
/// If a setting is invalid.
pub fn endpoint(
    app: App,
    core: &Core,
    http: &Http,
) -> anyhow::Result<impl Endpoint<Output = Response> + use<>> {
    let https = app.config.mail.public_url()?.scheme() == "https";
    let cors_origins = http.cors_origins(core.debug)?;
    let cookies =
        cookies::Settings { secure: https || !core.debug, origins: trusted_origins(&app, &cors_origins)? };
    let documented_service = {
        let app = app.clone();
        move || service(&app)
    };
    let requires_second_factor = app.config.auth.second_factor.required_for() == SecondFactorFor::All;
    let catalog = Arc::new(problem::RouteCatalog::of(&resources(&app), PREFIX));
    let mut routes = docs::routes(documented_service, servers(&app)?)
        .nest(PREFIX, service(&app))
        .nest("/account", account_pages::routes(&core.project_name, requires_second_factor));
    if http.dev_pages {
        routes = routes.nest("/dev/mail", dev_mail::routes(app.config.mail.mail_dir.clone()));
    }
    let settings = middleware::Settings {
        routes: catalog.clone(),
        cors_origins,
        hosts: host_rules(&app, http)?,
        https,
        trusted_proxies: http.trusted_proxies.into(),
        quotas: quotas::Quotas::new(&app, &http.request_limits, http.trusted_proxies)?,
    };
    let routes = routes.data(app.clone()).data(Arc::new(cookies)).data(catalog);
    let routes = routes.data(conditional::RequireIfMatch(http.require_if_match));
    Ok(middleware::wrap(routes, app, settings))
}

/// Returns the hosts that requests may name. Any host is allowed, unless `saas dev` runs the server or `ALLOWED_HOSTS`
/// is set. In these two cases, the host of `PUBLIC_URL` is allowed too.
fn host_rules(app: &App, http: &Http) -> anyhow::Result<HostRules> {
    let allowed = http.allowed_hosts.get()?;
    if allowed.is_none() && !http.dev_pages {
        return Ok(HostRules::Any);
    }
    let public = app.config.mail.public_url.get()?.and_then(|url| url.host()).map(|host| host.to_owned());
    let hosts = allowed.into_iter().flatten().cloned().chain(public).map(host::without_final_dot).collect();
    Ok(HostRules::Only { hosts, local: http.dev_pages })
}

/// Returns the origins whose pages may send requests with cookies, besides the origin of the requested host: those of
/// `PUBLIC_URL`, of `FRONTEND_URL` and of `cors_origins`.
fn trusted_origins(app: &App, cors_origins: &HashSet<String>) -> anyhow::Result<HashSet<String>> {
    let Mail { public_url, frontend_url, .. } = &app.config.mail;
    let own = [public_url.get()?, frontend_url.get()?];
    let own = own.into_iter().flatten().map(|url| url.origin().ascii_serialization());
    Ok(own.chain(cors_origins.iter().cloned()).collect())
}
