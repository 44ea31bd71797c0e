use poem::{error::ResponseError, http::StatusCode};
use poem_openapi::{
    ApiResponse, Object,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::{Example, Type},
};
use serde_json::Value;

use super::error::ApiError;
use crate::error::{FieldError, Loc};

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

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &str,
        detail: String,
        request_id: &str,
        fields: Vec<FieldError>,
    ) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            detail,
            code: code.into(),
            request_id: request_id.into(),
            errors: (!fields.is_empty()).then(|| fields.into_iter().map(Into::into).collect()),
        }
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
impl ApiResponse for ApiError {
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
