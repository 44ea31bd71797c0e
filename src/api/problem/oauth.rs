//! The error fields that OAuth2 clients read (RFC 6749 section 5.2).
//!
//! OAuth2 clients recognize an error by the field `error`. So all errors of the token endpoints have this field.

use poem::http::StatusCode;

use crate::api::paths::api_path;

const TOKEN_ENDPOINTS: [&str; 2] = [api_path!("/auth/login"), api_path!("/auth/refresh")];

/// Returns whether the path is that of a token endpoint (RFC 6749 section 3.2).
pub(super) fn is_token_endpoint(path: &str) -> bool {
    TOKEN_ENDPOINTS.contains(&path)
}

/// Returns the OAuth2 code of an error with this status and this API code.
///
/// RFC 6749 section 5.2 has no code for an overloaded or failing server, but section 8.5 permits additional codes. So
/// such errors use the codes of section 4.1.2.1.
pub(super) fn error_code(status: StatusCode, code: &'static str) -> &'static str {
    match code {
        "two_factor_required" | "unsupported_grant_type" => code,
        "bad_credentials" | "email_not_verified" | "invalid_token" => "invalid_grant",
        _ => match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "temporarily_unavailable",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request",
        },
    }
}

/// Replaces the characters that RFC 6749 section 5.2 forbids in `error_description`.
pub(super) fn description(detail: &str) -> String {
    let permitted = |c: char| match c {
        '"' => '\'',
        ' '..='~' if c != '\\' => c,
        _ => '?',
    };
    detail.chars().map(permitted).collect()
}
