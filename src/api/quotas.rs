//! Rate limits of requests: which caller a request is charged to, and the headers of its response.
//!
//! Each request below `/api/v1` is charged at most once:
//!
//! - to the user or the API key, by the extractor that authenticates the caller;
//! - to the client's network, by the extractor `RequestContext` of operations without authentication;
//! - to the client's network, if no extractor has charged the request before it ends, for example because of an invalid
//!   token or an unknown path. If the network has no requests left, 429 replaces the error.
//!
//! So a client that guesses tokens does not use up the limit of a user.
//!
//! Health checks are not charged, nor are `OPTIONS` requests outside of `/auth`, `/invitations` and `/secret-scanning`. A
//! request is not charged either if it fails with a server error before an extractor has charged it, or if the middleware
//! answers it before the handler: CORS preflights, requests that hyper refuses, and requests for an invalid or unknown host.
//!
//! [`class_of`] alone decides which limit applies to an operation.

use std::{
    io::Write,
    sync::{Arc, OnceLock},
};

use poem::{
    PathPattern, Request, Response,
    http::{HeaderName, HeaderValue, Method},
};

use super::{
    paths::PREFIX,
    problem::{ApiError, Result},
};
use crate::{
    app::App,
    config::RequestLimits,
    context::RequestContext,
    rate_limits::{Caller, Class, Decision, Limit},
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Size of the buffer for the value of the header `RateLimit`. No value is longer.
const MAX_HEADER_VALUE_BYTES: usize = 64;

/// The rate limits of all classes of requests.
pub(super) struct Quotas {
    app: App,
    /// Whether the server ignores the header `X-Forwarded-For`, because `TRUSTED_PROXIES` is 0.
    ignores_proxies: bool,
    auth: Quota,
    read: Quota,
    write: Quota,
    enqueue: Quota,
}

/// The rate limit of one class of requests.
struct Quota {
    limit: Limit,
    /// The value of the header `RateLimit-Policy`.
    policy: HeaderValue,
}

impl Quota {
    fn new(class: Class, per_minute: u32) -> anyhow::Result<Self> {
        let policy = format!("\"{}\";q={per_minute};w=60", class.as_str());
        Ok(Self { limit: Limit::per_minute(per_minute), policy: policy.try_into()? })
    }
}

impl Quotas {
    /// Creates the limits from the settings. `None` if rate limits are turned off.
    ///
    /// # Errors
    /// If a policy is not a valid header value. No setting can cause this.
    pub(super) fn new(
        app: &App,
        settings: &RequestLimits,
        trusted_proxies: u8,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        if !settings.rate_limits {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self {
            app: app.clone(),
            ignores_proxies: trusted_proxies == 0,
            auth: Quota::new(Class::Auth, settings.rate_limit_auth_per_minute)?,
            read: Quota::new(Class::Read, settings.rate_limit_read_per_minute)?,
            write: Quota::new(Class::Write, settings.rate_limit_write_per_minute)?,
            enqueue: Quota::new(Class::Enqueue, settings.rate_limit_enqueue_per_minute)?,
        })))
    }

    fn of(&self, class: Class) -> &Quota {
        match class {
            Class::Auth => &self.auth,
            Class::Read => &self.read,
            Class::Write => &self.write,
            Class::Enqueue => &self.enqueue,
        }
    }
}

/// Returns the class of a request by its method and its normalized path. `None` if the request is not limited.
fn class_of(method: &Method, path: &str) -> Option<Class> {
    let mut steps = path.strip_prefix(PREFIX)?.strip_prefix('/')?.split('/');
    let resource = match steps.next()? {
        "health" => return None,
        // Most of these requests need no account. With them, a client could guess passwords, tokens or API keys.
        "auth" | "invitations" | "secret-scanning" => return Some(Class::Auth),
        // `/orgs/{org}/jobs` has the class of `/jobs`.
        "orgs" => steps.nth(1).unwrap_or("orgs"),
        resource => resource,
    };
    match *method {
        Method::OPTIONS => None,
        Method::GET | Method::HEAD => Some(Class::Read),
        Method::POST if resource == "jobs" || path.ends_with("/import") => Some(Class::Enqueue),
        _ => Some(Class::Write),
    }
}

/// Returns whether the operations of a documented path are limited.
pub(super) fn is_limited(path: &str) -> bool {
    class_of(&Method::GET, path).is_some()
}

/// Charges a request to a caller, unless it is already charged.
///
/// # Errors
/// [`ApiError::RateLimited`] if the caller has no requests of this class left.
pub(super) fn charge(request: &Request, caller: Caller) -> Result<()> {
    request.data::<Charge>().map_or(Ok(()), |charge| charge.take(caller))
}

/// The charge of a request to a caller, and the decision about it. Clones share the same charge.
#[derive(Clone)]
pub(super) struct Charge(Arc<Inner>);

struct Inner {
    quotas: Arc<Quotas>,
    class: Class,
    /// The client's network: the caller of a request that is not authenticated.
    network: Caller,
    /// Whether the client's IP address is probably the address of a proxy: the request has the header `X-Forwarded-For`, but
    /// `TRUSTED_PROXIES` is 0.
    has_unknown_proxy: bool,
    /// Whether the request is allowed; empty until it is charged.
    decision: OnceLock<Decision>,
}

impl Charge {
    /// Attaches the charge to a request, for the extractors. `None` if the request is not limited.
    pub(super) fn attach(quotas: &Arc<Quotas>, req: &mut Request, context: &RequestContext) -> Option<Self> {
        let charge = Self(Arc::new(Inner {
            class: class_of(req.method(), req.uri().path())?,
            network: Caller::network(context.ip),
            has_unknown_proxy: quotas.ignores_proxies && req.headers().contains_key(FORWARDED_FOR),
            quotas: quotas.clone(),
            decision: OnceLock::new(),
        }));
        req.set_data(charge.clone());
        Some(charge)
    }

    fn take(&self, caller: Caller) -> Result<()> {
        let Inner { quotas, class, .. } = &*self.0;
        let count = || quotas.app.rate_limits.take(caller, *class, quotas.of(*class).limit);
        let decision = self.0.decision.get_or_init(count);
        if decision.is_allowed {
            return Ok(());
        }
        if decision.is_reported && self.0.has_unknown_proxy && matches!(caller, Caller::Network(_)) {
            tracing::warn!(
                "a rate limit refuses requests with the header X-Forwarded-For: if a proxy is in front, set \
                 TRUSTED_PROXIES, or all clients count as one"
            );
        }
        let (retry_after, is_reported) = (decision.reset_seconds, decision.is_reported);
        Err(ApiError::RateLimited { class: *class, retry_after, is_reported })
    }

    /// Charges the client's network for a request that no extractor has charged. Does nothing after a server error.
    ///
    /// # Errors
    /// The error in `result`, or [`ApiError::RateLimited`] instead of this error if the network has no requests left.
    pub(super) fn close(&self, result: poem::Result<Response>) -> poem::Result<Response> {
        let is_server_error = result.as_ref().is_err_and(|error| error.status().is_server_error());
        if self.0.decision.get().is_some() || is_server_error {
            return result;
        }
        match (self.take(self.0.network), result) {
            (Err(refusal), Err(error)) => {
                let mut refusal = poem::Error::from(refusal);
                // The access log reads the route from the error.
                if let Some(pattern) = error.data::<PathPattern>() {
                    refusal.set_data(pattern.clone());
                }
                Err(refusal)
            }
            // If the operation has succeeded, the request cannot be refused any more.
            (_, result) => result,
        }
    }

    /// Adds the headers `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers, version 10).
    pub(super) fn add_headers(&self, response: &mut Response) {
        let Inner { quotas, class, decision, .. } = &*self.0;
        let Some(Decision { remaining, reset_seconds, .. }) = decision.get() else { return };
        let headers = response.headers_mut();
        headers.insert(RATE_LIMIT_POLICY, quotas.of(*class).policy.clone());
        let mut value = [0; MAX_HEADER_VALUE_BYTES];
        let mut rest = &mut value[..];
        let written = write!(rest, "\"{}\";r={remaining};t={reset_seconds}", class.as_str());
        let length = MAX_HEADER_VALUE_BYTES - rest.len();
        if let (Ok(()), Ok(value)) = (written, HeaderValue::from_bytes(&value[..length])) {
            headers.insert(RATE_LIMIT, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_follows_from_the_method_and_the_path() {
        use Class::{Auth, Enqueue, Read, Write};
        for (method, path, class) in [
            (Method::POST, "/api/v1/auth/login", Some(Auth)),
            (Method::GET, "/api/v1/auth/unknown", Some(Auth)),
            (Method::POST, "/api/v1/invitations/register", Some(Auth)),
            (Method::POST, "/api/v1/secret-scanning/revoke", Some(Auth)),
            (Method::POST, "/api/v1/orgs/7/invitations", Some(Write)),
            (Method::GET, "/api/v1/users/me/invitations", Some(Read)),
            (Method::GET, "/api/v1/users/me", Some(Read)),
            (Method::HEAD, "/api/v1/users/me", Some(Read)),
            (Method::PATCH, "/api/v1/users/me", Some(Write)),
            (Method::from_bytes(b"BREW").unwrap(), "/api/v1/users/me", Some(Write)),
            (Method::POST, "/api/v1/jobs/example", Some(Enqueue)),
            (Method::GET, "/api/v1/jobs/1/status", Some(Read)),
            (Method::DELETE, "/api/v1/jobs/1", Some(Write)),
            (Method::POST, "/api/v1/admin/jobs/1/requeue", Some(Write)),
            (Method::POST, "/api/v1/orgs", Some(Write)),
            (Method::POST, "/api/v1/orgs/7/products", Some(Write)),
            (Method::POST, "/api/v1/orgs/7/jobs", Some(Enqueue)),
            (Method::POST, "/api/v1/orgs/7/products/import", Some(Enqueue)),
            (Method::GET, "/api/v1/orgs/7/products/import", Some(Read)),
            (Method::GET, "/api/v1/healthy", Some(Read)),
            (Method::GET, "/api/v1/nothing", Some(Read)),
            (Method::GET, "/api/v1/health", None),
            (Method::GET, "/api/v1/health/ready", None),
            (Method::OPTIONS, "/api/v1/users/me", None),
            (Method::GET, "/api/v10/users/me", None),
            (Method::GET, "/docs", None),
            (Method::POST, "/account/reset-password", None),
        ] {
            assert_eq!(class_of(&method, path), class, "{method} {path}");
        }
    }
}
