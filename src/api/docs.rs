//! The API document and the two pages that show it. Everything is in the binary: the pages work offline.

use std::sync::{Arc, OnceLock};

use hyper::body::Bytes;
use poem::{
    Endpoint, Request, Response, Route,
    endpoint::{make, make_sync},
    get,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{OpenApi, OpenApiService};
use serde_json::{Value, json};

use super::{
    middleware::{accepts_gzip, gzip},
    paths::PREFIX,
};
use crate::error::{Error, Result};

/// The pages run the scripts they bring along, talk to this server, and to nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; \
    img-src 'self' data:; font-src data:; connect-src 'self'; worker-src blob:; frame-ancestors 'none'";

/// poem-openapi's document, mended where it is not valid or less than it could be.
pub(super) fn document(spec: &str) -> anyhow::Result<String> {
    let mut spec: Value = serde_json::from_str(spec)?;
    // OpenAPI 3.0, "OAuth Flow Object": `scopes` is required.
    let schemes = spec.pointer_mut("/components/securitySchemes").and_then(Value::as_object_mut);
    for scheme in schemes.into_iter().flat_map(|schemes| schemes.values_mut()) {
        if let Some(flow) = scheme.pointer_mut("/flows/password").and_then(Value::as_object_mut) {
            flow.entry("scopes").or_insert(json!({}));
        }
    }
    // OpenAPI 3.0, "Response Object": `description` is required, and empty it helps nobody.
    let paths =
        spec.get_mut("paths").and_then(Value::as_object_mut).into_iter().flat_map(|paths| paths.values_mut());
    let operations = paths.filter_map(Value::as_object_mut).flat_map(|operations| operations.values_mut());
    let responses =
        operations.filter_map(|operation| operation.get_mut("responses").and_then(Value::as_object_mut));
    for (_, response) in responses.flatten().filter(|(_, response)| response["description"] == "") {
        response["description"] = json!("It has been done.");
    }
    // An empty list of servers means "/", but not to every generator.
    if spec.pointer("/servers/0").is_none() {
        spec["servers"] = json!([{ "url": "/" }]);
    }
    Ok(serde_json::to_string_pretty(&spec)?)
}

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
    let mut routes = Route::new().at("/", get(make_sync(|_| redirect("/docs"))));
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

fn redirect(to: &'static str) -> Response {
    Response::builder().status(StatusCode::TEMPORARY_REDIRECT).header(header::LOCATION, to).finish()
}

/// Takes the link to another host's fonts out of the page; the system's own are then used.
fn without_web_fonts(page: &str) -> String {
    match (page.find("<link href=\"https://fonts."), page) {
        (Some(begin), page) => match page[begin..].find('>') {
            Some(end) => format!("{}{}", &page[..begin], &page[begin + end + 1..]),
            None => page.to_owned(),
        },
        (None, page) => page.to_owned(),
    }
}

/// A text that never changes, made and compressed the first time that somebody asks for it so.
#[derive(Clone)]
struct Asset(Arc<Inner>);

struct Inner {
    content_type: &'static str,
    policy: Option<&'static str>,
    make: Box<dyn Fn() -> anyhow::Result<String> + Send + Sync>,
    text: OnceLock<Bytes>,
    gzip: OnceLock<Option<Bytes>>,
}

impl Asset {
    fn new(
        content_type: &'static str,
        policy: Option<&'static str>,
        make: impl Fn() -> anyhow::Result<String> + Send + Sync + 'static,
    ) -> Self {
        let (text, gzip) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Inner { content_type, policy, make: Box::new(make), text, gzip }))
    }

    fn endpoint(self) -> impl Endpoint<Output = Response> {
        make(move |req| {
            let asset = self.clone();
            async move { asset.respond(&req).await }
        })
    }

    async fn respond(&self, req: &Request) -> Result<Response> {
        let (inner, packed) = (&self.0, accepts_gzip(req));
        let mut response = match self.bytes(packed).await? {
            (bytes, true) => Response::builder().header(header::CONTENT_ENCODING, "gzip").body(bytes),
            (bytes, false) => Response::builder().body(bytes),
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(inner.content_type));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(policy) = inner.policy {
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        }
        Ok(response)
    }

    /// The text, and whether it is compressed. It takes a thread of its own a while the first time.
    async fn bytes(&self, packed: bool) -> Result<(Bytes, bool)> {
        let asset = self.clone();
        let make = move || {
            let text = asset.0.text()?;
            let gzip = if packed { asset.0.gzipped(text) } else { None };
            Ok((gzip.unwrap_or(text).clone(), gzip.is_some()))
        };
        let made = if packed { self.0.gzip.get().is_some() } else { self.0.text.get().is_some() };
        if made { make() } else { tokio::task::spawn_blocking(make).await.map_err(Error::internal)? }
    }
}

impl Inner {
    fn text(&self) -> Result<&Bytes> {
        match self.text.get() {
            Some(text) => Ok(text),
            None => {
                let made =
                    (self.make)().map_err(|error| Error::internal(error.context("cannot be documented")))?;
                Ok(self.text.get_or_init(|| made.into()))
            }
        }
    }

    fn gzipped(&self, text: &[u8]) -> Option<&Bytes> {
        self.gzip.get_or_init(|| gzip(text).map(Bytes::from)).as_ref()
    }
}
