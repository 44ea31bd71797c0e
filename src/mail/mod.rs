//! Sending mail: over SMTP where a server is configured, else captured for the developer.

pub mod letters;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MultiPart, header::ContentType},
};
use url::Url;
use uuid::Uuid;

use crate::{
    config::{self, Config},
    error::{Error, Result},
};

/// The most that one SMTP command may take.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Mailer {
    from: Mailbox,
    transport: Transport,
    public_url: Url,
    frontend_url: Option<Url>,
}

#[derive(Clone)]
enum Transport {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    /// Logged as one line and, where a folder is given, kept there as `.eml`.
    Capture(Option<PathBuf>),
}

/// A mail to one person.
pub struct Mail<'a> {
    /// Names it: two mails of one id are one mail to a mail reader, so a repeated job does not show twice
    /// where that is honoured.
    pub id: &'a str,
    pub to: &'a str,
    pub subject: &'a str,
    pub text: &'a str,
    /// The same in HTML; a mail reader shows the one that it can.
    pub html: Option<&'a str>,
}

/// What became of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The SMTP server has taken it.
    Accepted,
    Captured,
}

impl Mailer {
    /// # Errors
    /// When `SMTP_URL` or `MAIL_FROM` cannot be read.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let config::Mail { smtp_url, mail_from, mail_dir, public_url: _, frontend_url } = &config.mail;
        let transport = match smtp_url.get()? {
            Some(server) => Transport::Smtp(server.clone().timeout(Some(SMTP_TIMEOUT)).build()),
            None => Transport::Capture(config.core.debug.then(|| mail_dir.clone())),
        };
        Ok(Self {
            from: mail_from
                .get()?
                .cloned()
                .context("MAIL_FROM is blank; write `Name <address@example.com>`")?,
            transport,
            public_url: config.mail.public_url()?,
            frontend_url: frontend_url.get()?.cloned(),
        })
    }

    /// Returns the link to a page, for a mail.
    ///
    /// The token is in the fragment, which browsers do not send to servers, so that no server logs it. The address comes
    /// from a setting and never from a request's header `Host` (OWASP, Host header injection).
    pub fn link(&self, page: &str, token: &str) -> String {
        let base = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        match &self.frontend_url {
            Some(url) => format!("{}/{page}#token={token}", base(url)),
            None => format!("{}/account/{page}#token={token}", base(&self.public_url)),
        }
    }

    /// Whether mails reach other people.
    pub fn is_real(&self) -> bool {
        matches!(self.transport, Transport::Smtp(_))
    }

    /// # Errors
    /// When the address cannot be written to, or the mail server does not take the mail.
    pub async fn send(&self, mail: &Mail<'_>) -> Result<Sent> {
        let message = self.message(mail)?;
        match &self.transport {
            Transport::Smtp(smtp) => {
                smtp.send(message).await.map_err(|error| Error::unavailable("Mail server", error))?;
                Ok(Sent::Accepted)
            }
            Transport::Capture(dir) => {
                let file = match dir {
                    Some(dir) => {
                        Some(keep(dir, mail.id, &message.formatted()).await.map_err(Error::internal)?)
                    }
                    None => None,
                };
                // The address and the file, never the text: that may hold a link that signs somebody in.
                let file = file.map(|file| file.display().to_string());
                tracing::info!(to = mail.to, file, "mail captured, since no SMTP_URL is set");
                Ok(Sent::Captured)
            }
        }
    }

    fn message(&self, mail: &Mail<'_>) -> Result<Message> {
        let builder = Message::builder()
            .from(self.from.clone())
            .to(mail.to.parse().map_err(Error::internal)?)
            .subject(mail.subject)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())));
        let text = mail.text.to_owned();
        let message = match mail.html {
            Some(html) => builder.multipart(MultiPart::alternative_plain_html(text, html.to_owned())),
            None => builder.header(ContentType::TEXT_PLAIN).body(text),
        };
        message.map_err(Error::internal)
    }
}

/// Keeps a mail as a file, whole or not at all: a page may list them at any time.
async fn keep(dir: &Path, id: &str, mail: &[u8]) -> io::Result<PathBuf> {
    tokio::fs::create_dir_all(dir).await?;
    let file = dir.join(format!("{id}.eml"));
    let unfinished = dir.join(format!(".{id}.{}", Uuid::new_v4().simple()));
    tokio::fs::write(&unfinished, mail).await?;
    tokio::fs::rename(&unfinished, &file).await?;
    Ok(file)
}
