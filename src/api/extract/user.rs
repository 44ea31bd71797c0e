//! The caller of an operation. An operation that takes [`CurrentUser`], [`SignedIn`], [`Admin`], [`LogoutSession`] or `OrgMember`
//! requires authentication. An operation that takes [`RequestContext`] instead is public.
//!
//! The access token is in the header `Authorization: Bearer` or in a cookie. A browser may add the cookie to requests of
//! pages that are not part of the product, such as those of another host of the same site. So a request with the cookie and
//! an unsafe method, such as POST, must come from a trusted origin (OWASP Cross-Site Request Forgery Prevention Cheat Sheet,
//! "Verifying Origin").
//!
//! The header can also contain an API key. Only `OrgMember` accepts API keys, because no other extractor checks their
//! scopes.

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
    security::{TokenSubject, api_key},
    services::{
        actor::{Actor, AdminActor},
        api_key_access::{self, KeyHash},
        org_caller::{KeyCaller, OrgCaller},
        sessions,
    },
};

/// An active user with a valid session. The session has the second factor if the server requires it of all users.
pub struct CurrentUser(pub Actor);

/// An active user with a valid session, which may lack a required second factor. For operations that a user without the
/// second factor needs: set up the second factor, read the user's own account, and sign out.
pub struct SignedIn(pub Actor);

/// An active admin with a valid session. The session has the second factor if the server requires it of admins or of all
/// users.
pub struct Admin(pub AdminActor);

/// The session to revoke at logout. A browser whose access token has expired can log out with the refresh token in its
/// cookie.
pub struct LogoutSession {
    pub session: TokenSubject,
    pub context: RequestContext,
}

/// The ids of the authenticated caller. The extractor sets them. The middleware reads them after the handler, for the access
/// log and for security events.
#[derive(Clone, Default)]
pub(in crate::api) struct LoggedUser(Arc<OnceLock<CallerIds>>);

/// The user, and the session or the API key by which the user was authenticated.
#[derive(Clone, Copy)]
pub(in crate::api) enum CallerIds {
    Session { user_id: i64, session_id: Uuid },
    Key { user_id: i64, key_id: i64 },
}

impl LoggedUser {
    pub(in crate::api) fn get(&self) -> Option<CallerIds> {
        self.0.get().copied()
    }
}

impl CallerIds {
    /// Returns a copy of `context` with these ids.
    pub(in crate::api) fn in_context(self, context: &RequestContext) -> RequestContext {
        match self {
            Self::Session { user_id, session_id } => context.signed_in(user_id, session_id),
            Self::Key { user_id, key_id } => context.with_api_key(user_id, key_id),
        }
    }

    pub(in crate::api) fn user_id(self) -> i64 {
        match self {
            Self::Session { user_id, .. } | Self::Key { user_id, .. } => user_id,
        }
    }

    pub(in crate::api) fn key_id(self) -> Option<i64> {
        match self {
            Self::Session { .. } => None,
            Self::Key { key_id, .. } => Some(key_id),
        }
    }

    /// Returns the caller to which the rate limits charge the request.
    fn caller(self) -> Caller {
        match self {
            Self::Session { user_id, .. } => Caller::User(user_id),
            Self::Key { key_id, .. } => Caller::ApiKey(key_id),
        }
    }
}

/// The extractor of operations without authentication. It charges the request to the rate limit of the client's network.
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
                security_scheme::names(false)
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

async fn current_user(app: &App, request: &Request, body: &mut RequestBody) -> Result<CurrentUser> {
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
    let ids = CallerIds::Session { user_id: session.user_id, session_id: session.session_id };
    Ok(LogoutSession { session, context: authenticated(request, ids)? })
}

/// The credentials of a request, after the checks that need no database query: the signature and the expiry of an access token,
/// or the form and the checksum of an API key.
enum Credentials {
    Session(TokenSubject),
    Key(KeyHash),
}

fn credentials(app: &App, request: &Request) -> Result<Credentials> {
    let token = match cookies::bearer(request)? {
        Some(token) if api_key::has_prefix(token) => return Ok(Credentials::Key(KeyHash::parse(token)?)),
        Some(token) => token,
        None => {
            let token = cookies::access_token(request)?.ok_or(ApiError::NotAuthenticated)?;
            cookies::refuse_cross_site(request)?;
            token
        }
    };
    Ok(Credentials::Session(app.tokens.verify(token)?))
}

/// Authenticates a signed-in caller. Reads the body of the request before the identity, so that a client that sends slowly
/// cannot act long after its session was revoked.
async fn identify(
    app: &App,
    request: &Request,
    body: &mut RequestBody,
) -> Result<(Arc<Identity>, RequestContext)> {
    let credentials = credentials(app, request)?;
    buffer(request, body).await?;
    match credentials {
        Credentials::Session(subject) => identify_session(app, request, subject).await,
        // `identify_key` refuses an invalid key with `InvalidToken`. So `SessionRequired` tells the client that the key is
        // valid, but the operation does not accept keys.
        Credentials::Key(hash) => {
            identify_key(app, request, &hash).await?;
            Err(Error::SessionRequired.into())
        }
    }
}

/// Authenticates a signed-in caller or an API key. Reads the body before the identity, like [`identify`].
pub(super) async fn org_caller(app: &App, request: &Request, body: &mut RequestBody) -> Result<OrgCaller> {
    let credentials = credentials(app, request)?;
    buffer(request, body).await?;
    Ok(match credentials {
        Credentials::Session(subject) => {
            let (identity, context) = identify_session(app, request, subject).await?;
            OrgCaller::Session(Actor::new(app, identity, context)?)
        }
        Credentials::Key(hash) => OrgCaller::Key(identify_key(app, request, &hash).await?),
    })
}

async fn identify_session(
    app: &App,
    request: &Request,
    subject: TokenSubject,
) -> Result<(Arc<Identity>, RequestContext)> {
    let identity = sessions::identify(app, subject).await?;
    let ids = CallerIds::Session { user_id: identity.user.id, session_id: identity.session.id };
    let context = authenticated(request, ids)?;
    Ok((identity, context))
}

async fn identify_key(app: &App, request: &Request, hash: &KeyHash) -> Result<KeyCaller> {
    let identity = api_key_access::identify(app, hash).await?;
    let ids = CallerIds::Key { user_id: identity.key.created_by, key_id: identity.key.id };
    let context = authenticated(request, ids)?;
    Ok(KeyCaller::new(app, identity, context)?)
}

/// Returns the context of the request with the ids of its caller. Also stores the ids for the access log, and charges
/// the request to the rate limit of the caller.
fn authenticated(request: &Request, ids: CallerIds) -> Result<RequestContext> {
    if let Some(LoggedUser(logged)) = request.data::<LoggedUser>() {
        // `set` fails if the ids are already set. The access log then keeps the first ids.
        let _ = logged.set(ids);
    }
    charge(request, ids.caller())?;
    Ok(ids.in_context(&context(request)))
}
