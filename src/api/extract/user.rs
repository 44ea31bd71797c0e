//! Who is asking. Taking one of these as an argument is the check.
//!
//! The access token is in the header `Authorization: Bearer`, or in the cookie of a browser that asked for cookies.
//! A cookie goes along with whatever page makes the browser send a request, so a request that changes something must
//! then come from a page of ours (OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "Verifying Origin").

use std::sync::{Arc, OnceLock};

use poem::{FromRequest, Request, RequestBody};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, registry::Registry};
use uuid::Uuid;

use super::{body_bytes::buffer, security_scheme};
use crate::{
    api::{
        cookies,
        problem::{ApiError, Result},
    },
    app::App,
    context::RequestContext,
    error::Error,
    models::session::Identity,
    security::TokenSubject,
    services::{
        actor::{Actor, AdminActor},
        sessions,
    },
};

/// An active user, in the session that the request belongs to.
pub struct CurrentUser(pub Actor);

/// An active user who is an admin, with the second factor if the server requires one.
pub struct Admin(pub AdminActor);

/// The session to log out of. A browser whose access token has expired may still log out with its refresh token.
pub struct LogoutSession {
    pub session: TokenSubject,
    pub context: RequestContext,
}

/// The user that a request is authenticated as, once that is known: for the access log, which is outside of the handler.
#[derive(Clone, Default)]
pub(in crate::api) struct LoggedUser(Arc<OnceLock<i64>>);

impl LoggedUser {
    pub(in crate::api) fn id(&self) -> Option<i64> {
        self.0.get().copied()
    }
}

/// For operations that need no authentication.
impl<'a> FromRequest<'a> for RequestContext {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        Ok(context(request))
    }
}

fn context(request: &Request) -> RequestContext {
    request.data::<RequestContext>().cloned().unwrap_or_default()
}

macro_rules! auth_extractor {
    ($name:ident, $extract:ident) => {
        impl<'a> ApiExtractor<'a> for $name {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                security_scheme::register(registry);
            }

            fn security_schemes() -> Vec<&'static str> {
                security_scheme::NAMES.to_vec()
            }

            async fn from_request(
                request: &'a Request,
                body: &mut RequestBody,
                _options: ExtractParamOptions<()>,
            ) -> poem::Result<Self> {
                let app = request
                    .data::<App>()
                    .ok_or_else(|| Error::internal("the application is not attached to the route"))?;
                Ok($extract(app, request, body).await?)
            }
        }
    };
}

auth_extractor!(CurrentUser, current_user);
auth_extractor!(Admin, admin);
auth_extractor!(LogoutSession, logout_session);

async fn current_user(app: &App, request: &Request, body: &mut RequestBody) -> Result<CurrentUser> {
    let (identity, context) = identify(app, request, body).await?;
    Ok(CurrentUser(Actor::new(app, identity, context)?))
}

async fn admin(app: &App, request: &Request, body: &mut RequestBody) -> Result<Admin> {
    let (identity, context) = identify(app, request, body).await?;
    Ok(Admin(AdminActor::new(app, identity, context)?))
}

async fn logout_session(app: &App, request: &Request, body: &mut RequestBody) -> Result<LogoutSession> {
    let refused = match current_user(app, request, body).await {
        Ok(CurrentUser(actor)) => {
            let session = TokenSubject { user_id: actor.user().id, session_id: actor.session().id };
            return Ok(LogoutSession { session, context: actor.context().clone() });
        }
        Err(refused @ (ApiError::NotAuthenticated | ApiError::Domain(Error::InvalidToken))) => refused,
        Err(other) => return Err(other),
    };
    let Some(token) = cookies::refresh_token(request) else { return Err(refused) };
    cookies::refuse_cross_site(request)?;
    let session = sessions::find_by_refresh_token(app, &token).await?;
    Ok(LogoutSession { session, context: authenticated(request, session.user_id, session.session_id) })
}

/// Verifies the signature of the access token, reads the body, and only then reads the identity: what the client lost while
/// it sent the body counts.
async fn identify(
    app: &App,
    request: &Request,
    body: &mut RequestBody,
) -> Result<(Arc<Identity>, RequestContext)> {
    let token = match cookies::bearer(request) {
        Some(token) => token,
        None => {
            let token = cookies::access_token(request).ok_or(ApiError::NotAuthenticated)?;
            cookies::refuse_cross_site(request)?;
            token
        }
    };
    let subject = app.tokens.verify(&token)?;
    buffer(request, body).await?;
    let identity = sessions::identify(app, subject).await?;
    let context = authenticated(request, identity.user.id, identity.session.id);
    Ok((identity, context))
}

/// The context of a request whose user is known from now on.
fn authenticated(request: &Request, user_id: i64, session_id: Uuid) -> RequestContext {
    if let Some(LoggedUser(id)) = request.data::<LoggedUser>() {
        // One request has one user.
        let _ = id.set(user_id);
    }
    context(request).signed_in(user_id, session_id)
}
