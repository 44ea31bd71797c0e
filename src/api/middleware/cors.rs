//! CORS (Fetch standard, section "CORS protocol").
//!
//! poem's own middleware refuses requests from unlisted origins, including those of this server's documentation pages.
//! According to the standard, the server only omits the headers, and the browser enforces the policy.

use std::collections::HashSet;

use poem::{
    Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
};

/// Methods that a page of an allowed origin may use.
const ALLOWED_METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
/// Request headers that a page of an allowed origin may send, besides the CORS-safelisted headers. They include the
/// headers of W3C Trace Context, W3C Baggage and Sentry, which tracing libraries add to requests.
const ALLOWED_HEADERS: &str = "authorization, baggage, content-type, idempotency-key, if-match, if-none-match, \
    sentry-trace, traceparent, tracestate, x-request-id";
/// Response headers that a page of an allowed origin may read, besides the CORS-safelisted headers.
const EXPOSED_HEADERS: &str = "etag, idempotency-replayed, link, location, ratelimit, ratelimit-policy, \
    retry-after, www-authenticate, x-request-id";
/// Seconds for which a browser may cache the response to a preflight.
const MAX_AGE_SECONDS: &str = "600";

/// Responds to preflight requests, and allows pages of the listed origins to read responses.
pub(super) struct Cors {
    /// The allowed origins, in lower case.
    pub(super) origins: HashSet<String>,
}

impl Cors {
    fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.contains(&origin.to_ascii_lowercase()))
    }

    /// Returns the response to a preflight request. `None` for any other request.
    pub(super) fn preflight(&self, req: &Request) -> Option<Response> {
        let has = |name| req.headers().contains_key(name);
        if req.method() != Method::OPTIONS
            || !has(header::ORIGIN)
            || !has(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let response = Response::builder().status(StatusCode::NO_CONTENT);
        Some(match req.headers().get(header::ORIGIN).is_some_and(|origin| self.allows(origin)) {
            true => response
                .header(header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS)
                .header(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS)
                .header(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS)
                .finish(),
            false => response.finish(),
        })
    }

    /// Adds `Vary: origin`, and for a listed origin the headers that allow its pages to read the response. `origin` is the
    /// header `Origin` of the request.
    pub(super) fn decorate(&self, response: &mut Response, origin: Option<&HeaderValue>) {
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            let exposed = HeaderValue::from_static(EXPOSED_HEADERS);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}
