//! The OpenAPI document and the two pages that show it. The pages work offline, because all their parts are in the
//! binary.

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

/// The icon of all pages, in the page itself: browsers ask for `/favicon.ico` otherwise.
const ICON: &str = include_str!("../templates/icon.html");

/// Returns the routes of the document and its pages. They are created on the first request, because they need more
/// memory than the rest of the process. `servers` are the URLs of the API in the document.
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
    // At the root, as in FastAPI, and below the prefix, where the rest of the API is.
    for prefix in ["", PREFIX] {
        routes = routes
            .at(format!("{prefix}/openapi.json"), get(json.clone().endpoint()))
            .at(format!("{prefix}/docs"), get(swagger.clone().endpoint()))
            .at(format!("{prefix}/redoc"), get(redoc.clone().endpoint()));
    }
    routes
}

/// Returns a page of the framework with another HTML head, and with the completed document in place of the
/// original one. The document is part of a script, so `<` is escaped: a text of the document must not end the
/// script. A page sends requests only to the server that it comes from.
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

/// Replaces the beginning of a page, up to its title. The framework's page has no document type, and a title
/// without the product.
fn with_head(page: &str, product: &str) -> anyhow::Result<String> {
    let (_, rest) = page.split_once("</title>").context("the page of the framework has no title")?;
    let product = product.replace('&', "&amp;").replace('<', "&lt;");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{product} API</title>\n{ICON}{rest}"
    ))
}

/// Removes the link to the web fonts of another host. The page then uses fonts of the system.
fn without_web_fonts(page: &str) -> String {
    let (before, link) = page.split_once("<link href=\"https://fonts.").unwrap_or((page, ""));
    let (_, after) = link.split_once('>').unwrap_or_default();
    format!("{before}{after}")
}
