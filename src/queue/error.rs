//! The errors of the job engine.

use std::time::Duration;

use redis::RedisError;

use super::scripts;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call of the job engine failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument is invalid; `field` is its name.
    #[error("{field}: {message}")]
    Invalid { field: &'static str, message: String },
    /// A job was to wait for the job with this id, which does not exist, or whose state is no longer kept.
    #[error("there is no job {0}; it may have expired")]
    UnknownJob(String),
    /// The job would exceed a limit of its owner: of the number or the total size of waiting and running jobs, or of jobs per
    /// hour.
    #[error("{0}")]
    OwnerLimit(OwnerLimit),
    /// The prepared job with this id was not enqueued, because it may have been enqueued before and have ended. If it has, its
    /// state is no longer kept.
    #[error("job {0} may have been enqueued before, and its state is no longer kept")]
    Forgotten(String),
    /// The arguments or the envelope of a job exceed `limit` bytes of JSON.
    #[error("The job is larger than {limit} bytes")]
    TooLarge { limit: usize },
    /// The arguments of a job are nested too deeply to be parsed again in all records of the job.
    #[error("The job's arguments are nested too deeply")]
    TooDeep,
    /// Redis did not answer in time, refused the command or returned an unexpected answer, or too few of its replicas have a
    /// job. The caller may try again.
    #[error("Redis is unavailable")]
    Unavailable(#[source] BoxError),
    /// A bug, or data in Redis that this version cannot read.
    #[error("Internal error of the job queue")]
    Internal(#[source] BoxError),
}

/// The limit that new jobs of an owner would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OwnerLimit {
    #[error("Too many unfinished jobs; try again when some have finished")]
    Jobs,
    #[error("The unfinished jobs are too large in total; try again when some have finished")]
    Bytes,
    /// The limit refuses the same jobs for at least `wait`.
    #[error("Too many jobs in the last hour; try again later")]
    Rate { wait: Duration },
}

impl OwnerLimit {
    /// Parses the text that follows the code [`scripts::OWNER_LIMIT_CODE`].
    fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        match (words.next(), words.next()) {
            (Some("bytes"), _) => Self::Bytes,
            (Some("rate"), wait) => {
                Self::Rate { wait: Duration::from_millis(wait.and_then(|ms| ms.parse().ok()).unwrap_or(0)) }
            }
            _ => Self::Jobs,
        }
    }
}

impl Error {
    pub(super) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }

    pub(super) fn internal(source: impl Into<BoxError>) -> Self {
        Self::Internal(source.into())
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        let id =
            || error.detail().and_then(|text| text.split_whitespace().next()).unwrap_or_default().to_owned();
        if error.code() == Some(scripts::UNKNOWN_JOB_CODE) {
            return Self::UnknownJob(id());
        }
        if error.code() == Some(scripts::FORGOTTEN_CODE) {
            return Self::Forgotten(id());
        }
        if error.code() == Some(scripts::OWNER_LIMIT_CODE) {
            return Self::OwnerLimit(OwnerLimit::parse(error.detail().unwrap_or_default()));
        }
        Self::Unavailable(error.into())
    }
}

/// Returns the messages of an error and its causes, separated by `: `. Omits a message with which the text already ends.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
