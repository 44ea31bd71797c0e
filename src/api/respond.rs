//! Responses that several resources share.

use poem::{IntoResponse, Response, http::StatusCode};
use poem_openapi::{
    ApiResponse, Object,
    payload::Json,
    registry::{MetaResponse, MetaResponses, Registry},
    types::Example,
};

/// 204: the operation succeeded and there is nothing to return.
pub(super) struct NoContent;

impl ApiResponse for NoContent {
    fn meta() -> MetaResponses {
        let response = MetaResponse {
            description: "It has been done.",
            status: Some(StatusCode::NO_CONTENT.as_u16()),
            status_range: None,
            content: vec![],
            headers: vec![],
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(_registry: &mut Registry) {}
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

const MAIL_SENT_IF_REGISTERED: &str = "If the address has an account, a mail is on its way";

#[derive(Object)]
#[oai(rename = "Accepted", example)]
pub(super) struct AcceptedMessage {
    message: String,
}

impl Example for AcceptedMessage {
    fn example() -> Self {
        Self { message: MAIL_SENT_IF_REGISTERED.into() }
    }
}

/// 202: the same response whether or not the address is registered.
#[derive(ApiResponse)]
pub(super) enum Accepted {
    /// Whether anybody has the address, nobody learns here.
    #[oai(status = 202)]
    MailSentIfRegistered(Json<AcceptedMessage>),
}

impl Accepted {
    pub(super) fn mail_sent_if_registered() -> Self {
        Self::MailSentIfRegistered(Json(AcceptedMessage { message: MAIL_SENT_IF_REGISTERED.into() }))
    }
}
