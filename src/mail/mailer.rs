use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use lettre::{
    Address, Message,
    message::{Mailbox, MultiPart, header::ContentType},
};
use tokio::io::AsyncWriteExt;
use url::Url;
use uuid::Uuid;

use super::{send_error::SendError, smtp::SmtpClient};
use crate::{
    config::{self, Config},
    email_address::EmailAddress,
};

/// Sends mails by SMTP if `SMTP_URL` is set. Without `SMTP_URL`, the mailer writes mails to files in `MAIL_DIR` if `DEBUG`
/// is on, and returns an error if `DEBUG` is off.
#[derive(Clone)]
pub struct Mailer {
    from: Mailbox,
    transport: Transport,
    public_url: Url,
    frontend_url: Option<Url>,
}

#[derive(Clone)]
enum Transport {
    Smtp(Arc<SmtpClient>),
    /// Writes the mail to this directory as an `.eml` file, and logs one line.
    Capture(PathBuf),
    /// Refuses all mails: `SMTP_URL` is not set, and `DEBUG` is off.
    None,
}

/// A mail to one recipient.
pub struct Mail<'a> {
    /// The local part of the `Message-ID`. A retried job sends the same id again, so a mail reader that deduplicates
    /// by this id shows only one mail.
    pub id: &'a str,
    pub to: &'a str,
    pub subject: &'a str,
    pub text: &'a str,
    /// The same text as HTML, or `None` for a mail with plain text only.
    pub html: Option<&'a str>,
}

/// The result of [`Mailer::send`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// The SMTP server accepted the mail.
    Accepted,
    /// The mail was written to a file instead, in development.
    Captured,
}

impl Mailer {
    /// Creates the mailer without connecting.
    ///
    /// # Errors
    /// If a mail setting is invalid, or the certificates of the operating system cannot be loaded.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let config::Mail { smtp_url, mail_from, mail_dir, public_url: _, frontend_url } = &config.mail;
        let transport = match smtp_url.get()? {
            Some(server) => Transport::Smtp(Arc::new(SmtpClient::new(server)?)),
            None if config.core.debug => Transport::Capture(mail_dir.clone()),
            None => Transport::None,
        };
        let from = mail_from.get()?.context("MAIL_FROM is blank; write `Name <address@example.com>`")?;
        Ok(Self {
            from: from.clone(),
            transport,
            public_url: config.mail.public_url()?,
            frontend_url: frontend_url.get()?.cloned(),
        })
    }

    /// Returns a link for a mail: the address of the page `page`, with `token` in the fragment.
    ///
    /// Browsers do not send the fragment of an address, so access logs do not contain the token. The host of the link comes
    /// from a setting, never from the `Host` header of a request (OWASP, Host header injection).
    pub fn link(&self, page: &str, token: &str) -> String {
        let base = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        match &self.frontend_url {
            Some(url) => format!("{}/{page}#token={token}", base(url)),
            None => format!("{}/account/{page}#token={token}", base(&self.public_url)),
        }
    }

    /// Returns whether mails are sent by SMTP.
    pub fn has_smtp_server(&self) -> bool {
        matches!(self.transport, Transport::Smtp(_))
    }

    /// Returns whether mails can be sent or captured. If not, [`Self::send`] fails with [`SendError::NoServer`].
    pub fn can_send(&self) -> bool {
        !matches!(self.transport, Transport::None)
    }

    /// Sends or captures a mail.
    ///
    /// # Errors
    /// [`SendError::NoServer`] if `SMTP_URL` is not set and `DEBUG` is off; [`SendError::Refused`] if the address of the
    /// recipient is invalid, or the server permanently refuses the mail or lacks an extension that the recipient or the content
    /// needs; [`SendError::Unavailable`] for other errors of SMTP; [`SendError::Failed`] if the mail cannot be formatted or
    /// captured.
    pub async fn send(&self, mail: &Mail<'_>) -> Result<Sent, SendError> {
        let message = self.message(mail)?;
        match &self.transport {
            Transport::Smtp(client) => {
                client.send(&message).await?;
                Ok(Sent::Accepted)
            }
            Transport::Capture(dir) => {
                let file = write_file(dir, mail.id, &message.formatted()).await.map_err(|error| {
                    SendError::Failed(format!("cannot write to MAIL_DIR {}: {error}", dir.display()).into())
                })?;
                // Never log the text, because it may contain a link that sets a password.
                let file = file.display().to_string();
                tracing::info!(to = mail.to, file, "mail captured, because SMTP_URL is not set");
                Ok(Sent::Captured)
            }
            Transport::None => Err(SendError::NoServer),
        }
    }

    fn message(&self, mail: &Mail<'_>) -> Result<Message, SendError> {
        let to = recipient(mail.to)
            .ok_or_else(|| SendError::Refused("the address of the recipient is invalid".into()))?;
        let builder = Message::builder()
            .from(self.from.clone())
            .to(to.into())
            .subject(mail.subject)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())));
        let text = with_lf_endings(mail.text);
        let message = match mail.html {
            Some(html) => builder.multipart(MultiPart::alternative_plain_html(text, with_lf_endings(html))),
            None => builder.header(ContentType::TEXT_PLAIN).body(text),
        };
        message.map_err(|error| SendError::Failed(error.into()))
    }
}

/// Returns the address to which a mail for `to` is sent. Its domain is in ASCII, because not every mail server supports
/// internationalized domains (RFC 6531). If only an earlier release accepted the address, it is used unchanged. Returns
/// `None` if the address is invalid.
pub fn recipient(to: &str) -> Option<Address> {
    EmailAddress::parse(to).map(EmailAddress::for_mail).ok().or_else(|| to.parse().ok())
}

/// Returns the text with LF line endings, which lettre converts to CRLF. A CR without LF is not allowed in a mail (RFC 5322
/// section 2.3). Some servers treat a lone CR as a line ending, so `\r.\r` would end the mail early.
fn with_lf_endings(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Writes a mail to a file. The file becomes visible only when it is complete, because `/dev/mail` may read it at any
/// time. The file and the created directories have the modes 0600 and 0700, which keep out other unprivileged users of the
/// machine, because a link in a mail can set a password.
async fn write_file(dir: &Path, id: &str, mail: &[u8]) -> io::Result<PathBuf> {
    tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).await?;
    let file = dir.join(format!("{id}.eml"));
    let unfinished = dir.join(format!(".{id}.{}", Uuid::new_v4().simple()));
    let mut options = tokio::fs::OpenOptions::new();
    let mut writer = options.write(true).create_new(true).mode(0o600).open(&unfinished).await?;
    writer.write_all(mail).await?;
    writer.flush().await?;
    tokio::fs::rename(&unfinished, &file).await?;
    Ok(file)
}
