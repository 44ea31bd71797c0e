//! Who is asking. Taking one of these as an argument is the check.
//!
//! The access token is in the header `Authorization: Bearer`, or in the cookie of a browser that asked for cookies.
//! A cookie goes along with whatever page makes the browser send a request, so a request that changes something must
//! then come from a page of ours (OWASP Cross-Site Request Forgery Prevention Cheat Sheet, "Verifying Origin").

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
    services::{self, sessions::Identity},
    telemetry,
};

/// An active user.
pub struct CurrentUser(pub User);

/// An active user, and the session in which they ask.
pub struct SignedIn(pub Identity);

/// An active user who is an admin.
pub struct Admin(pub User);

const BEARER: &str = "OAuth2PasswordBearer";
const COOKIE: &str = "AccessTokenCookie";

macro_rules! who {
    ($name:ident, $check:expr) => {
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
                let check: fn(&App, Identity) -> Result<Self> = $check;
                let (app, identity) = identify(request).await?;
                Ok(check(app, identity)?)
            }
        }
    };
}

who!(CurrentUser, |_, who| Ok(Self(who.user)));
who!(SignedIn, |_, who| Ok(Self(who)));
who!(Admin, |app, who| match who.user.role {
    Role::User => Err(Error::Forbidden),
    Role::Admin if who.lacks_second_factor(app) => {
        Err(Error::TwoFactorRequired)
    }
    Role::Admin => Ok(Self(who.user)),
});

async fn identify(request: &Request) -> Result<(&App, Identity)> {
    let app = request
        .data::<App>()
        .ok_or_else(|| Error::internal("the application is not attached to the route"))?;
    let token = match cookies::bearer(request) {
        Some(token) => token,
        None => {
            let token = cookies::access_token(request).ok_or(Error::NotAuthenticated)?;
            cookies::refuse_cross_site(request)?;
            token
        }
    };
    let identity = services::sessions::identify(app, &token).await?;
    let _ = telemetry::REQUEST.try_with(|request| request.user.set(identity.user.id));
    Ok((app, identity))
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
