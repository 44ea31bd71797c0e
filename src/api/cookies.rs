//! Tokens in cookies, for browsers. Scripts of a page cannot read them, not even injected ones.
//!
//! The cookies have the attributes HttpOnly, Secure and SameSite, and a name prefix that browsers enforce (OWASP ASVS
//! 5, 3.3).

use std::{collections::HashSet, sync::Arc, time::Duration};

use poem::{
    Request,
    http::header,
    web::{
        cookie::{Cookie, CookieJar, SameSite},
        headers::{Authorization, HeaderMapExt, authorization::Bearer},
    },
};

use super::problem::{ApiError, Result};
use crate::{error::Error, services::sessions::Grant};

/// The name of the cookie with the access token.
pub(super) const SECURE_ACCESS: &str = "__Host-access_token";
const SECURE_REFRESH: &str = "__Host-refresh_token";
/// The name in development without TLS, where browsers reject the prefix and `Secure`.
const PLAIN_ACCESS: &str = "access_token";
const PLAIN_REFRESH: &str = "refresh_token";

/// The configuration of cookies.
pub(super) struct Settings {
    /// Whether to set `Secure` and the name prefix.
    pub(super) secure: bool,
    /// Origins whose pages may send requests with cookies, in lower case.
    pub(super) origins: HashSet<String>,
}

impl Settings {
    fn of(request: &Request) -> Result<&Self> {
        let settings = request.data::<Arc<Self>>();
        Ok(settings
            .map(|settings| &**settings)
            .ok_or_else(|| Error::internal("the route has no cookie settings"))?)
    }

    /// Returns the name of the cookie with the access token.
    fn access(&self) -> &'static str {
        if self.secure { SECURE_ACCESS } else { PLAIN_ACCESS }
    }

    /// Returns the name of the cookie with the refresh token.
    fn refresh(&self) -> &'static str {
        if self.secure { SECURE_REFRESH } else { PLAIN_REFRESH }
    }

    /// Returns both cookies. The prefix `__Host-` requires `Path=/`, and prevents other hosts from setting the cookies.
    fn cookies(&self, access: &str, refresh: &str) -> [Cookie; 2] {
        let cookie = |name, value: &str, same_site| {
            let mut cookie = Cookie::new_with_str(name, value);
            cookie.set_path("/");
            cookie.set_http_only(true);
            cookie.set_secure(self.secure);
            cookie.set_same_site(same_site);
            cookie
        };
        [cookie(self.access(), access, SameSite::Lax), cookie(self.refresh(), refresh, SameSite::Strict)]
    }
}

/// Returns the bearer token of the header `Authorization`.
pub(super) fn bearer(request: &Request) -> Option<String> {
    request.headers().typed_get::<Authorization<Bearer>>().map(|bearer| bearer.token().to_owned())
}

/// Returns the access token from its cookie.
pub(super) fn access_token(request: &Request) -> Option<String> {
    cookie(request, Settings::access)
}

/// Returns the refresh token from its cookie.
pub(super) fn refresh_token(request: &Request) -> Option<String> {
    cookie(request, Settings::refresh)
}

fn cookie(request: &Request, name: fn(&Settings) -> &'static str) -> Option<String> {
    let name = name(Settings::of(request).ok()?);
    Some(request.cookie().get(name)?.value_str().to_owned()).filter(|value| !value.is_empty())
}

/// Sets both cookies to the tokens of a session.
pub(super) fn set(request: &Request, jar: &CookieJar, grant: &Grant) -> Result<()> {
    let [mut access, mut refresh] = Settings::of(request)?.cookies(&grant.access_token, &grant.refresh_token);
    access.set_max_age(Duration::from_secs(grant.expires_in));
    refresh.set_max_age(Duration::from_secs(grant.refresh_expires_in));
    jar.add(access);
    jar.add(refresh);
    Ok(())
}

/// Removes the cookies that the browser has sent.
pub(super) fn clear(request: &Request, jar: &CookieJar) -> Result<()> {
    let settings = Settings::of(request)?;
    for mut cookie in settings.cookies("", "") {
        if request.cookie().get(cookie.name()).is_some() {
            cookie.make_removal();
            jar.add(cookie);
        }
    }
    Ok(())
}

/// Refuses a request with an unsafe method unless it comes from a trusted origin. Browsers send the origin in headers
/// that a page cannot change.
///
/// # Errors
/// [`ApiError::CrossSite`] if it does not.
pub(super) fn refuse_cross_site(request: &Request) -> Result<()> {
    if request.method().is_safe() {
        return Ok(());
    }
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if header("sec-fetch-site") == Some("same-origin") {
        return Ok(());
    }
    let trusted = header(header::ORIGIN.as_str()).is_some_and(|origin| {
        let host = origin.split_once("://").map(|(_, host)| host);
        let listed = Settings::of(request)
            .is_ok_and(|settings| settings.origins.contains(&origin.to_ascii_lowercase()));
        listed || (host.is_some() && host == header(header::HOST.as_str()))
    });
    if trusted { Ok(()) } else { Err(ApiError::CrossSite) }
}
