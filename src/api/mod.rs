//! The HTTP API: one file a resource. A new resource is its file, a `mod` line and a place in [`Resources`].

mod admin;
mod auth;
mod cors;
mod docs;
mod extract;
mod gzip;
mod health;
mod jobs;
mod layer;
mod problem;
mod users;

use poem::{
    Endpoint, EndpointExt, Response,
    middleware::{NormalizePath, TrailingSlash},
};
use poem_openapi::{LicenseObject, OpenApiService, Tags};

use crate::{
    app::App,
    config::{Core, Http},
};

const PREFIX: &str = "/api/v1";

#[derive(Tags)]
enum Tag {
    /// Is it up?
    Health,
    /// Register and sign in.
    Auth,
    /// Accounts.
    Users,
    /// Work in the background: put it in a queue, follow it, cancel it.
    Jobs,
    /// For admins: the job queues, their jobs and the workers.
    Admin,
}

type Resources = (health::Health, auth::Auth, users::Users, jobs::Jobs, admin::Resources);

fn service(app: &App) -> OpenApiService<Resources, ()> {
    let resources = (
        health::Health(app.clone()),
        auth::Auth(app.clone()),
        users::Users,
        jobs::Jobs(app.clone()),
        admin::resources(app),
    );
    describe(OpenApiService::new(resources, &app.config.core.project_name, env!("CARGO_PKG_VERSION")))
}

fn describe(service: OpenApiService<Resources, ()>) -> OpenApiService<Resources, ()> {
    service
        .url_prefix(PREFIX)
        .license(LicenseObject::new("MIT").url("https://opensource.org/license/mit"))
        .description(
            "Errors are problem details (RFC 9457): `detail` is for people, `code` for programs, and `errors` lists \
             every invalid field. Quote the `request_id` when you ask for help.",
        )
}

/// The OpenAPI document, as JSON.
///
/// # Errors
/// When the settings are not usable.
pub fn document(app: &App) -> anyhow::Result<String> {
    docs::document(&service(app).spec())
}

/// Whether the settings that [`endpoint`] reads can be read.
///
/// # Errors
/// When one cannot; the message names it.
pub fn check_http(core: &Core, http: &Http) -> anyhow::Result<()> {
    http.cors_origins(core.debug).map(drop)
}

/// The whole API as an endpoint.
///
/// # Errors
/// When a setting is not usable.
pub fn endpoint(
    app: App,
    core: &Core,
    http: &Http,
) -> anyhow::Result<impl Endpoint<Output = Response> + use<>> {
    let service = service(&app);
    let operations = problem::Operations::of::<Resources>(PREFIX);
    let routes = docs::routes(&service)?.nest(PREFIX, service).data(app);
    Ok(layer::Layer {
        inner: routes.map_to_response().with(NormalizePath::new(TrailingSlash::Trim)),
        operations,
        cors: cors::Cors { origins: http.cors_origins(core.debug)? },
        https: http.public_url.as_deref().is_some_and(|url| url.starts_with("https://")),
    })
}
