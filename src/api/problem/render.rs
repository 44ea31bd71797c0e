use std::sync::Arc;

use poem::{
    IntoResponse, PathPattern, Response,
    error::{MethodNotAllowedError, NotFoundError, ReadBodyError, ResponseError},
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{
    error::{
        AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
    },
    types::ToJSON,
};

use super::{
    catalog::{DocumentedPath, FailedRequest, RouteCatalog},
    contract::Problem,
    error::ApiError,
    oauth,
};
use crate::{
    error::{Error, FieldError, Loc, chain},
    services::login::Challenge,
};

/// Value of `WWW-Authenticate` if the server refuses a token from the header or from a cookie (RFC 6750 section 3.1).
const REFUSED_TOKEN: &str =
    "Bearer error=\"invalid_token\", error_description=\"The token is invalid, expired or revoked\"";

/// Value of `Retry-After` while another request with the same `Idempotency-Key` is in progress. Most requests take less
/// time.
const KEY_IN_USE_RETRY_AFTER_SECONDS: u64 = 1;

/// Maximum number of invalid fields that the access log contains.
const MAX_LOGGED_FIELDS: usize = 3;

/// Returns the response to a request that failed.
pub fn render(error: &poem::Error, request: &FailedRequest<'_>, catalog: &RouteCatalog) -> Response {
    let pattern = error.data::<PathPattern>();
    let documented = pattern.and_then(|pattern| catalog.find(&pattern.0));
    let failure = match error.downcast_ref::<ApiError>() {
        Some(ours) => Failure::from_api_error(ours, request, documented),
        None => Failure::from_poem_error(error, request, documented, catalog),
    };
    // Errors that occur before the routing have no documented path.
    let path = documented.map_or(request.uri.path(), DocumentedPath::path);
    failure.into_response(request.id, oauth::is_token_endpoint(path))
}

/// The reason why a request failed. It is attached to the response, for the access log.
#[derive(Clone)]
pub struct Reason {
    pub code: &'static str,
    /// The first invalid fields, such as `body.email,body.password`, and the number of further fields. `None` if no field is
    /// invalid.
    pub fields: Option<Arc<str>>,
}

impl Reason {
    fn new(code: &'static str, fields: &[FieldError]) -> Self {
        let mut names: Vec<_> = fields.iter().take(MAX_LOGGED_FIELDS).map(FieldError::path).collect();
        if fields.len() > MAX_LOGGED_FIELDS {
            names.push(format!("+{}", fields.len() - MAX_LOGGED_FIELDS));
        }
        Self { code, fields: (!names.is_empty()).then(|| names.join(",").into()) }
    }
}

/// The parts of an error response.
struct Failure {
    status: StatusCode,
    code: &'static str,
    detail: String,
    fields: Vec<FieldError>,
    challenge: Option<Challenge>,
    /// An additional header, such as `Retry-After`.
    header: Option<(header::HeaderName, HeaderValue)>,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), fields: Vec::new(), challenge: None, header: None }
    }

    fn invalid(fields: Vec<FieldError>) -> Self {
        let error = ApiError::InvalidFields(fields.clone());
        Self { fields, ..Self::new(error.status(), error.code(), error.to_string()) }
    }

    /// Converts an error of this program.
    fn from_api_error(
        error: &ApiError,
        request: &FailedRequest<'_>,
        documented: Option<&DocumentedPath>,
    ) -> Self {
        let detail = match error {
            ApiError::InvalidFields(fields) => return Self::invalid(fields.clone()),
            ApiError::Domain(Error::Invalid(fields)) => {
                let located = |field: &FieldError| {
                    let root = documented.map_or("body", |path| path.root_of(request.method, &field.loc));
                    let loc = std::iter::once(Loc::Key(root.into())).chain(field.loc.clone());
                    FieldError { loc: loc.collect(), ..field.clone() }
                };
                return Self::invalid(fields.iter().map(located).collect());
            }
            // Only the log contains the cause.
            ApiError::Domain(Error::Unavailable { what, .. }) => {
                format!("{what} is unavailable, try again in a moment")
            }
            // The job contains the body of the request, so the client gets the error for a body that is too large.
            ApiError::Domain(Error::JobTooLarge { limit }) => {
                ApiError::BodyTooLarge { limit: *limit }.to_string()
            }
            other => other.to_string(),
        };
        log(error);
        let header = match error {
            ApiError::RateLimited { retry_after, .. }
            | ApiError::Domain(
                Error::TooManyAttempts { retry_after } | Error::TooManyJobs { retry_after, .. },
            ) => Some((header::RETRY_AFTER, HeaderValue::from(*retry_after))),
            ApiError::Domain(Error::IdempotencyKeyInUse) => {
                Some((header::RETRY_AFTER, HeaderValue::from(KEY_IN_USE_RETRY_AFTER_SECONDS)))
            }
            // The challenge for a missing scope (RFC 6750 section 3.1).
            ApiError::Domain(Error::ScopeMissing(scope)) => {
                let value = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
                HeaderValue::from_str(&value).ok().map(|value| (header::WWW_AUTHENTICATE, value))
            }
            // Tells the client which encoding to use (RFC 9110 section 12.5.3).
            ApiError::UnsupportedEncoding => {
                Some((header::ACCEPT_ENCODING, HeaderValue::from_static("identity")))
            }
            _ => None,
        };
        let challenge = match error {
            ApiError::SecondFactorRequired(challenge) => Some(challenge.clone()),
            _ => None,
        };
        Self { header, challenge, ..Self::new(error.status(), error.code(), detail) }
    }

    /// Converts an error of poem.
    fn from_poem_error(
        error: &poem::Error,
        request: &FailedRequest<'_>,
        documented: Option<&DocumentedPath>,
        catalog: &RouteCatalog,
    ) -> Self {
        let status = error.status();
        if error.is::<ParseParamError>() || error.is::<ParsePathError>() {
            let fields = documented.map_or_else(Vec::new, |path| catalog.param_errors(path, request));
            return match fields.is_empty() {
                true => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", error.to_string()),
                false => Self::invalid(fields),
            };
        }
        if error.is::<AuthorizationError>() {
            return Self::from_api_error(&ApiError::NotAuthenticated, request, documented);
        }
        if error.is::<MethodNotAllowedError>() {
            let allow = documented.map_or_else(|| "GET, HEAD".to_owned(), DocumentedPath::allowed);
            let header = HeaderValue::from_str(&allow).ok().map(|allow| (header::ALLOW, allow));
            let failure =
                Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method Not Allowed");
            return Self { header, ..failure };
        }
        if error.is::<NotFoundError>() {
            return Self::new(status, "not_found", "Not Found");
        }
        if error.is::<ContentTypeError>() {
            return Self::new(status, "unsupported_media_type", error.to_string());
        }
        if error.is::<ParseRequestPayloadError>() || error.is::<ReadBodyError>() {
            return Self::new(status, "malformed", error.to_string());
        }
        if status.is_server_error() {
            tracing::error!(error = %error, "request failed");
            return Self::new(status, "internal_error", "Internal Server Error");
        }
        Self::new(status, "bad_request", error.to_string())
    }

    fn into_response(self, request_id: &str, is_token_endpoint: bool) -> Response {
        let reason = Reason::new(self.code, &self.fields);
        let mut problem = Problem::new(self.status, self.code, self.detail, request_id, self.fields);
        if is_token_endpoint {
            problem = problem.with_oauth_error(oauth::error_code(self.status, self.code));
        }
        if let Some(challenge) = self.challenge {
            problem = problem.with_challenge(challenge);
        }
        let mut response = (self.status, problem.to_json_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            // A request to a token endpoint has no access token that could be refused.
            let is_refused = self.code == "invalid_token" && !is_token_endpoint;
            let value = if is_refused { REFUSED_TOKEN } else { "Bearer" };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        headers.extend(self.header);
        response.set_data(reason);
        response
    }
}

/// Logs internal errors and unavailable dependencies with their causes, which the access log does not contain.
fn log(error: &ApiError) {
    match error {
        ApiError::Domain(Error::Internal(source)) => {
            tracing::error!(error = chain(&**source), "request failed")
        }
        ApiError::Domain(Error::Unavailable { what, source }) => {
            tracing::warn!(what, error = chain(&**source), "dependency unavailable")
        }
        _ => {}
    }
}
