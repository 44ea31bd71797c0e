//! Responses that several resources share.

mod page;

pub(super) use page::{ArrayPage, Page, PageItem};

use poem_openapi::{ApiResponse, Object, payload::Json, types::Example};

const MAIL_SENT_IF_REGISTERED: &str = "If the address is registered, a mail was sent";

/// The request was accepted.
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

/// A response with status 202.
#[derive(ApiResponse)]
pub(super) enum Accepted {
    /// Same response whether or not the address is registered.
    #[oai(status = 202)]
    MailSentIfRegistered(Json<AcceptedMessage>),
}

impl Accepted {
    pub(super) fn mail_sent_if_registered() -> Self {
        Self::MailSentIfRegistered(Json(AcceptedMessage { message: MAIL_SENT_IF_REGISTERED.into() }))
    }
}
