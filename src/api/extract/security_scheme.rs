//! The authentication schemes in the OpenAPI document.

use poem_openapi::registry::{MetaOAuthFlow, MetaOAuthFlows, MetaSecurityScheme, Registry};

use crate::api::{cookies, paths::api_path};

const PASSWORD_FLOW: &str = "OAuth2PasswordBearer";
const BEARER: &str = "HTTPBearer";
const COOKIE: &str = "AccessTokenCookie";
const API_KEY: &str = "ApiKey";

/// Returns the names of the schemes that an operation accepts. `accepts_keys` says whether it accepts API keys.
pub(super) fn names(accepts_keys: bool) -> Vec<&'static str> {
    let key = accepts_keys.then_some(API_KEY);
    [PASSWORD_FLOW, BEARER, COOKIE].into_iter().chain(key).collect()
}

/// Adds the schemes to the document.
pub(super) fn register(registry: &mut Registry) {
    registry.create_security_scheme(PASSWORD_FLOW, password_flow());
    registry.create_security_scheme(BEARER, bearer());
    registry.create_security_scheme(COOKIE, cookie());
    registry.create_security_scheme(API_KEY, api_key());
}

fn password_flow() -> MetaSecurityScheme {
    let flow = MetaOAuthFlow {
        authorization_url: None,
        token_url: Some(api_path!("/auth/login")),
        refresh_url: Some(api_path!("/auth/refresh")),
        scopes: vec![],
    };
    let description =
        "Sign in with email and password. Users with two-factor authentication use `HTTPBearer`.";
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

fn bearer() -> MetaSecurityScheme {
    let description = concat!(
        "Paste the `access_token` of `POST ",
        api_path!("/auth/login"),
        "` or `POST ",
        api_path!("/auth/login/two-factor"),
        "`."
    );
    MetaSecurityScheme { scheme: Some("bearer"), ..scheme("http", description) }
}

fn api_key() -> MetaSecurityScheme {
    let description = "An API key of the organization. The key begins with `saas_`, and needs the scope that the \
                       operation names.";
    MetaSecurityScheme {
        scheme: Some("bearer"),
        bearer_format: Some("saas_ and 47 characters"),
        ..scheme("http", description)
    }
}

fn cookie() -> MetaSecurityScheme {
    let description = concat!(
        "The cookie that `POST ",
        api_path!("/auth/login"),
        "` or `POST ",
        api_path!("/auth/login/two-factor"),
        "` sets with `delivery=cookie`."
    );
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
