//! How clients authenticate, for the API document.

use poem_openapi::registry::{MetaOAuthFlow, MetaOAuthFlows, MetaSecurityScheme, Registry};

use crate::api::{cookies, paths::api_path};

const BEARER: &str = "OAuth2PasswordBearer";
const COOKIE: &str = "AccessTokenCookie";
/// Either is sufficient.
pub(super) const NAMES: [&str; 2] = [BEARER, COOKIE];

/// Documents both schemes.
pub(super) fn register(registry: &mut Registry) {
    registry.create_security_scheme(BEARER, bearer());
    registry.create_security_scheme(COOKIE, cookie());
}

fn bearer() -> MetaSecurityScheme {
    let flow = MetaOAuthFlow {
        authorization_url: None,
        token_url: Some(api_path!("/auth/login")),
        refresh_url: None,
        scopes: vec![],
    };
    let description = concat!(
        "Sign in with email and password, or paste the token from `POST ",
        api_path!("/auth/login"),
        "`."
    );
    MetaSecurityScheme {
        flows: Some(MetaOAuthFlows {
            implicit: None,
            password: Some(flow),
            client_credentials: None,
            authorization_code: None,
        }),
        ..scheme("oauth2", description)
    }
}

fn cookie() -> MetaSecurityScheme {
    let description =
        concat!("What a browser gets from `POST ", api_path!("/auth/login"), "?delivery=cookie`.");
    MetaSecurityScheme {
        name: Some(cookies::SECURE_ACCESS),
        key_in: Some("cookie"),
        ..scheme("apiKey", description)
    }
}

fn scheme(ty: &'static str, description: &'static str) -> MetaSecurityScheme {
    MetaSecurityScheme {
        ty,
        description: Some(description),
        name: None,
        key_in: None,
        scheme: None,
        bearer_format: None,
        flows: None,
        openid_connect_url: None,
    }
}
