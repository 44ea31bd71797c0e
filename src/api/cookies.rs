//! Tokens in cookies, for browsers: no script of a page can read them, whatever gets into it.
//!
//! OWASP ASVS 5, 3.3: HttpOnly, Secure, SameSite, and a prefix of the name that browsers hold a server to.

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

pub(super) const SECURE_ACCESS: &str = "__Host-access_token";
const SECURE_REFRESH: &str = "__Host-refresh_token";
/// Without TLS, in development, browsers take neither these prefixes nor `Secure`.
const PLAIN_ACCESS: &str = "access_token";
const PLAIN_REFRESH: &str = "refresh_token";

/// How cookies are set here, and whose pages may send them along.
pub(super) struct Settings {
    pub(super) secure: bool,
    pub(super) origins: HashSet<String>,
}

impl Settings {
    fn of(request: &Request) -> Result<&Self> {
        let settings = request.data::<Arc<Self>>();
        Ok(settings.map(|settings| &**settings).ok_or_else(|| Error::internal("cookies are not set up"))?)
    }

    fn access(&self) -> &'static str {
        if self.secure { SECURE_ACCESS } else { PLAIN_ACCESS }
    }

    fn refresh(&self) -> &'static str {
        if self.secure { SECURE_REFRESH } else { PLAIN_REFRESH }
    }

    /// For the whole host, which the prefix `__Host-` asks for: no other host is then able to plant one.
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

pub(super) fn bearer(request: &Request) -> Option<String> {
    request.headers().typed_get::<Authorization<Bearer>>().map(|bearer| bearer.token().to_owned())
}

pub(super) fn access_token(request: &Request) -> Option<String> {
    cookie(request, Settings::access)
}

pub(super) fn refresh_token(request: &Request) -> Option<String> {
    cookie(request, Settings::refresh)
}

fn cookie(request: &Request, name: fn(&Settings) -> &'static str) -> Option<String> {
    let name = name(Settings::of(request).ok()?);
    Some(request.cookie().get(name)?.value_str().to_owned()).filter(|value| !value.is_empty())
}

/// Gives the browser what it has signed in with.
pub(super) fn set(request: &Request, jar: &CookieJar, grant: &Grant) -> Result<()> {
    let [mut access, mut refresh] = Settings::of(request)?.cookies(&grant.access_token, &grant.refresh_token);
    access.set_max_age(Duration::from_secs(grant.expires_in));
    refresh.set_max_age(Duration::from_secs(grant.refresh_expires_in));
    jar.add(access);
    jar.add(refresh);
    Ok(())
}

/// Takes the cookies away, where there are any.
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

/// Refuses a request that changes something, unless a page of ours has sent it: browsers say which page did, and no
/// page can say otherwise.
pub(super) fn refuse_cross_site(request: &Request) -> Result<()> {
    if request.method().is_safe() {
        return Ok(());
    }
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if header("sec-fetch-site") == Some("same-origin") {
        return Ok(());
    }
    let ours = header(header::ORIGIN.as_str()).is_some_and(|origin| {
        let host = origin.split_once("://").map(|(_, host)| host);
        let known =
            Settings::of(request).is_ok_and(|known| known.origins.contains(&origin.to_ascii_lowercase()));
        known || (host.is_some() && host == header(header::HOST.as_str()))
    });
    if ours { Ok(()) } else { Err(ApiError::CrossSite) }
}
