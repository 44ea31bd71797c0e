//! The status and the machine word of each error.

use poem::{error::ResponseError, http::StatusCode};

use crate::error::Error;

impl Error {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::EmailTaken => "email_taken",
            Self::BadCredentials => "bad_credentials",
            Self::NotAuthenticated => "not_authenticated",
            Self::InvalidToken => "invalid_token",
            Self::Inactive => "inactive_user",
            Self::EmailNotVerified => "email_not_verified",
            Self::WrongPassword => "wrong_password",
            Self::InvalidCode => "invalid_code",
            Self::InvalidLink => "invalid_link",
            Self::TwoFactorRequired => "two_factor_required",
            Self::LastAdmin => "last_admin",
            Self::CrossSite => "cross_site",
            Self::TooManyAttempts { .. } => "too_many_attempts",
            Self::Forbidden => "forbidden",
            Self::Conflict(_) => "conflict",
            Self::TooLarge { .. } => "too_large",
            Self::SlowBody => "request_timeout",
            Self::Malformed(_) => "malformed",
            Self::Invalid(_) => "validation_error",
            Self::Unavailable { .. } => "unavailable",
            Self::Internal(_) => "internal_error",
        }
    }
}

impl ResponseError for Error {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::EmailTaken
            | Self::Malformed(_)
            | Self::WrongPassword
            | Self::InvalidCode
            | Self::InvalidLink => StatusCode::BAD_REQUEST,
            Self::BadCredentials | Self::NotAuthenticated | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::Inactive
            | Self::Forbidden
            | Self::EmailNotVerified
            | Self::TwoFactorRequired
            | Self::CrossSite => StatusCode::FORBIDDEN,
            Self::Conflict(_) | Self::LastAdmin => StatusCode::CONFLICT,
            Self::TooManyAttempts { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}
