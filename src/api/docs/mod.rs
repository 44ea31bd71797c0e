//! The OpenAPI document, and the two pages that show it: Swagger UI and Redoc. The pages work offline, because the
//! binary contains all their parts.

mod asset;
mod document;
mod policy;

pub(super) use document::{THIS_SERVER, document};

use anyhow::Context;
use poem::{Route, endpoint::make_sync, get, web::Redirect};
use poem_openapi::{OpenApi, OpenApiService};
use serde_json::Value;

use self::{asset::Asset, policy::policy};
use super::paths::PREFIX;

/// The icon of all pages, as inline HTML. Without it, browsers request `/favicon.ico`.
const ICON: &str = include_str!("../templates/icon.html");

/// Returns the routes of the document and its pages. The texts are created on the first request and not at start-up,
/// because this needs much time and memory. `servers` are the URLs of the API in the document.
pub(super) fn routes<T: OpenApi + 'static>(
    service: impl Fn() -> OpenApiService<T, ()> + Clone + Send + Sync + 'static,
    servers: Vec<String>,
) -> Route {
    let on_demand = |make: fn(OpenApiService<T, ()>) -> anyhow::Result<String>| {
        let service = service.clone();
        move || make(service())
    };
    let json = {
        let service = service.clone();
        Asset::new("application/json", None, move || document(&service().spec(), &servers))
    };
    let swagger = |service| page(&service, OpenApiService::swagger_ui_html);
    let redoc = |service| Ok(without_web_fonts(&page(&service, OpenApiService::redoc_html)?));
    let swagger = Asset::new("text/html; charset=utf-8", Some(policy), on_demand(swagger));
    let redoc = Asset::new("text/html; charset=utf-8", Some(policy), on_demand(redoc));
    let mut routes = Route::new().at("/", get(make_sync(|_| Redirect::temporary("/docs"))));
    // Serves the document and the pages at the root, as FastAPI does, and below the prefix of the API.
    for prefix in ["", PREFIX] {
        routes = routes
            .at(format!("{prefix}/openapi.json"), get(json.clone().endpoint()))
            .at(format!("{prefix}/docs"), get(swagger.clone().endpoint()))
            .at(format!("{prefix}/redoc"), get(redoc.clone().endpoint()));
    }
    routes
}

/// Returns a page of poem-openapi with another HTML head, and with the completed document instead of the original. The
/// document is part of a script, so `<` is escaped: a text in the document must not end the script. The document in a
/// page names only the server of the page, so the page sends requests only to this server.
fn page<T: OpenApi>(
    service: &OpenApiService<T, ()>,
    html: fn(&OpenApiService<T, ()>) -> String,
) -> anyhow::Result<String> {
    let spec = service.spec();
    let document = document(&spec, &[THIS_SERVER.to_owned()])?;
    let product = serde_json::from_str::<Value>(&document)?["info"]["title"].as_str().map(str::to_owned);
    let page = with_head(&html(service), &product.unwrap_or_default())?;
    Ok(page.replace(&spec, &document.replace('<', "\\u003c")))
}

/// Replaces the beginning of a page, up to and including its title. The title that poem-openapi writes does not contain the
/// product name, and its page with Swagger UI has no doctype.
fn with_head(page: &str, product: &str) -> anyhow::Result<String> {
    let (_, rest) = page.split_once("</title>").context("the page of the framework has no title")?;
    let product = product.replace('&', "&amp;").replace('<', "&lt;");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{product} API</title>\n{ICON}{rest}"
    ))
}

/// Removes the link to web fonts on another host. The page then uses system fonts.
fn without_web_fonts(page: &str) -> String {
    let (before, link) = page.split_once("<link href=\"https://fonts.").unwrap_or((page, ""));
    let (_, after) = link.split_once('>').unwrap_or_default();
    format!("{before}{after}")
}
