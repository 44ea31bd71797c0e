//! The one error type of the application, and how a constraint violation becomes one of its variants.
//!
//! `api/problem/` decides which status and code a client sees for each variant.

use std::error::Error as StdError;

pub type BoxError = Box<dyn StdError + Send + Sync>;
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} not found")]
    NotFound(&'static str),
    #[error("Email already registered")]
    EmailTaken,
    #[error("Incorrect email or password")]
    BadCredentials,
    #[error("Could not validate credentials")]
    InvalidToken,
    #[error("Inactive user")]
    Inactive,
    #[error("Confirm your email address first; the link is in the mail that was sent to you")]
    EmailNotVerified,
    /// The password that confirms an action is wrong.
    #[error("Incorrect password")]
    WrongPassword,
    /// The code of an authenticator or a recovery code.
    #[error("This code is not valid")]
    InvalidCode,
    /// A one-time token of a mail: unknown, used or too old.
    #[error("This link is not valid any more; ask for a new one")]
    InvalidLink,
    #[error("Sign in with two-factor authentication to do this")]
    TwoFactorRequired,
    #[error("There must be another active admin first")]
    LastAdmin,
    #[error("Too many attempts, try again in {retry_after} seconds")]
    TooManyAttempts { retry_after: u64 },
    #[error("Not enough permissions")]
    Forbidden,
    #[error("{0}")]
    Conflict(&'static str),
    #[error("Request body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("{0}")]
    Malformed(String),
    /// Every field that is wrong, not only the first.
    #[error("Invalid input: {}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// A dependency is away or saturated; the caller may try again.
    #[error("{what} is unavailable")]
    Unavailable {
        what: &'static str,
        #[source]
        source: BoxError,
    },
    #[error("Internal Server Error")]
    Internal(#[source] BoxError),
}

/// One invalid field: where it is, what is wrong in words, and the stable machine word for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub loc: Vec<Loc>,
    pub msg: String,
    pub kind: &'static str,
}

/// One step of a field's location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loc {
    Key(String),
    Index(usize),
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, step) in self.loc.iter().enumerate() {
            let dot = if i == 0 { "" } else { "." };
            match step {
                Loc::Key(key) => write!(f, "{dot}{key}")?,
                Loc::Index(index) => write!(f, "{dot}{index}")?,
            }
        }
        write!(f, ": {}", self.msg)
    }
}

fn summary(errors: &[FieldError]) -> String {
    let list: Vec<_> = errors.iter().map(ToString::to_string).collect();
    list.join("; ")
}

impl Error {
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::Internal(source.into())
    }

    /// Reports one invalid field by its name; the API adds the part of the request that it came in.
    pub fn invalid(field: &str, msg: impl Into<String>) -> Self {
        let loc = vec![Loc::Key(field.into())];
        Self::Invalid(vec![FieldError { loc, msg: msg.into(), kind: "value_error" }])
    }

    pub fn unavailable(what: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Unavailable { what, source: source.into() }
    }
}

/// Returns an error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
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

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};
        // diesel-async reports a statement timeout and an administrator's shutdown as `Unknown` and
        // keeps no SQLSTATE, so the server's own words are all there is to tell them by.
        let away = match &error {
            Diesel::DatabaseError(Kind::UnableToSendCommand | Kind::ClosedConnection, _) => true,
            Diesel::DatabaseError(Kind::Unknown, info) => {
                let message = info.message();
                message.contains("statement timeout") || message.contains("terminating connection")
            }
            Diesel::BrokenTransactionManager => true,
            _ => false,
        };
        if away { Self::unavailable("Database", error) } else { Self::internal(error) }
    }
}

/// Turns the violation of a named constraint into a client error, so that no one checks before inserting.
pub trait OnConstraint<T> {
    fn on_constraint(self, name: &str, error: Error) -> Result<T>;
}

impl<T> OnConstraint<T> for diesel::QueryResult<T> {
    fn on_constraint(self, name: &str, error: Error) -> Result<T> {
        self.map_err(|e| match &e {
            diesel::result::Error::DatabaseError(_, info) if info.constraint_name() == Some(name) => error,
            _ => e.into(),
        })
    }
}
