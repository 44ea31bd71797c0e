//! Headers that every response has.

use poem::{
    Endpoint, Request, Response, Result,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::SetHeader,
};

use crate::{api::paths::api_path, app::App};

/// Value of `Retry-After`, in seconds, if a dependency is unavailable.
const RETRY_AFTER: &str = "2";

/// The prefix of the operations whose responses can have tokens.
const AUTH_PREFIX: &str = api_path!("/auth/");

/// Turns off the powerful features of browsers, which no page of this server uses. Features that only some browsers know
/// are left out, since the others log an error for each.
const PERMISSIONS: &str = "accelerometer=(), autoplay=(), camera=(), display-capture=(), encrypted-media=(), \
    fullscreen=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), \
    publickey-credentials-get=(), screen-wake-lock=(), usb=(), xr-spatial-tracking=()";

/// Returns the security headers (OWASP REST Security Cheat Sheet, "Security Headers").
///
/// `Cross-Origin-Resource-Policy` does not apply to CORS requests (Fetch standard, section 3.7). So the pages of
/// `BACKEND_CORS_ORIGINS` can read responses, and no page can load one as an image or a script.
pub(super) fn security(https: bool) -> SetHeader {
    let headers = SetHeader::new()
        .overriding(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .overriding(header::X_FRAME_OPTIONS, "DENY")
        .overriding(header::REFERRER_POLICY, "no-referrer")
        .overriding(HeaderName::from_static("permissions-policy"), PERMISSIONS)
        .overriding(HeaderName::from_static("cross-origin-opener-policy"), "same-origin")
        .overriding(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if https {
        headers.overriding(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains")
    } else {
        headers
    }
}

/// Sets the headers that depend on the response or on the state of the process.
pub(super) struct DefaultHeaders<E> {
    pub(super) inner: E,
    pub(super) app: App,
}

impl<E: Endpoint<Output = Response>> Endpoint for DefaultHeaders<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let may_have_tokens = req.uri().path().starts_with(AUTH_PREFIX);
        let mut response = self.inner.call(req).await?;
        let status = response.status();
        let headers = response.headers_mut();
        // One allocation for these headers, the security headers and the request id.
        headers.reserve(12);
        // During the shutdown, clients and load balancers must open their next connection to another replica.
        if self.app.is_stopping() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        // RFC 6749 section 5.1.
        if may_have_tokens {
            headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        }
        // Pages and the API document set their own values.
        let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        Ok(response)
    }
}
