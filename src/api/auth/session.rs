//! The session of the caller: refresh its tokens, sign out.

use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{ApiRequest, ApiResponse, Object, OpenApi};

use super::{
    grants::RefreshFormIn,
    tokens::{Delivery, Granted, deliver},
};
use crate::{
    api::{
        cookies,
        extract::{Body, Form, LogoutSession, SignedIn},
        problem::{ApiError, Result},
        tag::Tag,
    },
    app::App,
    context::RequestContext,
    error::Error,
    services::sessions,
};

/// Operations on the session of the caller.
pub(in crate::api) struct Session(pub(super) App);

/// A refresh token.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RefreshIn {
    /// The refresh token. A browser that has it in a cookie omits this field.
    #[oai(nullable, validator(max_length = 128))]
    refresh_token: Option<String>,
}

/// JSON, or the form of an OAuth2 client. Only JSON can omit the refresh token, which is then read from the cookie.
// Any page can make a browser send a form to another site, so a form must not use the cookie.
#[derive(ApiRequest)]
enum RefreshRequest {
    Json(Body<RefreshIn>),
    Form(Form<RefreshFormIn>),
}

#[derive(ApiResponse)]
enum LoggedOut {
    /// The session was revoked, and the cookies were removed.
    #[oai(status = 204)]
    NoContent,
}

#[derive(ApiResponse)]
enum LoggedOutEverywhere {
    /// All sessions of the user were revoked, and the cookies were removed.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Session {
    /// Returns a new access token and a new refresh token.
    ///
    /// A refresh token is valid once. If it is used again within 10 seconds, the response has the same new refresh token. If it
    /// is used again later, while the session is active and the token is still stored, the session is revoked, and the user gets
    /// a mail. A browser that has the refresh token in a cookie sends `{}`. OAuth2 clients send the form of RFC 6749 section 6.
    /// Fails with 401 `invalid_token` if the token is unknown, expired or was used earlier, if the session has ended, or if the
    /// user is inactive. Fails with 401 `not_authenticated` if neither the JSON body nor a cookie has a refresh token. Errors
    /// have the OAuth2 code in `error`.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh")]
    async fn refresh(
        &self,
        request: &Request,
        jar: &CookieJar,
        context: RequestContext,
        body: RefreshRequest,
    ) -> Result<Granted> {
        let token = match body {
            RefreshRequest::Json(Body(body)) => body.refresh_token,
            RefreshRequest::Form(Form(form)) => Some(form.refresh_token),
        };
        if let Some(token) = token {
            let grant = sessions::refresh(&self.0, &context, &token).await?;
            return deliver(grant, Delivery::Body, request, jar);
        }
        let token = cookies::refresh_token(request)?.ok_or(ApiError::NotAuthenticated)?;
        cookies::refuse_cross_site(request)?;
        let grant = sessions::refresh(&self.0, &context, token).await?;
        deliver(grant, Delivery::Cookie, request, jar)
    }

    /// Signs out: revokes the current session.
    ///
    /// After the access token has expired, a browser can still sign out with the refresh token in its cookie.
    #[oai(path = "/logout", method = "post", operation_id = "logout")]
    async fn logout(&self, request: &Request, jar: &CookieJar, caller: LogoutSession) -> Result<LoggedOut> {
        let LogoutSession { session, context } = caller;
        match sessions::log_out(&self.0, &context, session).await {
            // `NotFound`: the session is already revoked, or no longer exists.
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(other) => return Err(other.into()),
        }
        cookies::clear(request, jar)?;
        Ok(LoggedOut::NoContent)
    }

    /// Signs out everywhere: revokes all your sessions.
    ///
    /// This includes the current session.
    #[oai(path = "/logout-all", method = "post", operation_id = "logout_all")]
    async fn logout_all(
        &self,
        request: &Request,
        jar: &CookieJar,
        SignedIn(actor): SignedIn,
    ) -> Result<LoggedOutEverywhere> {
        sessions::revoke_all(&self.0, &actor).await?;
        cookies::clear(request, jar)?;
        Ok(LoggedOutEverywhere::NoContent)
    }
}
