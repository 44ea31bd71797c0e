//! The protection of the pages that show mails: a Content-Security-Policy, and a check that the request is local.

use poem::{Request, error::NotFoundError};

use crate::api::host::{is_local, requested_host};

/// Content-Security-Policy of the pages: allows images and styles, but no scripts. It also applies to the frame that
/// shows a mail.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data: http: https:; \
    form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
/// Headers that a proxy adds to forwarded requests, besides those that begin with [`FORWARDED_PREFIX`].
const PROXY_HEADERS: [&str; 3] = ["forwarded", "via", "x-real-ip"];
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Refuses a request with 404 unless the client is on this machine and requests a local host. Also refuses a request with
/// a header of a proxy, because the client of a proxy may be on another machine.
pub(super) fn require_local_request(req: &Request) -> poem::Result<()> {
    let is_here =
        req.remote_addr().as_socket_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    let is_forwarded = req
        .headers()
        .keys()
        .any(|name| PROXY_HEADERS.contains(&name.as_str()) || name.as_str().starts_with(FORWARDED_PREFIX));
    match is_here && !is_forwarded && requested_host(req).is_some_and(|host| is_local(&host)) {
        true => Ok(()),
        false => Err(NotFoundError.into()),
    }
}
