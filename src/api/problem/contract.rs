//! The JSON representation of errors, which is part of the OpenAPI document.

use std::borrow::Cow;

use poem::{error::ResponseError, http::StatusCode};
use poem_openapi::{
    ApiResponse, Object,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::{Example, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde_json::Value;

use super::{error::ApiError, oauth};
use crate::{
    api::validation::limit_errors,
    error::{FieldError, Loc, MAX_NAME_CHARS, shortened},
    services::login::Challenge,
};

// Errors repeat parts of the request. These limits keep the response small even for a large request.
const MAX_DETAIL_CHARS: usize = 600;
const MAX_MSG_CHARS: usize = 200;
/// Maximum number of steps in the path to a field.
const MAX_LOC_STEPS: usize = 8;

/// Problem details (RFC 9457).
#[derive(Object)]
#[oai(skip_serializing_if_is_none, example)]
pub struct Problem {
    /// Always `about:blank`: the problem has no type besides its status (RFC 9457 section 4.2.1).
    #[oai(rename = "type")]
    kind: String,
    /// The name of the status in IANA's registry of HTTP status codes.
    title: String,
    /// The status of the response.
    status: u16,
    /// A message for people; it may change.
    detail: String,
    /// A stable code for programs.
    code: String,
    /// Id of the request: its header `X-Request-Id` if that is valid, else an id from the server. Include it in support requests.
    request_id: String,
    /// The invalid fields, up to 50; if there are more, the last entry has the type `too_many_errors`. Absent if the problem
    /// is not about fields.
    errors: Option<Vec<ProblemField>>,
    /// The OAuth2 code of the error (RFC 6749 section 5.2). Only `/auth/login` and `/auth/refresh` have it.
    error: Option<String>,
    /// `detail`, in the characters that RFC 6749 permits. Present if `error` is.
    error_description: Option<String>,
    /// Send it with a code of the second factor to `POST /auth/login/two-factor`. Present only if a sign-in needs such a code;
    /// `code` is `two_factor_required` then.
    challenge_token: Option<String>,
    /// Lifetime of the challenge in seconds. Present if `challenge_token` is.
    expires_in: Option<u64>,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &str,
        detail: String,
        request_id: &str,
        fields: Vec<FieldError>,
    ) -> Self {
        let fields: Vec<_> = limit_errors(fields).into_iter().map(Into::into).collect();
        Self {
            kind: "about:blank".into(),
            title: title(status).into(),
            status: status.as_u16(),
            detail: shortened(&detail, MAX_DETAIL_CHARS),
            code: code.into(),
            request_id: request_id.into(),
            errors: (!fields.is_empty()).then_some(fields),
            error: None,
            error_description: None,
            challenge_token: None,
            expires_in: None,
        }
    }

    /// Adds the fields `error` and `error_description` (RFC 6749 section 5.2).
    pub(super) fn with_oauth_error(self, error: &str) -> Self {
        let error_description = Some(oauth::description(&self.detail));
        Self { error: Some(error.into()), error_description, ..self }
    }

    /// Adds the challenge. The client sends it back together with a code of the second factor.
    pub(super) fn with_challenge(self, challenge: Challenge) -> Self {
        Self { challenge_token: Some(challenge.token), expires_in: Some(challenge.expires_in), ..self }
    }
}

/// Returns the name of a status in IANA's registry of HTTP status codes. The `http` crate has outdated names for two of the
/// statuses in RFC 9110 section 15.
fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        StatusCode::UNPROCESSABLE_ENTITY => "Unprocessable Content",
        _ => status.canonical_reason().unwrap_or_default(),
    }
}

impl Example for Problem {
    fn example() -> Self {
        let field = FieldError {
            loc: vec![Loc::Key("body".into()), Loc::Key("email".into())],
            msg: "This is not a valid email address; it looks like name@example.com".into(),
            kind: "value_error",
        };
        let error = ApiError::InvalidFields(vec![field.clone()]);
        let request_id = "01a203c5-1357-763a-a32d-0c63a944ff19";
        Self::new(error.status(), error.code(), error.to_string(), request_id, vec![field])
    }
}

/// An invalid field.
#[derive(Object)]
pub struct ProblemField {
    /// The path of the field, such as `["body", "email"]`.
    loc: Vec<Step>,
    /// A message for people.
    msg: String,
    /// A stable code for programs.
    #[oai(rename = "type")]
    kind: String,
}

impl From<FieldError> for ProblemField {
    fn from(error: FieldError) -> Self {
        Self {
            loc: error.loc.into_iter().take(MAX_LOC_STEPS).map(Step::from).collect(),
            msg: shortened(&error.msg, MAX_MSG_CHARS),
            kind: error.kind.into(),
        }
    }
}

/// A step of the path to a field: the name of a field, or the index in a list.
struct Step(Value);

impl From<Loc> for Step {
    fn from(step: Loc) -> Self {
        Self(match step {
            Loc::Key(key) => shortened(&key, MAX_NAME_CHARS).into(),
            Loc::Index(index) => index.into(),
        })
    }
}

impl Type for Step {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "step".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            any_of: vec![String::schema_ref(), u64::schema_ref()],
            ..MetaSchema::ANY
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ToJSON for Step {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.clone())
    }
}

impl ParseFromJSON for Step {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        Ok(Self(value.unwrap_or_default()))
    }
}

/// Documents a `default` response for all operations that can fail.
impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        let body = MetaMediaType { content_type: "application/problem+json", schema: Problem::schema_ref() };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "The request failed. The body has the problem details (RFC 9457).",
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
