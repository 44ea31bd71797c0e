//! Who is asking. Taking one of these as an argument is the check.
//!
//! The access token is in the header `Authorization: Bearer`, or in the cookie of a browser that asked for cookies.
//! A cookie goes along with whatever page makes the browser send a request, so a request that changes something must
//! then come from a page of ours (OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "Verifying Origin").

use std::sync::{Arc, OnceLock};

use poem::{FromRequest, Request, RequestBody};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, registry::Registry};
use uuid::Uuid;

use super::security_scheme;
use crate::{
    api::{
        cookies,
        problem::{ApiError, Result},
    },
    app::App,
    context::RequestContext,
    error::Error,
    models::{
        session::Identity,
        user::{Role, User},
    },
    security::TokenSubject,
    services::sessions::{self, Freshness},
};

/// An active user.
pub struct CurrentUser {
    pub user: User,
    pub context: RequestContext,
}

/// An active user and the session that the request belongs to.
pub struct SignedIn {
    pub identity: Arc<Identity>,
    pub context: RequestContext,
}

/// The session to log out of. A browser whose access token has expired may still log out with its refresh token.
pub struct LogoutSession {
    pub session: TokenSubject,
    pub context: RequestContext,
}

/// An active user who is an admin.
pub struct Admin {
    pub user: User,
    pub context: RequestContext,
}

/// The user that a request is authenticated as, once that is known: for the access log, which is outside of the handler.
#[derive(Clone, Default)]
pub(in crate::api) struct Actor(Arc<OnceLock<i64>>);

impl Actor {
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
                _body: &mut RequestBody,
                _options: ExtractParamOptions<()>,
            ) -> poem::Result<Self> {
                let app = request
                    .data::<App>()
                    .ok_or_else(|| Error::internal("the application is not attached to the route"))?;
                Ok($extract(app, request).await?)
            }
        }
    };
}

auth_extractor!(CurrentUser, current_user);
auth_extractor!(SignedIn, signed_in);
auth_extractor!(Admin, admin);
auth_extractor!(LogoutSession, logout_session);

async fn current_user(app: &App, request: &Request) -> Result<CurrentUser> {
    let SignedIn { identity, context } = signed_in(app, request).await?;
    Ok(CurrentUser { user: identity.user.clone(), context })
}

async fn signed_in(app: &App, request: &Request) -> Result<SignedIn> {
    identify(app, request, Freshness::Cached).await
}

async fn admin(app: &App, request: &Request) -> Result<Admin> {
    // A user who was an admin a moment ago must not make themselves one again.
    let freshness = if request.method().is_safe() { Freshness::Cached } else { Freshness::Fresh };
    let SignedIn { identity, context } = identify(app, request, freshness).await?;
    match identity.user.role {
        Role::User => Err(Error::Forbidden.into()),
        Role::Admin if sessions::lacks_second_factor(app, &identity) => Err(Error::TwoFactorRequired.into()),
        Role::Admin => Ok(Admin { user: identity.user.clone(), context }),
    }
}

async fn logout_session(app: &App, request: &Request) -> Result<LogoutSession> {
    let refused = match signed_in(app, request).await {
        Ok(SignedIn { identity, context }) => {
            let session = TokenSubject { user_id: identity.user.id, session_id: identity.session.id };
            return Ok(LogoutSession { session, context });
        }
        Err(refused @ (ApiError::NotAuthenticated | ApiError::Domain(Error::InvalidToken))) => refused,
        Err(other) => return Err(other),
    };
    let Some(token) = cookies::refresh_token(request) else { return Err(refused) };
    cookies::refuse_cross_site(request)?;
    let session = sessions::find_by_refresh_token(app, &token).await?;
    Ok(LogoutSession { session, context: authenticated(request, session.user_id, session.session_id) })
}

async fn identify(app: &App, request: &Request, freshness: Freshness) -> Result<SignedIn> {
    let token = match cookies::bearer(request) {
        Some(token) => token,
        None => {
            let token = cookies::access_token(request).ok_or(ApiError::NotAuthenticated)?;
            cookies::refuse_cross_site(request)?;
            token
        }
    };
    let identity = sessions::identify(app, &token, freshness).await?;
    let context = authenticated(request, identity.user.id, identity.session.id);
    Ok(SignedIn { identity, context })
}

/// The context of a request whose user is known from now on.
fn authenticated(request: &Request, user_id: i64, session_id: Uuid) -> RequestContext {
    if let Some(Actor(id)) = request.data::<Actor>() {
        // One request has one user.
        let _ = id.set(user_id);
    }
    context(request).signed_in(user_id, session_id)
}
