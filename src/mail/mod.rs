//! Sending mail: over SMTP where a server is configured, else captured for the developer.

use std::{path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context;
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
};

use crate::{
    config::{Config, secret},
    error::{Error, Result},
};

/// The most that one SMTP command may take.
const SMTP_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Mailer {
    from: Mailbox,
    transport: Transport,
}

#[derive(Clone)]
enum Transport {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    /// Logged as one line and, where a folder is given, kept there as `.eml`.
    Capture(Option<PathBuf>),
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
        let from = Mailbox::from_str(&config.mail.mail_from).with_context(|| {
            format!(
                "MAIL_FROM {:?} is not an address; write `Name <address@example.com>`",
                config.mail.mail_from
            )
        })?;
        let transport = match secret(&config.mail.smtp_url) {
            // The parser's own message would repeat the URL, which has the password.
            Some(url) => Transport::Smtp(
                AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
                    .map_err(|_| {
                        anyhow::anyhow!(
                            "SMTP_URL cannot be read; write smtp://user:password@host:587?tls=required or \
                             smtps://user:password@host:465"
                        )
                    })?
                    .timeout(Some(SMTP_TIMEOUT))
                    .build(),
            ),
            None => Transport::Capture(config.core.debug.then(|| config.mail.mail_dir.clone())),
        };
        Ok(Self { from, transport })
    }

    /// Whether mails reach other people.
    pub fn is_real(&self) -> bool {
        matches!(self.transport, Transport::Smtp(_))
    }

    /// Sends a plain-text mail. `id` names it: two mails of one id are one mail to a mail reader, so a repeated
    /// job does not show twice where that is honoured.
    pub async fn send(&self, id: &str, to: &str, subject: &str, body: &str) -> Result<Sent> {
        let domain = self.from.email.domain();
        let message = Message::builder()
            .from(self.from.clone())
            .to(to.parse().map_err(Error::internal)?)
            .subject(subject)
            .message_id(Some(format!("<{id}@{domain}>")))
            .header(ContentType::TEXT_PLAIN)
            .body(body.to_owned())
            .map_err(Error::internal)?;
        match &self.transport {
            Transport::Smtp(smtp) => {
                smtp.send(message).await.map_err(|error| Error::unavailable("Mail server", error))?;
                Ok(Sent::Accepted)
            }
            Transport::Capture(dir) => {
                let file = dir.as_ref().map(|dir| dir.join(format!("{id}.eml")));
                if let (Some(dir), Some(file)) = (dir, &file) {
                    tokio::fs::create_dir_all(dir).await.map_err(Error::internal)?;
                    tokio::fs::write(file, message.formatted()).await.map_err(Error::internal)?;
                }
                // The address and the file, never the text: that may hold a link that signs somebody in.
                let file = file.as_ref().map(|file| file.display().to_string());
                tracing::info!(to, file, "mail captured, since no SMTP_URL is set");
                Ok(Sent::Captured)
            }
        }
    }
}
