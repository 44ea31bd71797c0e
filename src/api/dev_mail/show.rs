//! The page that shows a captured mail.

use askama::Template;
use mail_parser::{HeaderName, Message, MessageParser};
use poem::{Endpoint, Request, Response, error::NotFoundError};

use super::{
    addresses::addresses,
    guard::{POLICY, require_local_request},
    mailbox::Mailbox,
};
use crate::{api::html::page, error::Error};

/// The endpoint of the page that shows one mail.
pub(super) struct Show(pub(super) Mailbox);

#[derive(Template)]
#[template(path = "api/templates/dev_mail.html", config = "src/askama.toml")]
struct ShowPage<'a> {
    subject: &'a str,
    headers: Vec<(&'static str, String)>,
    /// The HTML version of the mail, which the page shows in a frame.
    html: Option<String>,
    text: Option<Vec<Piece<'a>>>,
}

/// A part of a text: a link, or text outside of links.
#[derive(Debug, PartialEq, Eq)]
struct Piece<'a> {
    text: &'a str,
    is_link: bool,
}

impl Endpoint for Show {
    type Output = Response;

    async fn call(&self, req: Request) -> poem::Result<Response> {
        require_local_request(&req)?;
        let id = req.raw_path_param("id").unwrap_or_default();
        let bytes = self.0.read(id).await.map_err(Error::internal)?.ok_or(NotFoundError)?;
        let message = MessageParser::default()
            .parse(&bytes)
            .ok_or_else(|| Error::internal("cannot parse a captured mail"))?;
        Ok(page(&show_page(&message), POLICY)?)
    }
}

/// Returns the page of a parsed mail.
fn show_page<'a>(message: &'a Message<'a>) -> ShowPage<'a> {
    let subject = message.subject().unwrap_or("(no subject)");
    let headers = vec![
        ("From", addresses(message.from())),
        ("To", addresses(message.to())),
        ("Subject", subject.to_owned()),
        ("Date", message.header_raw(HeaderName::Date).unwrap_or_default().trim().to_owned()),
        ("Message-ID", message.message_id().unwrap_or_default().to_owned()),
    ];
    // Filters by type, because mail_parser returns the other version if a version is missing.
    let html = message.html_part(0).filter(|part| part.is_text_html()).and_then(|part| part.text_contents());
    let text = message.text_part(0).filter(|part| !part.is_text_html()).and_then(|part| part.text_contents());
    ShowPage {
        subject,
        headers,
        // The `base` element opens links in a new tab instead of the frame.
        html: html.map(|html| format!("<base target=\"_blank\">{html}")),
        text: text.map(split_links),
    }
}

/// Splits a text into links and the text between them.
fn split_links(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(begin) = ["http://", "https://"].iter().filter_map(|scheme| rest.find(scheme)).min() {
        let (before, found) = rest.split_at(begin);
        let end = found.find(|c: char| c.is_whitespace() || "<>\"".contains(c)).unwrap_or(found.len());
        // Punctuation at the end of a sentence is not part of the link.
        let end = found[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', ')']).len();
        let (link, after) = found.split_at(end);
        pieces.extend([Piece { text: before, is_link: false }, Piece { text: link, is_link: true }]);
        rest = after;
    }
    pieces.push(Piece { text: rest, is_link: false });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_without_trailing_punctuation() {
        let found = split_links("See https://a.example/x#token=1, or (http://b.example).\nBye");
        let plain = |text| Piece { text, is_link: false };
        let link = |text| Piece { text, is_link: true };
        assert_eq!(
            found,
            [
                plain("See "),
                link("https://a.example/x#token=1"),
                plain(", or ("),
                link("http://b.example"),
                plain(").\nBye"),
            ]
        );
        assert_eq!(split_links("http://"), [plain(""), link("http://"), plain("")]);
        assert_eq!(split_links(""), [plain("")]);
    }
}
