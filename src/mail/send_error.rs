use crate::error::BoxError;

/// Why a mail was not sent. Error texts contain neither a password nor the text of the mail. They may quote a reply of the
/// server, and so an email address.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no `SMTP_URL`, and `DEBUG` is off.
    #[error("No mail server is configured; set SMTP_URL")]
    NoServer,
    /// The mail cannot be delivered: the address is invalid, the server refuses the mail permanently, or the server lacks an
    /// extension that the recipient or the content needs. Callers do not try again.
    #[error("The mail cannot be delivered: {0}")]
    Refused(String),
    /// The server does not answer, refuses the connection, refuses the mail temporarily, or refuses or does not support the
    /// settings. A later attempt may succeed.
    #[error("Mail server is unavailable")]
    Unavailable(#[source] BoxError),
    /// The mail cannot be formatted, or cannot be written to `MAIL_DIR`.
    #[error("The mail cannot be written")]
    Failed(#[source] BoxError),
}

impl SendError {
    /// Returns whether the error is [`Self::Refused`], so that callers do not try again. Most of the other errors end when the
    /// server or the settings change.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}
