//! How a client receives the tokens of a session.

use std::fmt;

use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{ApiResponse, Enum, Object, payload::Json, types::Example};

use crate::{
    api::{cookies, problem::Result},
    app::App,
    error::Error,
    security::TokenSubject,
    services::sessions::{self, Grant},
};

/// How the server returns tokens.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Default)]
#[oai(rename_all = "lowercase")]
pub(super) enum Delivery {
    /// In the body of the response.
    #[default]
    Body,
    /// In cookies that scripts of a page cannot read.
    Cookie,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Body { "body" } else { "cookie" })
    }
}

/// The tokens of a session.
#[derive(Object)]
#[oai(example)]
pub(super) struct TokenOut {
    /// Send it in the header `Authorization: Bearer <access_token>`.
    access_token: String,
    /// Always `bearer`.
    token_type: String,
    /// Lifetime of the access token in seconds.
    expires_in: u64,
    /// Send it to `POST /auth/refresh` to get the next tokens. It is valid once.
    refresh_token: String,
    /// Seconds until the refresh token expires if it is not used.
    refresh_expires_in: u64,
}

impl Example for TokenOut {
    fn example() -> Self {
        Self {
            access_token: "eyJhbGciOiJIUzI1NiJ9.e30.c2ln".into(),
            token_type: "bearer".into(),
            expires_in: 1_800,
            refresh_token: "3f6c0d...".into(),
            refresh_expires_in: 2_592_000,
        }
    }
}

impl From<Grant> for TokenOut {
    fn from(grant: Grant) -> Self {
        Self {
            access_token: grant.access_token,
            token_type: "bearer".into(),
            expires_in: grant.expires_in,
            refresh_token: grant.refresh_token,
            refresh_expires_in: grant.refresh_expires_in,
        }
    }
}

#[derive(ApiResponse)]
pub(super) enum Granted {
    /// The tokens of the session.
    #[oai(status = 200)]
    Tokens(Json<TokenOut>),
    /// The tokens of the session are in cookies.
    #[oai(status = 204)]
    Cookies,
}

/// Returns the response with the tokens of a session: in its body or in cookies, according to `delivery`.
///
/// # Errors
/// As [`cookies::set`], only for cookies.
pub(super) fn deliver(
    grant: Grant,
    delivery: Delivery,
    request: &Request,
    jar: &CookieJar,
) -> Result<Granted> {
    if delivery == Delivery::Body {
        return Ok(Granted::Tokens(Json(grant.into())));
    }
    cookies::set(request, jar, &grant)?;
    Ok(Granted::Cookies)
}

/// Returns the sessions whose tokens the browser has in its cookies, because a sign-in with cookies replaces these
/// sessions. Empty if the tokens are delivered in the body.
///
/// # Errors
/// Those of [`cookies::refuse_cross_site`]; [`Error::Unavailable`] if PostgreSQL does not answer.
pub(super) async fn replaced_sessions(
    app: &App,
    request: &Request,
    delivery: Delivery,
) -> Result<Vec<TokenSubject>> {
    if delivery == Delivery::Body {
        return Ok(Vec::new());
    }
    cookies::refuse_cross_site(request)?;
    // Ignores a cookie that the browser sends twice, because it is unknown which of the values the server has set.
    let access_token = cookies::access_token(request).ok().flatten();
    let by_access_token = access_token.and_then(|token| app.tokens.verify(token).ok());
    // Reads the refresh token too, because the access token expires long before the session.
    let by_refresh_token = match cookies::refresh_token(request).ok().flatten() {
        None => None,
        Some(token) => match sessions::find_by_refresh_token(app, token).await {
            Ok(session) => Some(session),
            Err(Error::InvalidToken) => None,
            Err(error) => return Err(error.into()),
        },
    };
    Ok(by_access_token.into_iter().chain(by_refresh_token).collect())
}
