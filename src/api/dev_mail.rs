//! The mails that were captured rather than sent, for the developer to read and to follow their links.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use askama::Template;
use chrono::{DateTime, Local};
use mail_parser::{Addr, Address, HeaderName, Message, MessageParser};
use poem::{
    Endpoint, Request, Response, Route,
    error::NotFoundError,
    get,
    http::{header, uri::Authority},
};

use super::html::page;
use crate::error::Error;

/// A mail may show pictures; nothing may run. What the frame shows is under this policy as well.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data: http: https:; \
    form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
/// The most mails that the list shows.
const MOST: usize = 200;

/// The pages of the mails in a folder, to be mounted at `/dev/mail`. They are for this machine alone.
pub(super) fn routes(dir: PathBuf) -> Route {
    let dir: Arc<Path> = dir.into();
    Route::new().at("/", get(List(dir.clone()))).at("/:id", get(Show(dir)))
}

struct List(Arc<Path>);

#[derive(Template)]
#[template(path = "api/templates/dev_mails.html", config = "src/askama.toml")]
struct ListPage {
    mails: Vec<Listed>,
}

struct Listed {
    id: String,
    at: String,
    to: String,
    subject: String,
}

impl Endpoint for List {
    type Output = Response;

    async fn call(&self, req: Request) -> poem::Result<Response> {
        refuse_foreign(&req)?;
        let mut mails = Vec::new();
        for (at, id) in latest(&self.0).await.map_err(Error::internal)? {
            // One may have gone since.
            if let Ok(bytes) = tokio::fs::read(file(&self.0, &id)).await {
                mails.push(listed(id, at, &bytes));
            }
        }
        Ok(page(&ListPage { mails }, POLICY)?)
    }
}

fn listed(id: String, at: SystemTime, bytes: &[u8]) -> Listed {
    let message = MessageParser::default().parse_headers(bytes);
    let message = message.as_ref();
    let subject = message.and_then(|message| message.subject()).unwrap_or("(no subject)");
    Listed {
        at: DateTime::<Local>::from(at).format("%Y-%m-%d %H:%M:%S").to_string(),
        to: addresses(message.and_then(|message| message.to())),
        subject: subject.to_owned(),
        id,
    }
}

/// The ids of the latest mails and when they came, newest first.
async fn latest(dir: &Path) -> io::Result<Vec<(SystemTime, String)>> {
    let mut entries = match tokio::fs::read_dir(dir).await {
        // No mail has been captured yet.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".eml")).filter(|id| is_id(id));
        if let (Some(id), Ok(meta)) = (id, entry.metadata().await) {
            found.push((meta.modified()?, id.to_owned()));
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.truncate(MOST);
    Ok(found)
}

struct Show(Arc<Path>);

#[derive(Template)]
#[template(path = "api/templates/dev_mail.html", config = "src/askama.toml")]
struct ShowPage<'a> {
    subject: &'a str,
    headers: Vec<(&'static str, String)>,
    /// The HTML version, as the document of a frame.
    html: Option<String>,
    text: Option<Vec<Piece<'a>>>,
}

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
struct Piece<'a> {
    text: &'a str,
    is_link: bool,
}

impl Endpoint for Show {
    type Output = Response;

    async fn call(&self, req: Request) -> poem::Result<Response> {
        refuse_foreign(&req)?;
        // Nothing but an id, so that it cannot lead out of the folder.
        let id = req.raw_path_param("id").filter(|id| is_id(id)).ok_or(NotFoundError)?.to_owned();
        let bytes = match tokio::fs::read(file(&self.0, &id)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(NotFoundError.into()),
            bytes => bytes.map_err(Error::internal)?,
        };
        let message = MessageParser::default()
            .parse(&bytes)
            .ok_or_else(|| Error::internal("a captured mail cannot be read"))?;
        Ok(page(&shown(&message), POLICY)?)
    }
}

fn shown<'a>(message: &'a Message<'a>) -> ShowPage<'a> {
    let subject = message.subject().unwrap_or("(no subject)");
    let headers = vec![
        ("From", addresses(message.from())),
        ("To", addresses(message.to())),
        ("Subject", subject.to_owned()),
        ("Date", message.header_raw(HeaderName::Date).unwrap_or_default().trim().to_owned()),
        ("Message-ID", message.message_id().unwrap_or_default().to_owned()),
    ];
    // Where a version is missing, mail_parser offers the other one in its place.
    let html = message.html_part(0).filter(|part| part.is_text_html()).and_then(|part| part.text_contents());
    let text = message.text_part(0).filter(|part| !part.is_text_html()).and_then(|part| part.text_contents());
    ShowPage {
        subject,
        headers,
        // Links open outside of the frame.
        html: html.map(|html| format!("<base target=\"_blank\">{html}")),
        text: text.map(pieces),
    }
}

/// Not found, unless the page was asked for by a name that can only mean this machine, or by a bare address.
///
/// Any site could have its own name point here, and its pages would then read the mails (DNS rebinding).
fn refuse_foreign(req: &Request) -> poem::Result<()> {
    let authority = match req.header(header::HOST) {
        Some(host) => host.parse::<Authority>().ok(),
        None => req.original_uri().authority().cloned(),
    };
    let here = req.remote_addr().as_socket_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    match here && authority.is_some_and(|authority| is_own_name(authority.host())) {
        true => Ok(()),
        false => Err(NotFoundError.into()),
    }
}

fn is_own_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
    host == "localhost" || host.ends_with(".localhost") || address.parse::<IpAddr>().is_ok()
}

fn is_id(id: &str) -> bool {
    (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn file(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.eml"))
}

fn addresses(list: Option<&Address<'_>>) -> String {
    let one = |addr: &Addr<'_>| match (addr.name(), addr.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => address.or(name).unwrap_or_default().to_owned(),
    };
    let all: Vec<_> = list.into_iter().flat_map(|list| list.iter()).map(one).collect();
    all.join(", ")
}

/// Cuts a text into its links and what is between them.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(begin) = ["http://", "https://"].iter().filter_map(|scheme| rest.find(scheme)).min() {
        let (before, found) = rest.split_at(begin);
        let end = found.find(|c: char| c.is_whitespace() || "<>\"".contains(c)).unwrap_or(found.len());
        // What ends a sentence is not part of the link in it.
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
    fn links_are_found_without_what_follows_them() {
        let found = pieces("See https://a.example/x#token=1, or (http://b.example).\nBye");
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
        assert_eq!(pieces("http://"), [plain(""), link("http://"), plain("")]);
        assert_eq!(pieces(""), [plain("")]);
    }

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for host in ["localhost", "LocalHost", "app.localhost", "127.0.0.1", "[::1]", "192.168.0.7"] {
            assert!(is_own_name(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example", "[]"]
        {
            assert!(!is_own_name(host), "{host}");
        }
    }

    #[test]
    fn an_id_is_no_path() {
        assert!(is_id("01a203c5_1357-763a") && is_id(&"a".repeat(100)));
        for id in ["", "..", "../x", "a/b", "a.b", "a\\b", "ä", "a\0", &"a".repeat(101)] {
            assert!(!is_id(id), "{id}");
        }
    }
}
