//! The page that lists captured mails.

use std::time::SystemTime;

use askama::Template;
use chrono::{DateTime, Local};
use mail_parser::MessageParser;
use poem::{Endpoint, Request, Response};

use super::{
    addresses::addresses,
    guard::{POLICY, require_local_request},
    mailbox::Mailbox,
};
use crate::{
    api::{html::page, middleware::RoutineRequest},
    error::Error,
};

/// The endpoint of the page that lists the newest mails.
pub(super) struct List(pub(super) Mailbox);

#[derive(Template)]
#[template(path = "api/templates/dev_mails.html", config = "src/askama.toml")]
struct ListPage {
    mails: Vec<MailRow>,
}

/// A mail in the list.
struct MailRow {
    id: String,
    at: String,
    to: String,
    subject: String,
}

impl Endpoint for List {
    type Output = Response;

    async fn call(&self, req: Request) -> poem::Result<Response> {
        require_local_request(&req)?;
        let mut mails = Vec::new();
        for (at, id) in self.0.latest().await.map_err(Error::internal)? {
            // The file of a mail may have been deleted since the directory was read.
            if let Ok(Some(bytes)) = self.0.read(&id).await {
                mails.push(row(id, at, &bytes));
            }
        }
        let mut response = page(&ListPage { mails }, POLICY)?;
        // The page reloads itself every few seconds, so its requests are logged at the level `debug`.
        response.set_data(RoutineRequest);
        Ok(response)
    }
}

/// Returns the row of a mail. Parses only the headers of the mail.
fn row(id: String, at: SystemTime, bytes: &[u8]) -> MailRow {
    let message = MessageParser::default().parse_headers(bytes);
    let message = message.as_ref();
    let subject = message.and_then(|message| message.subject()).unwrap_or("(no subject)");
    MailRow {
        at: DateTime::<Local>::from(at).format("%Y-%m-%d %H:%M:%S").to_string(),
        to: addresses(message.and_then(|message| message.to())),
        subject: subject.to_owned(),
        id,
    }
}
