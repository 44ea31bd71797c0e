//! The caller of an operation. An operation that takes one of these arguments requires authentication.
//!
//! The access token is in the header `Authorization: Bearer` or in a cookie. A browser adds the cookie to requests of
//! any page, also of other sites. So a request with a cookie that changes data must come from a trusted origin (OWASP
//! Cross-Site Request Forgery Prevention Cheat Sheet, "Verifying Origin").

use std::sync::{Arc, OnceLock};

use poem::{FromRequest, Request, RequestBody};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, registry::Registry};
use uuid::Uuid;

use super::{body_bytes::buffer, security_scheme};
use crate::{
    api::{
        cookies,
        problem::{ApiError, Result},
        quotas::charge,
    },
    app::App,
    context::RequestContext,
    error::Error,
    models::session::Identity,
    rate_limits::Caller,
    security::TokenSubject,
    services::{
        actor::{Actor, AdminActor},
        sessions,
    },
};

/// An active user and the session of the request, with the second factor if the server requires it of all users.
pub struct CurrentUser(pub Actor);

/// An active user, also without the second factor that the server requires. For operations that set up the
/// second factor.
pub struct SignedIn(pub Actor);

/// An active user who is an admin, with the second factor if the server requires one.
pub struct Admin(pub AdminActor);

/// The session to log out. A browser whose access token has expired can log out with its refresh token.
pub struct LogoutSession {
    pub session: TokenSubject,
    pub context: RequestContext,
}

/// The ids of the authenticated user and the session. The extractor sets them, and the logs read them after the response.
#[derive(Clone, Default)]
pub(in crate::api) struct LoggedUser(Arc<OnceLock<(i64, Uuid)>>);

impl LoggedUser {
    pub(in crate::api) fn get(&self) -> Option<(i64, Uuid)> {
        self.0.get().copied()
    }
}

/// The argument of operations without authentication. They are limited by the client's network.
impl<'a> FromRequest<'a> for RequestContext {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        let context = context(request);
        charge(request, Caller::network(context.ip))?;
        Ok(context)
    }
}

fn context(request: &Request) -> RequestContext {
    request.data::<RequestContext>().cloned().unwrap_or_default()
}

/// Implements an extractor of poem-openapi that requires authentication and calls `$extract`.
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
                    .ok_or_else(|| Error::internal("the route has no application data"))?;
                Ok($extract(app, request, body).await?)
            }
        }
    };
}

auth_extractor!(CurrentUser, current_user);
auth_extractor!(SignedIn, signed_in);
auth_extractor!(Admin, admin);
auth_extractor!(LogoutSession, logout_session);

pub(super) async fn current_user(
    app: &App,
    request: &Request,
    body: &mut RequestBody,
) -> Result<CurrentUser> {
    let (identity, context) = identify(app, request, body).await?;
    Ok(CurrentUser(Actor::new(app, identity, context)?))
}

async fn signed_in(app: &App, request: &Request, body: &mut RequestBody) -> Result<SignedIn> {
    let (identity, context) = identify(app, request, body).await?;
    Ok(SignedIn(Actor::signed_in(app, identity, context)?))
}

async fn admin(app: &App, request: &Request, body: &mut RequestBody) -> Result<Admin> {
    let (identity, context) = identify(app, request, body).await?;
    Ok(Admin(AdminActor::new(app, identity, context)?))
}

async fn logout_session(app: &App, request: &Request, body: &mut RequestBody) -> Result<LogoutSession> {
    let refused = match signed_in(app, request, body).await {
        Ok(SignedIn(actor)) => {
            let session = TokenSubject { user_id: actor.user().id, session_id: actor.session().id };
            return Ok(LogoutSession { session, context: actor.context().clone() });
        }
        Err(refused @ (ApiError::NotAuthenticated | ApiError::Domain(Error::InvalidToken))) => refused,
        Err(other) => return Err(other),
    };
    let Some(token) = cookies::refresh_token(request)? else { return Err(refused) };
    cookies::refuse_cross_site(request)?;
    let session = sessions::find_by_refresh_token(app, token).await?;
    Ok(LogoutSession { session, context: authenticated(request, session.user_id, session.session_id)? })
}

/// Authenticates the caller. The body is read before the identity, so that a session that is revoked while the client
/// sends the body is refused.
async fn identify(
    app: &App,
    request: &Request,
    body: &mut RequestBody,
) -> Result<(Arc<Identity>, RequestContext)> {
    let token = match cookies::bearer(request)? {
        Some(token) => token,
        None => {
            let token = cookies::access_token(request)?.ok_or(ApiError::NotAuthenticated)?;
            cookies::refuse_cross_site(request)?;
            token
        }
    };
    let subject = app.tokens.verify(token)?;
    buffer(request, body).await?;
    let identity = sessions::identify(app, subject).await?;
    let context = authenticated(request, identity.user.id, identity.session.id)?;
    Ok((identity, context))
}

/// Returns the context of the request with its user and session. Also sets the ids for the logs, and charges the request
/// to the user.
fn authenticated(request: &Request, user_id: i64, session_id: Uuid) -> Result<RequestContext> {
    if let Some(LoggedUser(ids)) = request.data::<LoggedUser>() {
        // Fails if the user is set already. A request has only one user.
        let _ = ids.set((user_id, session_id));
    }
    charge(request, Caller::User(user_id))?;
    Ok(context(request).signed_in(user_id, session_id))
}
