//! The session of the caller: refresh its tokens, end it.

use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{Object, OpenApi, payload::Json};

use super::tokens::Refreshed;
use crate::{
    api::{
        cookies,
        extract::{Body, CurrentUser, LogoutSession},
        problem::{ApiError, Result},
        respond::NoContent,
        tag::Tag,
    },
    app::App,
    context::RequestContext,
    error::Error,
    services::sessions,
};

pub(in crate::api) struct Session(pub(super) App);

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RefreshIn {
    /// Left out by a browser that has it in a cookie.
    #[oai(validator(max_length = 128))]
    refresh_token: Option<String>,
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Session {
    /// Trade a refresh token for the next one and an access token.
    ///
    /// Each works once; the same again within 10 seconds gets the same answer, later it ends the session. A browser
    /// with cookies sends `{}`. Fails with 401 `invalid_token`.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh")]
    async fn refresh(
        &self,
        request: &Request,
        jar: &CookieJar,
        context: RequestContext,
        Body(body): Body<RefreshIn>,
    ) -> Result<Refreshed> {
        if let Some(token) = body.refresh_token {
            let grant = sessions::refresh(&self.0, &context, &token).await?;
            return Ok(Refreshed::Tokens(Json(grant.into())));
        }
        let token = cookies::refresh_token(request).ok_or(ApiError::NotAuthenticated)?;
        cookies::refuse_cross_site(request)?;
        let grant = sessions::refresh(&self.0, &context, &token).await?;
        cookies::set(request, jar, &grant)?;
        Ok(Refreshed::Cookies)
    }

    /// Sign out: end this session.
    ///
    /// A browser with cookies may do so after its access token is over.
    #[oai(path = "/logout", method = "post", operation_id = "logout")]
    async fn logout(&self, request: &Request, jar: &CookieJar, caller: LogoutSession) -> Result<NoContent> {
        let LogoutSession { session, context } = caller;
        match sessions::log_out(&self.0, &context, session).await {
            // Another request has ended it already.
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(other) => return Err(other.into()),
        }
        cookies::clear(request, jar)?;
        Ok(NoContent)
    }

    /// Sign out everywhere: end all your sessions.
    #[oai(path = "/logout-all", method = "post", operation_id = "logout_all")]
    async fn logout_all(
        &self,
        request: &Request,
        jar: &CookieJar,
        CurrentUser(actor): CurrentUser,
    ) -> Result<NoContent> {
        sessions::revoke_all(&self.0, &actor).await?;
        cookies::clear(request, jar)?;
        Ok(NoContent)
    }
}
