use crate::error::BoxError;

/// Why a mail was not sent. No error text contains a password or a part of the mail.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no `SMTP_URL`, and `DEBUG` is off.
    #[error("No mail server is configured; set SMTP_URL")]
    NoServer,
    /// The mail cannot be delivered. Another attempt would fail too.
    #[error("The mail cannot be delivered: {0}")]
    Refused(String),
    /// The server does not answer, refuses temporarily, or refuses the settings. Another attempt may succeed.
    #[error("Mail server is unavailable")]
    Unavailable(#[source] BoxError),
    /// The mail cannot be created or captured.
    #[error("The mail cannot be written")]
    Failed(#[source] BoxError),
}

impl SendError {
    /// Returns whether another attempt would fail too.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}
