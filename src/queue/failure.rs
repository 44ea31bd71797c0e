//! Why a job did not finish, as its author says it.

use std::{fmt, time::Duration};

use super::{
    envelope::ErrorRecord,
    error::{BoxError, chain},
};

/// Why an attempt did not finish, and what is to become of the job. Any error becomes one by `?`, and is tried
/// again; its text is shown to admins only, since it may name hosts, paths or people. Say something to the owner
/// with [`Failure::new`].
#[derive(Debug)]
pub struct Failure {
    message: Option<String>,
    source: Option<BoxError>,
    pub(super) then: FailureAction,
}

/// What becomes of a job whose attempt did not finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureAction {
    /// Tried again while there are attempts left: after this long, or by the task's back-off.
    Retry(Option<Duration>),
    /// Put back for this long; the attempt does not count.
    Snooze(Duration),
    /// Put with the failed ones at once, for somebody to look at.
    Fail,
    /// Dropped: canceled, with the message as the reason.
    Discard,
}

impl Failure {
    /// A failure whose message the owner of the job may read.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), source: None, then: FailureAction::Retry(None) }
    }

    /// Not now: come back after `wait`. No attempt is counted, so say it of what will pass, like a rate limit or
    /// a lock that is taken.
    pub fn snooze(wait: Duration) -> Self {
        Self { message: None, source: None, then: FailureAction::Snooze(wait) }
    }

    /// There is nothing to be done any more, and nothing for anybody to look at.
    pub fn discard(reason: impl Into<String>) -> Self {
        Self { then: FailureAction::Discard, ..Self::new(reason) }
    }

    /// Tried again after `wait`, instead of by the task's back-off.
    pub fn retry_in(self, wait: Duration) -> Self {
        Self { then: FailureAction::Retry(Some(wait)), ..self }
    }

    /// Another attempt would fail too: the job goes straight to the failed ones.
    pub fn permanent(self) -> Self {
        Self { then: FailureAction::Fail, ..self }
    }

    pub(super) fn invalid_arguments(error: serde_json::Error) -> Self {
        Self {
            message: Some("The job's arguments cannot be read".into()),
            source: Some(error.into()),
            then: FailureAction::Fail,
        }
    }

    /// As it is stored: safe words for the owner, and the rest for admins.
    pub(super) fn record(&self, at: i64) -> ErrorRecord {
        let detail = self.source.as_ref().map(|source| chain(&**source));
        ErrorRecord {
            message: self.message.clone().unwrap_or_else(|| "The job failed".into()),
            detail: detail.or_else(|| self.message.clone()),
            at,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.message, &self.source) {
            (_, Some(source)) => f.write_str(&chain(&**source)),
            (Some(message), None) => f.write_str(message),
            (None, None) => f.write_str("The job failed"),
        }
    }
}

impl<E: Into<BoxError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: None, source: Some(error.into()), then: FailureAction::Retry(None) }
    }
}
