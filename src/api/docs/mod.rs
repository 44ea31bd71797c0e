//! The OpenAPI document and the two pages that show it. The pages work offline, because all their parts are in the
//! binary.

mod asset;
mod document;

pub(super) use document::document;

use poem::{Route, endpoint::make_sync, get, web::Redirect};
use poem_openapi::{OpenApi, OpenApiService};

use self::asset::Asset;
use super::paths::PREFIX;

/// Content-Security-Policy of the pages: inline scripts only, and requests only to this server.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; \
    img-src 'self' data:; font-src data:; connect-src 'self'; worker-src blob:; frame-ancestors 'none'";

/// Returns the routes of the document and its pages. They are created on the first request, because they need more
/// memory than the rest of the process.
pub(super) fn routes<T: OpenApi + 'static>(
    service: impl Fn() -> OpenApiService<T, ()> + Clone + Send + Sync + 'static,
) -> Route {
    let on_demand = |make: fn(OpenApiService<T, ()>) -> anyhow::Result<String>| {
        let service = service.clone();
        move || make(service())
    };
    let json = Asset::new("application/json", None, on_demand(|service| document(&service.spec())));
    let swagger = |service| page(&service, OpenApiService::swagger_ui_html);
    let redoc = |service| Ok(without_web_fonts(&page(&service, OpenApiService::redoc_html)?));
    let swagger = Asset::new("text/html; charset=utf-8", Some(PAGE_POLICY), on_demand(swagger));
    let redoc = Asset::new("text/html; charset=utf-8", Some(PAGE_POLICY), on_demand(redoc));
    let mut routes = Route::new().at("/", get(make_sync(|_| Redirect::temporary("/docs"))));
    // At the root, as in FastAPI, and below the prefix, where the rest of the API is.
    for prefix in ["", PREFIX] {
        routes = routes
            .at(format!("{prefix}/openapi.json"), get(json.clone().endpoint()))
            .at(format!("{prefix}/docs"), get(swagger.clone().endpoint()))
            .at(format!("{prefix}/redoc"), get(redoc.clone().endpoint()));
    }
    routes
}

/// Returns a page of the framework with the corrected document in place of the original one.
fn page<T: OpenApi>(
    service: &OpenApiService<T, ()>,
    html: fn(&OpenApiService<T, ()>) -> String,
) -> anyhow::Result<String> {
    let spec = service.spec();
    Ok(html(service).replace(&spec, &document(&spec)?))
}

/// Removes the link to the web fonts of another host. The page then uses fonts of the system.
fn without_web_fonts(page: &str) -> String {
    let (before, link) = page.split_once("<link href=\"https://fonts.").unwrap_or((page, ""));
    let (_, after) = link.split_once('>').unwrap_or_default();
    format!("{before}{after}")
}
