//! The default headers of responses, such as the security headers.

use poem::{
    Response,
    http::{HeaderName, HeaderValue, StatusCode, header},
};

use crate::{api::paths::api_path, app::App};

/// Value of `Retry-After`, in seconds, for responses with status 503.
const RETRY_AFTER: &str = "2";

/// Path prefix of the operations whose responses can contain the tokens of a session.
const AUTH_PREFIX: &str = api_path!("/auth/");

/// Value of `Permissions-Policy`: turns off browser features, because no page of this server uses them. The list is
/// not complete, because a browser logs an error for each feature that it does not know.
const PERMISSIONS_POLICY: &str = "accelerometer=(), autoplay=(), camera=(), display-capture=(), \
    encrypted-media=(), fullscreen=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), \
    payment=(), publickey-credentials-get=(), screen-wake-lock=(), usb=(), xr-spatial-tracking=()";

/// Sets the default headers of each response.
pub(super) struct DefaultHeaders {
    app: App,
    /// The security headers (OWASP REST Security Cheat Sheet, "Security Headers").
    ///
    /// `Cross-Origin-Resource-Policy` does not apply to CORS requests (Fetch standard, section
    /// "`Cross-Origin-Resource-Policy` header"). So pages of `BACKEND_CORS_ORIGINS` can read responses, but no page of
    /// another origin can load a response as an image or a script.
    security: Vec<(HeaderName, HeaderValue)>,
}

impl DefaultHeaders {
    /// Creates the headers. `https` says whether clients reach the API over TLS.
    pub(super) fn new(app: App, https: bool) -> Self {
        let header = |name, value| (name, HeaderValue::from_static(value));
        let mut security = vec![
            header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            header(header::X_FRAME_OPTIONS, "DENY"),
            header(header::REFERRER_POLICY, "no-referrer"),
            header(HeaderName::from_static("permissions-policy"), PERMISSIONS_POLICY),
            header(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            header(HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ];
        if https {
            let hsts = "max-age=31536000; includeSubDomains";
            security.push(header(header::STRICT_TRANSPORT_SECURITY, hsts));
        }
        Self { app, security }
    }

    /// Sets the headers of a response to a request for `path`.
    pub(super) fn set(&self, response: &mut Response, path: &str) {
        let status = response.status();
        let headers = response.headers_mut();
        // Reserves space for most of these headers at once.
        headers.reserve(12);
        // Closes the connection during a shutdown, so that load balancers open the next one to another replica.
        if self.app.is_stopping() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        // RFC 6749 section 5.1 requires this header for responses with tokens.
        if path.starts_with(AUTH_PREFIX) {
            headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        }
        // `or_insert` keeps the values that pages and the API document have set.
        let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        for (name, value) in &self.security {
            headers.insert(name, value.clone());
        }
    }
}
