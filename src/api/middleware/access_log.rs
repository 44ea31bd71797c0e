//! The access log.

use std::sync::Arc;

use poem::{PathPattern, Response};

use super::Received;
use crate::{
    api::{
        extract::CallerIds,
        paths::{PREFIX, api_path},
        problem::{Reason, RouteCatalog},
    },
    context::trace_id,
};

/// Maximum number of characters of an unknown path in the log, before characters are escaped.
const MAX_PATH_CHARS: usize = 100;

/// The path of the health checks. Load balancers and orchestrators request it every few seconds.
const HEALTH_PATH: &str = api_path!("/health");

/// Writes one log line per response.
pub(super) struct AccessLog {
    pub(super) catalog: Arc<RouteCatalog>,
    /// Whether the line contains the client's IP address.
    pub(super) log_client_address: bool,
    /// Whether the line contains details for the developers of clients: the invalid fields, and a path that no route
    /// matches.
    pub(super) debug: bool,
}

/// Marks the response to a request that a page repeats automatically. If the request succeeds, its log line has the
/// level `debug`, like that of a health check.
#[derive(Clone)]
pub(in crate::api) struct RoutineRequest;

impl AccessLog {
    /// Writes the line of a request.
    pub(super) fn write(&self, request: &Received, response: &Response) {
        let Received { started, context, method, uri, .. } = request;
        let given_path = self.debug.then(|| printable_path(uri.path()));
        let (user, reason) = (request.user.get(), response.data::<Reason>());
        // Logs the route instead of the path, because the path may contain an id or a token.
        let path = self.documented_path(response.data::<PathPattern>());
        let path = path.as_deref().or(given_path.as_deref()).unwrap_or("-");
        let fields = reason.filter(|_| self.debug).and_then(|reason| reason.fields.as_deref());
        let client_address = context.ip.filter(|_| self.log_client_address);
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    method = method.as_str(),
                    path,
                    status = response.status().as_u16(),
                    code = reason.map(|reason| reason.code),
                    fields,
                    duration_ms = started.elapsed().as_micros() as f64 / 1_000.0,
                    client_address = client_address.map(tracing::field::display),
                    request_id = context.request_id.as_deref(),
                    client_request_id = context.client_request_id.as_deref(),
                    trace_id = context.trace.as_deref().and_then(trace_id),
                    user_id = user.map(CallerIds::user_id),
                    api_key_id = user.and_then(CallerIds::key_id),
                    "request"
                )
            };
        }
        let is_routine = response.data::<RoutineRequest>().is_some() || is_health_check(path);
        match is_routine && response.status().is_success() {
            true => log!(debug),
            false => log!(info),
        }
    }

    /// Returns the route in the notation of the OpenAPI document. `None` if no route matches. For an unknown path below
    /// `/account` or `/dev/mail`, returns this prefix.
    fn documented_path(&self, pattern: Option<&PathPattern>) -> Option<Arc<str>> {
        let PathPattern(pattern) = pattern.filter(|pattern| &*pattern.0 != PREFIX)?;
        Some(self.catalog.path(pattern).unwrap_or_else(|| openapi_path(pattern).into()))
    }
}

/// Returns whether a route is one of the health checks.
fn is_health_check(path: &str) -> bool {
    path.strip_prefix(HEALTH_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Converts a pattern of the router to the notation of the OpenAPI document: `/dev/mail/:id` to `/dev/mail/{id}`.
fn openapi_path(pattern: &str) -> String {
    let steps = pattern.trim_end_matches('/').split('/').map(|step| match step.strip_prefix(':') {
        Some(name) => format!("{{{name}}}"),
        None => step.to_owned(),
    });
    steps.collect::<Vec<_>>().join("/")
}

/// Returns the path of a request, shortened to [`MAX_PATH_CHARS`]. Control characters, quotes and backslashes are escaped.
fn printable_path(path: &str) -> String {
    path.chars().take(MAX_PATH_CHARS).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_the_router_are_logged_as_in_the_document() {
        for (pattern, path) in [
            ("/dev/mail/:id", "/dev/mail/{id}"),
            ("/dev/mail/", "/dev/mail"),
            ("/account/verify-email", "/account/verify-email"),
        ] {
            assert_eq!(openapi_path(pattern), path);
        }
    }

    #[test]
    fn health_checks_are_recognized_by_their_path() {
        for (path, expected) in [
            ("/api/v1/health", true),
            ("/api/v1/health/ready", true),
            ("/api/v1/healthy", false),
            ("/api/v1/users/me", false),
            ("-", false),
        ] {
            assert_eq!(is_health_check(path), expected, "{path}");
        }
    }

    #[test]
    fn an_unknown_path_is_shortened_and_escaped() {
        assert_eq!(printable_path("/users/m\x1bé"), "/users/m\\u{1b}é");
        assert_eq!(printable_path(&"/x".repeat(999)).len(), MAX_PATH_CHARS);
    }
}
