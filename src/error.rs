//! The error type of the services and the modules below them, and the conversion of constraint violations to it.
//!
//! `api/problem` defines the HTTP status and code of each variant. A client sees the text of most variants as `detail`.

use std::error::Error as StdError;

/// An error of any type.
pub type BoxError = Box<dyn StdError + Send + Sync>;
/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The value of [`Error::NotFound`] for an organization. If an operation is for members, a caller who is not a member gets the
/// same error as for an organization that does not exist.
pub const ORGANIZATION: &str = "Organization";

/// An error of the application.
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
    #[error("Email address is not verified; open the link in the mail that was sent to you")]
    EmailNotVerified,
    /// The change would give the rights of an admin to an existing user whose address is not verified.
    #[error(
        "The email address of this user is not verified; only a user with a verified address can become an admin"
    )]
    UserNotVerified,
    /// The password that confirms an action is wrong, or was replaced while the request was in progress.
    #[error("Incorrect password")]
    WrongPassword,
    /// A code of an authenticator or a recovery code is wrong or used, the login challenge is not valid, or the user has no
    /// second factor.
    #[error("This code is not valid")]
    InvalidCode,
    /// The token of a link in a mail is unknown, used or expired, or the account has changed since the link was sent. Or this
    /// release does not accept the new address that the link confirms.
    #[error("This link is invalid or has expired; request a new one")]
    InvalidLink,
    #[error("Sign in with two-factor authentication to do this")]
    TwoFactorRequired,
    #[error("This is the last active admin; add another one first")]
    LastAdmin,
    /// The change would leave at least one organization without an owner. The text names up to three of these organizations.
    #[error("{0}")]
    LastOwner(String),
    #[error("{0}")]
    RoleTooHigh(&'static str),
    #[error("An admin of the platform has suspended this organization")]
    OrgSuspended,
    #[error("Your membership of this organization is suspended")]
    MemberSuspended,
    #[error("This organization is scheduled for deletion; its owner can restore it")]
    OrgDeleting,
    /// A personal organization does not allow the operation, because the organization belongs to an account.
    #[error("{0}")]
    PersonalOrg(&'static str),
    #[error("This name for URLs is taken; choose another one")]
    SlugTaken,
    /// The user already owns the maximum number of organizations. Personal organizations do not count.
    #[error("You own {limit} organizations, and cannot create more")]
    OrgLimit { limit: u32 },
    /// The user is already a member of the maximum number of organizations.
    #[error("A user can be a member of at most {limit} organizations")]
    MembershipLimit { limit: i64 },
    /// The organization has no free seat. Pending invitations take seats, too, except when an invitation is accepted.
    #[error("All {limit} seats of the organization are taken by members and pending invitations")]
    SeatLimit { limit: u32 },
    #[error("This address is that of a member of the organization")]
    AlreadyMember,
    /// The invitation is unknown, accepted, declined, revoked or replaced. Or its inviter may no longer invite, or the
    /// organization is suspended or scheduled for deletion.
    #[error("This invitation is not valid any more; ask for a new one")]
    InvitationInvalid,
    #[error("This invitation has expired; ask for a new one")]
    InvitationExpired,
    /// The invited address is not the address of the account. The text is the invited address, with at most the first character
    /// of the local part.
    #[error("This invitation is for {0}; sign in with the account of that address")]
    InvitationOtherAddress(String),
    /// The operation does not accept API keys.
    #[error("An API key cannot do this: sign in")]
    SessionRequired,
    #[error("This API key does not have the scope {0}")]
    ScopeMissing(&'static str),
    /// An API key that is revoked or expired can be neither changed nor rotated.
    #[error("This API key is revoked or has expired; create a new one")]
    KeyEnded,
    /// The organization already has the maximum number of valid API keys.
    #[error("An organization can have at most {limit} valid API keys; revoke one first")]
    KeyLimit { limit: i64 },
    #[error("Too many attempts, try again in {retry_after} seconds")]
    TooManyAttempts { retry_after: u64 },
    /// The job would exceed a limit on the jobs of the user: the number, the size, or the number per hour. `retry_after` is in
    /// seconds.
    #[error("{message}")]
    TooManyJobs { message: String, retry_after: u64 },
    #[error("Not enough permissions")]
    Forbidden,
    /// Another request with the same `Idempotency-Key` is in progress.
    #[error("A request with this Idempotency-Key is in progress; try again in a moment")]
    IdempotencyKeyInUse,
    /// The `Idempotency-Key` belongs to the answer to a different request.
    #[error("This Idempotency-Key was used for a different request; use a new key")]
    IdempotencyKeyReused,
    /// The answer is not stored, so a repeated request could have a second effect.
    #[error("This operation does not support Idempotency-Key; send the request without the header")]
    IdempotencyNotSupported,
    #[error("{0}")]
    Conflict(&'static str),
    /// The current state of the resource is none of the states that the header `If-Match` of the request names.
    #[error("This has changed since you read it; read it again, and repeat the change if it still applies")]
    PreconditionFailed,
    /// No SMTP server is configured, and `DEBUG` is off.
    #[error("No mail server is configured, so no mail can be sent")]
    NoMailServer,
    #[error("The job is larger than {limit} bytes")]
    JobTooLarge { limit: usize },
    #[error("The job's arguments are nested too deeply")]
    JobTooDeep,
    /// Input is invalid. The message names the first three invalid fields, and the number of the others.
    #[error("Invalid input: {}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// The dependency or operation `what`, such as `Redis` or `Login`, does not answer, fails or is overloaded. The caller can
    /// retry.
    #[error("{what} is unavailable")]
    Unavailable {
        what: &'static str,
        #[source]
        source: BoxError,
    },
    #[error("Internal Server Error")]
    Internal(#[source] BoxError),
}

/// An invalid field of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The path of the field.
    pub loc: Vec<Loc>,
    /// The message for the user.
    pub msg: String,
    /// The stable code of the error, such as `value_error`.
    pub kind: &'static str,
}

/// A step of the path to a field: the name of a field, or an index in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loc {
    Key(String),
    Index(usize),
}

impl Loc {
    /// Returns a step with the name of a field. The name is shortened to [`MAX_NAME_CHARS`], because a client may have chosen
    /// it.
    pub fn key(name: &str) -> Self {
        Self::Key(shortened(name, MAX_NAME_CHARS))
    }
}

/// Maximum number of characters of a field's name that an error repeats.
pub const MAX_NAME_CHARS: usize = 64;

/// Maximum number of invalid fields that the text of an error names.
const MAX_SUMMARY_FIELDS: usize = 3;

/// Shortens a text to at most `max_chars` characters. If it was longer, the last character is an ellipsis.
pub fn shortened(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max_chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

impl FieldError {
    /// Returns the path of the field as text, such as `body.email`.
    pub fn path(&self) -> String {
        let step = |step: &Loc| match step {
            Loc::Key(key) => key.clone(),
            Loc::Index(index) => index.to_string(),
        };
        self.loc.iter().map(step).collect::<Vec<_>>().join(".")
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path(), self.msg)
    }
}

fn summary(errors: &[FieldError]) -> String {
    let mut list: Vec<_> = errors.iter().take(MAX_SUMMARY_FIELDS).map(ToString::to_string).collect();
    if errors.len() > MAX_SUMMARY_FIELDS {
        list.push(format!("and {} more", errors.len() - MAX_SUMMARY_FIELDS));
    }
    list.join("; ")
}

impl Error {
    /// Wraps an unexpected error. The client sees status 500 without the cause; the log contains the cause.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::Internal(source.into())
    }

    /// Creates [`Error::Invalid`] for one field. The API adds the part of the request that contains the field, such as `body`.
    pub fn invalid(field: &str, msg: impl Into<String>) -> Self {
        let loc = vec![Loc::Key(field.into())];
        Self::Invalid(vec![FieldError { loc, msg: msg.into(), kind: "value_error" }])
    }

    /// Creates [`Error::Unavailable`] for the dependency `what`, such as `Database`. The log contains `source`, the
    /// response does not.
    pub fn unavailable(what: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Unavailable { what, source: source.into() }
    }
}

/// Returns the texts of an error and its causes, separated by `: `. Skips a cause if the result already ends with the text of
/// the cause.
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

/// Converts a constraint violation into a client error. A query before the insert would not be enough: another transaction can
/// insert between the query and the insert.
pub trait OnConstraint<T> {
    /// Replaces the violation of the constraint `name` by `error`, and converts other errors.
    ///
    /// # Errors
    /// `error`, or the converted database error.
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
