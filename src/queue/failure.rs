//! How a job reports that it did not finish.

use std::{fmt, time::Duration};

use super::{
    envelope::ErrorRecord,
    error::{BoxError, chain},
};

/// Why an attempt of a job did not finish, and what happens next.
///
/// `?` converts any error, and the job is retried while attempts remain. The owner of the job cannot read the text of such an
/// error, since it may contain hosts, paths or personal data; [`Failure::new`] has a message for the owner.
#[derive(Debug)]
pub struct Failure {
    message: Option<String>,
    source: Option<BoxError>,
    pub(super) action: FailureAction,
}

/// What happens to a job after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureAction {
    /// Retried while attempts remain: after this time, or with `None` after the back-off of the job.
    Retry(Option<Duration>),
    /// Retried after this time; the attempt does not count.
    Snooze(Duration),
    /// Failed for good.
    Fail,
    /// Canceled, with the message as the reason.
    Discard,
}

impl Failure {
    /// Creates a failure whose message the owner of the job can read.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), source: None, action: FailureAction::Retry(None) }
    }

    /// Retries the job after `wait` without counting the attempt. For temporary conditions, such as a rate limit or a
    /// lock that is held.
    pub fn snooze(wait: Duration) -> Self {
        Self { message: None, source: None, action: FailureAction::Snooze(wait) }
    }

    /// Cancels the job instead of retrying it, for example because there is nothing left to do. The owner of the job can read
    /// the reason.
    pub fn discard(reason: impl Into<String>) -> Self {
        Self { action: FailureAction::Discard, ..Self::new(reason) }
    }

    /// Retries, while attempts remain, after `wait` instead of the back-off of the job.
    pub fn retry_in(self, wait: Duration) -> Self {
        Self { action: FailureAction::Retry(Some(wait)), ..self }
    }

    /// Fails the job for good, without a retry.
    pub fn permanent(self) -> Self {
        Self { action: FailureAction::Fail, ..self }
    }

    pub(super) fn invalid_arguments(error: serde_json::Error) -> Self {
        Self {
            message: Some("The job's arguments cannot be read".into()),
            source: Some(error.into()),
            action: FailureAction::Fail,
        }
    }

    /// Creates the record that is stored: a message for the owner, and details for admins. `at` is in milliseconds
    /// since the epoch.
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
        Self { message: None, source: Some(error.into()), action: FailureAction::Retry(None) }
    }
}
