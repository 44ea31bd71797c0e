//! CORS (Fetch standard, section 3.2).
//!
//! poem's middleware refuses a request from an origin that is not listed, which would also refuse the API's own
//! documentation page; the standard leaves it to the browser, by not granting anything.

use std::collections::HashSet;

use poem::{
    Endpoint, Request, Response, Result,
    http::{HeaderValue, Method, StatusCode, header},
};

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
const HEADERS: &str = "authorization, content-type, x-request-id";
/// What a page may read of an answer's headers.
const EXPOSED: &str = "x-request-id, retry-after";
/// Seconds that a browser may remember a preflight.
const MAX_AGE: &str = "600";

/// Answers preflight requests, and lets the pages of the allowed origins read responses.
pub(super) struct Cors<E> {
    pub(super) inner: E,
    /// In lower case.
    pub(super) origins: HashSet<String>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Cors<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let origin = req.headers().get(header::ORIGIN).cloned();
        let mut response = match self.preflight(&req) {
            Some(response) => response,
            None => self.inner.call(req).await?,
        };
        self.decorate(&mut response, origin.as_ref());
        Ok(response)
    }
}

impl<E> Cors<E> {
    fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.contains(&origin.to_ascii_lowercase()))
    }

    /// The response, if the request is a preflight.
    fn preflight(&self, req: &Request) -> Option<Response> {
        let asks = |name| req.headers().contains_key(name);
        if req.method() != Method::OPTIONS
            || !asks(header::ORIGIN)
            || !asks(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let response = Response::builder().status(StatusCode::NO_CONTENT);
        Some(match req.headers().get(header::ORIGIN).is_some_and(|origin| self.allows(origin)) {
            true => response
                .header(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS)
                .header(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS)
                .header(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE)
                .finish(),
            false => response.finish(),
        })
    }

    /// Lets the page of an allowed origin read the response.
    fn decorate(&self, response: &mut Response, origin: Option<&HeaderValue>) {
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}
