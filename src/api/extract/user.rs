//! Who is asking. Taking one of these as an argument is the check.
//!
//! The access token is in the header `Authorization: Bearer`, or in the cookie of a browser that asked for cookies.
//! A cookie goes along with whatever page makes the browser send a request, so a request that changes something must
//! then come from a page of ours (OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "Verifying Origin").

use std::sync::Arc;

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaOAuthFlow, MetaOAuthFlows, MetaSecurityScheme, Registry},
};

use crate::{
    api::cookies,
    app::App,
    error::{Error, Result},
    models::user::{Role, User},
    security::Access,
    services::sessions::{self, Age, Identity},
    telemetry,
};

/// An active user.
pub struct CurrentUser(pub User);

/// An active user, and the session in which they ask.
pub struct SignedIn(pub Arc<Identity>);

/// Whoever signs out. A browser whose access token is over may still do so, with its refresh token.
pub struct Leaving(pub Access);

/// An active user who is an admin.
pub struct Admin(pub User);

const BEARER: &str = "OAuth2PasswordBearer";
const COOKIE: &str = "AccessTokenCookie";

macro_rules! who {
    ($name:ident, $of:ident) => {
        impl<'a> ApiExtractor<'a> for $name {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                register_schemes(registry);
            }

            fn security_schemes() -> Vec<&'static str> {
                vec![BEARER, COOKIE]
            }

            async fn from_request(
                request: &'a Request,
                _body: &mut RequestBody,
                _options: ExtractParamOptions<()>,
            ) -> poem::Result<Self> {
                let app = request
                    .data::<App>()
                    .ok_or_else(|| Error::internal("the application is not attached to the route"))?;
                Ok(Self($of(app, request).await?))
            }
        }
    };
}

who!(CurrentUser, user);
who!(SignedIn, signed_in);
who!(Admin, admin);
who!(Leaving, leaving);

async fn user(app: &App, request: &Request) -> Result<User> {
    Ok(signed_in(app, request).await?.user.clone())
}

async fn admin(app: &App, request: &Request) -> Result<User> {
    // Whoever was an admin a moment ago must not make themselves one again.
    let age = if request.method().is_safe() { Age::Moment } else { Age::Now };
    let who = identity(app, request, age).await?;
    match who.user.role {
        Role::User => Err(Error::Forbidden),
        Role::Admin if who.lacks_second_factor(app) => Err(Error::TwoFactorRequired),
        Role::Admin => Ok(who.user.clone()),
    }
}

async fn leaving(app: &App, request: &Request) -> Result<Access> {
    let refused = match signed_in(app, request).await {
        Ok(who) => return Ok(Access { user_id: who.user.id, session_id: who.session.id }),
        Err(refused @ (Error::NotAuthenticated | Error::InvalidToken)) => refused,
        Err(other) => return Err(other),
    };
    let Some(token) = cookies::refresh_token(request) else { return Err(refused) };
    cookies::refuse_cross_site(request)?;
    let access = sessions::of_refresh_token(app, &token).await?;
    let _ = telemetry::REQUEST.try_with(|request| request.user.set(access.user_id));
    Ok(access)
}

async fn signed_in(app: &App, request: &Request) -> Result<Arc<Identity>> {
    identity(app, request, Age::Moment).await
}

async fn identity(app: &App, request: &Request, age: Age) -> Result<Arc<Identity>> {
    let token = match cookies::bearer(request) {
        Some(token) => token,
        None => {
            let token = cookies::access_token(request).ok_or(Error::NotAuthenticated)?;
            cookies::refuse_cross_site(request)?;
            token
        }
    };
    let who = sessions::identify(app, &token, age).await?;
    let _ = telemetry::REQUEST.try_with(|request| request.user.set(who.user.id));
    Ok(who)
}

fn register_schemes(registry: &mut Registry) {
    let flow = MetaOAuthFlow {
        authorization_url: None,
        token_url: Some("/api/v1/auth/login"),
        refresh_url: None,
        scopes: vec![],
    };
    let scheme = |ty, description| MetaSecurityScheme {
        ty,
        description: Some(description),
        name: None,
        key_in: None,
        scheme: None,
        bearer_format: None,
        flows: None,
        openid_connect_url: None,
    };
    registry.create_security_scheme(
        BEARER,
        MetaSecurityScheme {
            flows: Some(MetaOAuthFlows {
                implicit: None,
                password: Some(flow),
                client_credentials: None,
                authorization_code: None,
            }),
            ..scheme(
                "oauth2",
                "Sign in with email and password, or paste the token from `POST /api/v1/auth/login`.",
            )
        },
    );
    registry.create_security_scheme(
        COOKIE,
        MetaSecurityScheme {
            name: Some(cookies::SECURE_ACCESS),
            key_in: Some("cookie"),
            ..scheme("apiKey", "What a browser gets from `POST /api/v1/auth/login?delivery=cookie`.")
        },
    );
}
