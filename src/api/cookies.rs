//! Tokens in cookies, for browsers. Scripts cannot read these cookies, not even injected scripts.
//!
//! The cookies have the attributes HttpOnly, Secure and SameSite, and a name prefix that browsers enforce (OWASP ASVS
//! 5, 3.3). In development without TLS, they have neither Secure nor the prefix.
//!
//! This module parses the `Cookie` header byte by byte instead of using poem's cookie jar, because the jar decodes names.
//! Another host of the site could set `%5F_Host-access_token`, which browsers permit, and the jar would read it as
//! `__Host-access_token`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use poem::{
    Request,
    http::{HeaderName, header},
    web::cookie::{Cookie, CookieJar, SameSite},
};

use super::{
    header_fields::{items, single},
    host::authority,
    problem::{ApiError, Result},
};
use crate::{error::Error, services::sessions::Grant};

/// Name of the cookie with the access token.
pub(super) const SECURE_ACCESS: &str = "__Host-access_token";
const SECURE_REFRESH: &str = "__Host-refresh_token";
/// Name of the cookie with the access token in development without TLS, where some browsers reject the name prefix and `Secure`.
const PLAIN_ACCESS: &str = "access_token";
const PLAIN_REFRESH: &str = "refresh_token";
/// The scheme of an access token in the header `Authorization`. The scheme is case-insensitive (RFC 9110 section 11.1).
const BEARER: &[u8] = b"Bearer ";
/// The header in which a browser says whether the page and the request have the same origin (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The configuration of cookies.
pub(super) struct Settings {
    /// Whether to set `Secure` and the name prefix.
    pub(super) secure: bool,
    /// Origins whose pages may send requests with cookies, besides the origin of the requested host. In lower case and
    /// without default ports.
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

    /// Returns whether pages of an origin may send requests with cookies to `host`: the origin is listed, or it is the
    /// origin of `host` itself. If cookies are secure, the origin of `host` must have the scheme https, because an attacker
    /// in the network can serve pages over http.
    fn trusts(&self, origin: &str, host: Option<&str>) -> bool {
        let origin = origin.to_ascii_lowercase();
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let default_port = match scheme {
            "https" => ":443",
            "http" => ":80",
            _ => return false,
        };
        let authority = authority.strip_suffix(default_port).unwrap_or(authority);
        if self.origins.contains(&format!("{scheme}://{authority}")) {
            return true;
        }
        let host = host.unwrap_or_default().to_ascii_lowercase();
        let host = host.strip_suffix(default_port).unwrap_or(&host);
        let is_own = !host.is_empty() && host == authority;
        is_own && (scheme == "https" || !self.secure)
    }

    /// Returns the cookies with the access token and with the refresh token. The name prefix `__Host-` requires `Path=/`, and
    /// prevents other hosts from setting these cookies.
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

/// Returns the bearer token of the header `Authorization`. `None` if no value of the header begins with `Bearer` and a space.
///
/// # Errors
/// [`Error::InvalidToken`] if the request has several bearer tokens, or a token that is not valid UTF-8. If this function
/// returned `None` instead, a cookie could authenticate the request.
pub(super) fn bearer(request: &Request) -> Result<Option<&str>> {
    let values = request.headers().get_all(header::AUTHORIZATION).into_iter();
    at_most_one(values.filter_map(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(BEARER.len())?;
        scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim_ascii())
    }))
}

/// Returns the access token from its cookie. `None` if the cookie is absent or empty.
///
/// # Errors
/// [`Error::InvalidToken`] if the request has several cookies of this name, or the value is not valid UTF-8;
/// [`Error::Internal`] if the route has no cookie settings.
pub(super) fn access_token(request: &Request) -> Result<Option<&str>> {
    cookie(request, Settings::access)
}

/// Returns the refresh token from its cookie. `None` if the cookie is absent or empty.
///
/// # Errors
/// As [`access_token`].
pub(super) fn refresh_token(request: &Request) -> Result<Option<&str>> {
    cookie(request, Settings::refresh)
}

fn cookie(request: &Request, name: fn(&Settings) -> &'static str) -> Result<Option<&str>> {
    let name = name(Settings::of(request)?);
    Ok(at_most_one(cookie_values(request, name))?.filter(|value| !value.is_empty()))
}

/// Returns the values of all cookies with a name. Skips a malformed cookie, but not the others.
fn cookie_values<'a>(request: &'a Request, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = items(request.headers(), header::COOKIE, b';');
    pairs.filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Returns the value, or `None` if there is none. Fails for a value that is not valid UTF-8, and for several values: of
/// several cookies, it is unknown which the server has set (RFC 6265 section 8.6).
fn at_most_one<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a str>> {
    let Some(value) = values.next() else { return Ok(None) };
    match (std::str::from_utf8(value), values.next()) {
        (Ok(text), None) => Ok(Some(text)),
        _ => Err(Error::InvalidToken.into()),
    }
}

/// Sets the cookies with the access token and the refresh token of a session.
///
/// # Errors
/// [`Error::Internal`] if the route has no cookie settings.
pub(super) fn set(request: &Request, jar: &CookieJar, grant: &Grant) -> Result<()> {
    let [mut access, mut refresh] = Settings::of(request)?.cookies(&grant.access_token, &grant.refresh_token);
    access.set_max_age(Duration::from_secs(grant.expires_in));
    refresh.set_max_age(Duration::from_secs(grant.refresh_expires_in));
    jar.add(access);
    jar.add(refresh);
    Ok(())
}

/// Removes the cookies with the access token and the refresh token, if the browser has sent them.
///
/// # Errors
/// As [`set`].
pub(super) fn clear(request: &Request, jar: &CookieJar) -> Result<()> {
    let settings = Settings::of(request)?;
    for mut cookie in settings.cookies("", "") {
        let is_sent = cookie_values(request, cookie.name()).next().is_some();
        if is_sent {
            cookie.make_removal();
            jar.add(cookie);
        }
    }
    Ok(())
}

/// Refuses a request with an unsafe method, unless its headers show that a page of a trusted origin has sent it. Browsers
/// name the origin in headers that a page cannot change.
///
/// # Errors
/// [`ApiError::CrossSite`] if the origin is unknown or not trusted; [`Error::Internal`] if the route has no cookie settings.
pub(super) fn refuse_cross_site(request: &Request) -> Result<()> {
    if request.method().is_safe() {
        return Ok(());
    }
    let header = |name| single(request.headers(), name);
    if header(SEC_FETCH_SITE) == Some("same-origin") {
        return Ok(());
    }
    let settings = Settings::of(request)?;
    match header(header::ORIGIN) {
        Some(origin) if settings.trusts(origin, authority(request)) => Ok(()),
        _ => Err(ApiError::CrossSite),
    }
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;
    use proptest::{collection::vec, sample::select};

    use super::*;
    use crate::property::property;

    #[test]
    fn only_listed_origins_and_the_own_origin_are_trusted() {
        let trusts = |secure, origin: &str, host: &str| {
            let origins = ["https://app.example.com", "http://front.example.com"].map(str::to_owned).into();
            Settings { secure, origins }.trusts(origin, Some(host))
        };
        for (origin, host) in [
            ("https://app.example.com", ""),
            ("https://APP.example.com:443", "api.example.com"),
            ("http://front.example.com", "api.example.com"),
            ("https://api.example.com", "api.example.com"),
            ("https://api.example.com", "API.example.com:443"),
            ("https://api.example.com:8443", "api.example.com:8443"),
            ("https://[2001:db8::1]", "[2001:db8::1]:443"),
        ] {
            assert!(trusts(true, origin, host) && trusts(false, origin, host), "{origin} for {host}");
        }
        // An attacker in the network can serve pages over http, so these origins are not trusted if cookies are secure.
        for (origin, host) in [
            ("http://api.example.com", "api.example.com"),
            ("http://localhost", "localhost:80"),
            ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ] {
            assert!(!trusts(true, origin, host) && trusts(false, origin, host), "{origin} for {host}");
        }
        for (origin, host) in [
            ("http://app.example.com", "api.example.com"),
            ("https://front.example.com", "api.example.com"),
            ("https://api.example.com", "api.example.com:80"),
            ("https://api.example.com:80", "api.example.com"),
            ("http://api.example.com:443", "api.example.com"),
            ("https://api.example.com:8443", "api.example.com"),
            ("https://api.example.com.evil.example", "api.example.com"),
            ("https://evil.example/api.example.com", "api.example.com"),
            ("https://user@api.example.com", "api.example.com"),
            ("x://api.example.com", "api.example.com"),
            ("wss://api.example.com", "api.example.com"),
            ("://api.example.com", "api.example.com"),
            ("api.example.com", "api.example.com"),
            ("https:api.example.com", "api.example.com"),
            ("https://", ""),
            ("https://:443", ":443"),
            ("null", "null"),
            ("", ""),
        ] {
            assert!(!trusts(true, origin, host) && !trusts(false, origin, host), "{origin} for {host}");
        }
        let without_list = Settings { secure: false, origins: HashSet::new() };
        assert!(!without_list.trusts("http://api.example.com", None));
    }

    /// Creates a request whose header `name` has these lines.
    fn request(name: HeaderName, lines: &[Vec<u8>]) -> Request {
        let mut request = Request::builder().finish();
        request.set_data(Arc::new(Settings { secure: false, origins: HashSet::new() }));
        for line in lines {
            request.headers_mut().append(name.clone(), HeaderValue::from_bytes(line).unwrap());
        }
        request
    }

    /// Returns the value, or `None` if there is none. Fails for several values, and for a value that is not valid UTF-8.
    fn only_one(values: &[&[u8]]) -> Result<Option<String>, ()> {
        match values {
            [] => Ok(None),
            [value] => String::from_utf8(value.to_vec()).map(Some).map_err(drop),
            _ => Err(()),
        }
    }

    #[test]
    fn a_cookie_counts_only_if_no_other_has_its_name() {
        let name = select(vec!["access_token", "access_token", "Access_token", "xaccess_token", "a", ""]);
        let value = vec(select(b"aZ9.=\"%,\xf8\xc3\xb8".to_vec()), 0..5);
        property(1, vec(vec((name, value), 0..4), 0..3), |lines| {
            let pair = |(name, value): &(&str, Vec<u8>)| [name.as_bytes(), b"=", value.as_slice()].concat();
            let text = |pairs: &Vec<_>| pairs.iter().map(pair).collect::<Vec<_>>().join(&b"; "[..]);
            let request = request(header::COOKIE, &lines.iter().map(text).collect::<Vec<_>>());
            let own = lines.iter().flatten().filter(|(name, _)| *name == PLAIN_ACCESS);
            let values: Vec<_> = own.map(|(_, value)| value.as_slice()).collect();
            let found = access_token(&request).map(|token| token.map(str::to_owned)).map_err(drop);
            assert_eq!(found, only_one(&values).map(|token| token.filter(|token| !token.is_empty())));
        });
    }

    #[test]
    fn a_bearer_token_counts_only_if_there_is_no_other() {
        let scheme = select(vec!["Bearer ", "bearer ", "BEARER ", "Bearer", "Basic ", ""]);
        let token = vec(select(b"a.= \xf8\xc3\xb8".to_vec()), 0..5);
        property(1, vec((scheme, token), 0..3), |values| {
            let lines: Vec<_> =
                values.iter().map(|(scheme, token)| [scheme.as_bytes(), token.as_slice()].concat()).collect();
            let is_bearer = |line: &&Vec<u8>| line.to_ascii_lowercase().starts_with(b"bearer ");
            let tokens: Vec<_> = lines.iter().filter(is_bearer).map(|line| line[7..].trim_ascii()).collect();
            let request = request(header::AUTHORIZATION, &lines);
            let found = bearer(&request).map(|token| token.map(str::to_owned)).map_err(drop);
            assert_eq!(found, only_one(&tokens));
        });
    }
}
