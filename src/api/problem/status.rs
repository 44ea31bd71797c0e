//! The HTTP status and the stable code of each error.

use poem::{error::ResponseError, http::StatusCode};

use super::error::ApiError;
use crate::{
    api::server::Refusal,
    error::{Error, ORGANIZATION},
};

impl ApiError {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Domain(error) => domain_code(error),
            Self::NotAuthenticated => "not_authenticated",
            Self::SecondFactorRequired(_) => "two_factor_required",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::CrossSite => "cross_site",
            Self::RateLimited { .. } => "rate_limited",
            Self::Refused(Refusal::Malformed) => "malformed",
            Self::Refused(Refusal::TargetTooLong) => "target_too_long",
            Self::Refused(Refusal::HeadTooLarge) => "head_too_large",
            Self::InvalidHost => "invalid_host",
            Self::UnknownHost => "unknown_host",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::InvalidFields(_) => "validation_error",
            Self::BodyTooLarge { .. } => "too_large",
            Self::TooManyBodies => "unavailable",
            Self::BodyTimeout => "request_timeout",
            Self::MalformedBody(_) => "malformed",
            Self::MalformedTags(_) => "invalid_header",
            Self::PreconditionNotSupported(_) => "precondition_not_supported",
            Self::PreconditionRequired => "precondition_required",
        }
    }
}

impl ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Domain(error) => domain_status(error),
            Self::NotAuthenticated => StatusCode::UNAUTHORIZED,
            Self::CrossSite | Self::SecondFactorRequired(_) => StatusCode::FORBIDDEN,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(refusal) => refusal.status(),
            Self::InvalidHost => StatusCode::BAD_REQUEST,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidFields(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyBodies => StatusCode::SERVICE_UNAVAILABLE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::MalformedBody(_)
            | Self::MalformedTags(_)
            | Self::PreconditionNotSupported(_)
            | Self::UnsupportedGrantType => StatusCode::BAD_REQUEST,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
        }
    }
}

fn domain_code(error: &Error) -> &'static str {
    match error {
        Error::NotFound(ORGANIZATION) => "org_not_found",
        Error::NotFound(_) => "not_found",
        Error::EmailTaken => "email_taken",
        Error::BadCredentials => "bad_credentials",
        Error::InvalidToken => "invalid_token",
        Error::Inactive => "inactive_user",
        Error::EmailNotVerified => "email_not_verified",
        Error::UserNotVerified => "user_not_verified",
        Error::WrongPassword => "wrong_password",
        Error::InvalidCode => "invalid_code",
        Error::InvalidLink => "invalid_link",
        Error::TwoFactorRequired => "two_factor_required",
        Error::LastAdmin => "last_admin",
        Error::LastOwner(_) => "last_owner",
        Error::RoleTooHigh(_) => "role_too_high",
        Error::OrgSuspended => "org_suspended",
        Error::MemberSuspended => "member_suspended",
        Error::OrgDeleting => "org_deleting",
        Error::PersonalOrg(_) => "personal_org",
        Error::SlugTaken => "slug_taken",
        Error::OrgLimit { .. } => "org_limit_reached",
        Error::MembershipLimit { .. } => "membership_limit_reached",
        Error::SeatLimit { .. } => "seat_limit_reached",
        Error::AlreadyMember => "already_member",
        Error::InvitationInvalid => "invitation_invalid",
        Error::InvitationExpired => "invitation_expired",
        Error::InvitationOtherAddress(_) => "invitation_other_address",
        Error::SessionRequired => "session_required",
        Error::ScopeMissing(_) => "scope_missing",
        Error::KeyEnded => "key_ended",
        Error::KeyLimit { .. } => "key_limit_reached",
        Error::TooManyAttempts { .. } => "too_many_attempts",
        Error::TooManyJobs { .. } => "too_many_jobs",
        Error::Forbidden => "forbidden",
        Error::IdempotencyKeyInUse => "idempotency_key_in_use",
        Error::IdempotencyKeyReused => "idempotency_key_reused",
        Error::IdempotencyNotSupported => "idempotency_not_supported",
        Error::Conflict(_) => "conflict",
        Error::PreconditionFailed => "precondition_failed",
        Error::NoMailServer => "no_mail_server",
        Error::JobTooLarge { .. } => "too_large",
        Error::JobTooDeep => "malformed",
        Error::Invalid(_) => "validation_error",
        Error::Unavailable { .. } => "unavailable",
        Error::Internal(_) => "internal_error",
    }
}

fn domain_status(error: &Error) -> StatusCode {
    match error {
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::EmailTaken
        | Error::IdempotencyNotSupported
        | Error::JobTooDeep
        | Error::WrongPassword
        | Error::InvalidCode
        | Error::InvalidLink
        | Error::InvitationInvalid
        | Error::InvitationExpired => StatusCode::BAD_REQUEST,
        Error::BadCredentials | Error::InvalidToken => StatusCode::UNAUTHORIZED,
        Error::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Error::Inactive
        | Error::Forbidden
        | Error::EmailNotVerified
        | Error::TwoFactorRequired
        | Error::RoleTooHigh(_)
        | Error::OrgSuspended
        | Error::MemberSuspended
        | Error::OrgDeleting
        | Error::InvitationOtherAddress(_)
        | Error::SessionRequired
        | Error::ScopeMissing(_) => StatusCode::FORBIDDEN,
        Error::Conflict(_)
        | Error::IdempotencyKeyInUse
        | Error::LastAdmin
        | Error::UserNotVerified
        | Error::LastOwner(_)
        | Error::PersonalOrg(_)
        | Error::SlugTaken
        | Error::OrgLimit { .. }
        | Error::MembershipLimit { .. }
        | Error::SeatLimit { .. }
        | Error::AlreadyMember
        | Error::KeyEnded
        | Error::KeyLimit { .. } => StatusCode::CONFLICT,
        Error::TooManyAttempts { .. } | Error::TooManyJobs { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::JobTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::IdempotencyKeyReused | Error::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Error::Unavailable { .. } | Error::NoMailServer => StatusCode::SERVICE_UNAVAILABLE,
        Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
