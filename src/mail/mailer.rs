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

/// Timeout of one SMTP command.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends mails by SMTP if `SMTP_URL` is set, else captures them.
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
    /// Logs one line and, if there is a directory, writes the mail there as an `.eml` file.
    Capture(Option<PathBuf>),
}

/// A mail to one recipient.
pub struct Mail<'a> {
    /// Becomes the `Message-ID`. A retried job sends the same id again, and mail readers that deduplicate show one mail.
    pub id: &'a str,
    pub to: &'a str,
    pub subject: &'a str,
    pub text: &'a str,
    /// The same text as HTML. A mail reader shows the richest version that it supports.
    pub html: Option<&'a str>,
}

/// What [`Mailer::send`] did with a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The SMTP server accepted it.
    Accepted,
    /// It was logged, and written to a file in development.
    Captured,
}

impl Mailer {
    /// Creates the mailer without connecting.
    ///
    /// # Errors
    /// If a mail setting is invalid.
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

    /// Returns whether mails leave this machine.
    pub fn is_real(&self) -> bool {
        matches!(self.transport, Transport::Smtp(_))
    }

    /// Sends or captures a mail.
    ///
    /// # Errors
    /// If an address is invalid, the SMTP server does not accept the mail, or a captured mail cannot be written.
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
                        Some(write_file(dir, mail.id, &message.formatted()).await.map_err(Error::internal)?)
                    }
                    None => None,
                };
                // Never log the text: it may contain a link that signs its owner in.
                let file = file.map(|file| file.display().to_string());
                tracing::info!(to = mail.to, file, "mail captured, because SMTP_URL is not set");
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

/// Writes a mail to a file. The file appears complete, since `/dev/mail` may read it at any time.
async fn write_file(dir: &Path, id: &str, mail: &[u8]) -> io::Result<PathBuf> {
    tokio::fs::create_dir_all(dir).await?;
    let file = dir.join(format!("{id}.eml"));
    let unfinished = dir.join(format!(".{id}.{}", Uuid::new_v4().simple()));
    tokio::fs::write(&unfinished, mail).await?;
    tokio::fs::rename(&unfinished, &file).await?;
    Ok(file)
}
