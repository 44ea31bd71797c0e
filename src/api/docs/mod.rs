//! The API document and the two pages that show it. Everything is in the binary: the pages work offline.

mod asset;
mod document;

pub(super) use document::document;

use poem::{Route, endpoint::make_sync, get, web::Redirect};
use poem_openapi::{OpenApi, OpenApiService};

use self::asset::Asset;
use super::paths::PREFIX;

/// The pages run the scripts they bring along, talk to this server, and to nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; \
    img-src 'self' data:; font-src data:; connect-src 'self'; worker-src blob:; frame-ancestors 'none'";

/// The document and the pages are made when somebody first asks for one: they are larger than the rest of the process.
pub(super) fn routes<T: OpenApi + 'static>(
    service: impl Fn() -> OpenApiService<T, ()> + Clone + Send + Sync + 'static,
) -> Route {
    let made = |make: fn(OpenApiService<T, ()>) -> anyhow::Result<String>| {
        let service = service.clone();
        move || make(service())
    };
    let json = Asset::new("application/json", None, made(|service| document(&service.spec())));
    let swagger = |service| page(&service, OpenApiService::swagger_ui_html);
    let redoc = |service| Ok(without_web_fonts(&page(&service, OpenApiService::redoc_html)?));
    let swagger = Asset::new("text/html; charset=utf-8", Some(PAGE_POLICY), made(swagger));
    let redoc = Asset::new("text/html; charset=utf-8", Some(PAGE_POLICY), made(redoc));
    let mut routes = Route::new().at("/", get(make_sync(|_| Redirect::temporary("/docs"))));
    // FastAPI has them at the root; under the prefix they are where the rest of the API is.
    for prefix in ["", PREFIX] {
        routes = routes
            .at(format!("{prefix}/openapi.json"), get(json.clone().endpoint()))
            .at(format!("{prefix}/docs"), get(swagger.clone().endpoint()))
            .at(format!("{prefix}/redoc"), get(redoc.clone().endpoint()));
    }
    routes
}

/// A page that embeds the document: ours in the place of the one that the framework makes.
fn page<T: OpenApi>(
    service: &OpenApiService<T, ()>,
    html: fn(&OpenApiService<T, ()>) -> String,
) -> anyhow::Result<String> {
    let spec = service.spec();
    Ok(html(service).replace(&spec, &document(&spec)?))
}

/// Takes the link to another host's fonts out of the page; the system's own are then used.
fn without_web_fonts(page: &str) -> String {
    let (before, link) = page.split_once("<link href=\"https://fonts.").unwrap_or((page, ""));
    let (_, after) = link.split_once('>').unwrap_or_default();
    format!("{before}{after}")
}
