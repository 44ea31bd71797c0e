//! The one place where errors become HTTP: `application/problem+json` (RFC 9457), ours and the framework's alike.

mod location;
mod status;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use poem::{
    IntoResponse, PathPattern, Response,
    error::{MethodNotAllowedError, NotFoundError, ReadBodyError, ResponseError},
    http::{HeaderValue, Method, StatusCode, Uri, header},
};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    error::{
        AuthorizationError, ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError,
    },
    registry::{MetaMediaType, MetaOperation, MetaResponse, MetaResponses, Registry},
    types::{Example, ToJSON, Type},
};
use serde_json::Value;

pub(super) use location::InRequest;

use super::extract::check_params;
use crate::{
    error::{Error, FieldError, Loc},
    telemetry::chain,
};

/// What went wrong.
#[derive(Object)]
#[oai(skip_serializing_if_is_none, example)]
pub struct Problem {
    /// `about:blank`: the status says what kind it is (RFC 9457 section 4.2.1).
    #[oai(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    /// For people.
    detail: String,
    /// For programs; does not change.
    code: String,
    /// Quote it when you ask for help.
    request_id: String,
    /// Every field that is invalid.
    errors: Option<Vec<ProblemField>>,
}

impl Example for Problem {
    fn example() -> Self {
        let message = "This is not a valid email address; it looks like name@example.com";
        let field = FieldError {
            loc: vec![Loc::Key("body".into()), Loc::Key("email".into())],
            msg: message.into(),
            kind: "value_error",
        };
        let error = Error::Invalid(vec![field]);
        Self {
            kind: "about:blank".into(),
            title: "Unprocessable Entity".into(),
            status: 422,
            detail: error.to_string(),
            code: error.code().into(),
            request_id: "01a203c5-1357-763a-a32d-0c63a944ff19".into(),
            errors: match error {
                Error::Invalid(fields) => Some(fields.into_iter().map(Into::into).collect()),
                _ => None,
            },
        }
    }
}

/// One invalid field.
#[derive(Object)]
pub struct ProblemField {
    /// The way to the field, such as `["body", "email"]`.
    loc: Vec<Value>,
    msg: String,
    #[oai(rename = "type")]
    kind: String,
}

impl From<FieldError> for ProblemField {
    fn from(error: FieldError) -> Self {
        let step = |step| match step {
            Loc::Key(key) => Value::from(key),
            Loc::Index(index) => Value::from(index),
        };
        Self { loc: error.loc.into_iter().map(step).collect(), msg: error.msg, kind: error.kind.into() }
    }
}

/// Documents one `default` response for every operation that can fail.
impl ApiResponse for Error {
    fn meta() -> MetaResponses {
        let body = MetaMediaType { content_type: "application/problem+json", schema: Problem::schema_ref() };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "What went wrong, as problem details (RFC 9457)",
                status: None,
                status_range: None,
                content: vec![body],
                headers: vec![],
            }],
        }
    }

    fn register(registry: &mut Registry) {
        Problem::register(registry);
    }
}

/// The operations as documented, to say of a refused request what exactly was wrong with it.
pub(super) struct RouteCatalog {
    /// By their paths, the names of parameters left out.
    paths: HashMap<String, Documented>,
    registry: Registry,
}

struct Documented {
    /// With the names of its parameters, as in `/jobs/{id}/status`.
    path: Arc<str>,
    operations: Vec<MetaOperation>,
}

/// The request that failed.
pub(super) struct FailedRequest<'a> {
    pub(super) id: &'a str,
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
}

impl RouteCatalog {
    pub(super) fn of<A: OpenApi>(_: &A, prefix: &str) -> Self {
        let mut registry = Registry::new();
        A::register(&mut registry);
        let mut paths = HashMap::<_, Documented>::new();
        for path in A::meta().into_iter().flat_map(|api| api.paths) {
            let named = format!("{prefix}{}", path.path);
            let documented = paths.entry(without_names(&named));
            let documented = documented.or_insert(Documented { path: named.into(), operations: Vec::new() });
            documented.operations.extend(path.operations);
        }
        Self { paths, registry }
    }

    /// The documented path behind the router's pattern, which has its own names for parameters.
    pub(super) fn path(&self, pattern: &str) -> Option<Arc<str>> {
        self.find(pattern).map(|documented| documented.path.clone())
    }

    fn find(&self, pattern: &str) -> Option<&Documented> {
        self.paths.get(&without_names(pattern))
    }

    /// The answer to a request that failed.
    pub(super) fn render(&self, error: poem::Error, request: &FailedRequest<'_>) -> Response {
        let pattern = error.data::<PathPattern>().map(|pattern| pattern.0.clone());
        let documented = pattern.as_deref().and_then(|pattern| self.find(pattern));
        let mut allow = None;
        let (status, code, detail, fields) = if let Some(ours) = error.downcast_ref::<Error>() {
            log(ours);
            let fields = if let Error::Invalid(fields) = ours { fields.clone() } else { Vec::new() };
            let detail = match ours {
                // What is away and why is for the log.
                Error::Unavailable { what, .. } => format!("{what} is unavailable, try again in a moment"),
                other => other.to_string(),
            };
            (ours.status(), ours.code(), detail, fields)
        } else if error.is::<ParseParamError>() || error.is::<ParsePathError>() {
            let fields =
                documented.map_or_else(Vec::new, |documented| self.param_errors(documented, request));
            let detail = match fields.is_empty() {
                true => error.to_string(),
                false => Error::Invalid(fields.clone()).to_string(),
            };
            (StatusCode::UNPROCESSABLE_ENTITY, "validation_error", detail, fields)
        } else if error.is::<AuthorizationError>() {
            (
                StatusCode::UNAUTHORIZED,
                Error::NotAuthenticated.code(),
                Error::NotAuthenticated.to_string(),
                Vec::new(),
            )
        } else if error.is::<MethodNotAllowedError>() {
            allow = Some(documented.map_or_else(|| "GET, HEAD".to_owned(), allowed));
            (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method Not Allowed".into(), Vec::new())
        } else {
            let (status, code, detail) = framework(&error);
            (status, code, detail, Vec::new())
        };
        let problem = Problem {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            detail,
            code: code.into(),
            request_id: request.id.into(),
            errors: (!fields.is_empty()).then(|| fields.into_iter().map(Into::into).collect()),
        };
        let mut response = respond(status, &problem, allow);
        if let Some(Error::TooManyAttempts { retry_after }) = error.downcast_ref() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
        }
        response
    }

    fn param_errors(&self, documented: &Documented, request: &FailedRequest<'_>) -> Vec<FieldError> {
        let Some(operation) =
            documented.operations.iter().find(|operation| operation.method == *request.method)
        else {
            return Vec::new();
        };
        let query: Vec<_> =
            form_urlencoded::parse(request.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let steps = documented.path.split('/').zip(request.uri.path().split('/'));
        let path: Vec<_> = steps
            .filter_map(|(ours, value)| {
                let name = ours.strip_prefix('{')?.strip_suffix('}')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect();
        check_params(&self.registry, &operation.params, &query, &path)
    }
}

/// A path or a pattern of the router, with the places of its parameters alone: these have names of their own in each.
fn without_names(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len());
    for step in pattern.split('/').skip(1) {
        text.push('/');
        text.push_str(if step.starts_with([':', '{']) { ":" } else { step });
    }
    text
}

/// A failure is logged once, here; a client's mistake is not one.
fn log(error: &Error) {
    match error {
        Error::Internal(source) => tracing::error!(error = chain(&**source), "request failed"),
        Error::Unavailable { what, source } => {
            tracing::warn!(what, error = chain(&**source), "dependency unavailable")
        }
        _ => {}
    }
}

fn framework(error: &poem::Error) -> (StatusCode, &'static str, String) {
    let status = error.status();
    if error.is::<NotFoundError>() {
        return (status, "not_found", "Not Found".into());
    }
    if error.is::<ContentTypeError>() {
        return (status, "unsupported_media_type", error.to_string());
    }
    if error.is::<ParseRequestPayloadError>() || error.is::<ReadBodyError>() {
        return (status, "malformed", error.to_string());
    }
    if status.is_server_error() {
        tracing::error!(error = %error, "request failed");
        return (status, "internal_error", "Internal Server Error".into());
    }
    (status, "bad_request", error.to_string())
}

fn allowed(documented: &Documented) -> String {
    let methods: BTreeSet<_> =
        documented.operations.iter().map(|operation| operation.method.as_str()).collect();
    methods.into_iter().collect::<Vec<_>>().join(", ")
}

fn respond(status: StatusCode, problem: &Problem, allow: Option<String>) -> Response {
    let mut response = (status, problem.to_json_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6750 section 3.
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    response
}
