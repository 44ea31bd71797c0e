//! The forms of token requests, as OAuth2 clients send them (RFC 6749 sections 4.3.2 and 6).

use poem_openapi::{Enum, Object};
use serde_json::Value;

use crate::api::{
    extract::{FormContent, FormFields, parse_form},
    problem::{ApiError, Result},
};

/// The form of the OAuth2 password flow (RFC 6749 section 4.3.2).
#[derive(Object)]
pub(super) struct LoginIn {
    /// Email address of the user.
    pub(super) username: String,
    pub(super) password: String,
    grant_type: Option<PasswordGrant>,
}

/// The grant type of a sign-in with a password. The field may be absent.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum PasswordGrant {
    Password,
}

/// The form of an OAuth2 client that refreshes its tokens (RFC 6749 section 6).
#[derive(Object)]
pub(super) struct RefreshFormIn {
    /// The refresh token.
    #[oai(validator(max_length = 128))]
    pub(super) refresh_token: String,
    grant_type: Option<RefreshGrant>,
}

/// The grant type of a refresh. The field may be absent.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum RefreshGrant {
    RefreshToken,
}

/// A form that the login accepts. An OAuth2 client that knows only one token URL also sends its refresh requests to the login.
pub(super) enum LoginGrant {
    Password(LoginIn),
    Refresh(RefreshFormIn),
}

impl FormContent for LoginGrant {
    type Schema = LoginIn;

    fn parse(fields: FormFields) -> Result<Self> {
        let fields = without_empty(fields);
        match fields.get("grant_type").and_then(Value::as_str) {
            None | Some("password") => Ok(Self::Password(parse_form(fields)?)),
            Some("refresh_token") => Ok(Self::Refresh(parse_form(fields)?)),
            Some(_) => Err(ApiError::UnsupportedGrantType),
        }
    }
}

impl FormContent for RefreshFormIn {
    type Schema = Self;

    fn parse(fields: FormFields) -> Result<Self> {
        let fields = without_empty(fields);
        match fields.get("grant_type").and_then(Value::as_str) {
            None | Some("refresh_token") => parse_form(fields),
            Some(_) => Err(ApiError::UnsupportedGrantType),
        }
    }
}

/// Removes an empty `grant_type` or `refresh_token`: an empty parameter counts as omitted (RFC 6749 section 3.2). Keeps an
/// empty `username` or `password`, so that the login fails as for wrong credentials.
fn without_empty(mut fields: FormFields) -> FormFields {
    for name in ["grant_type", "refresh_token"] {
        if fields.get(name).is_some_and(|value| value == "") {
            fields.remove(name);
        }
    }
    fields
}
