//! What protects the pages: their policy, and that only this machine may open them.

use std::net::IpAddr;

use poem::{
    Request,
    error::NotFoundError,
    http::{header, uri::Authority},
};

/// A mail may show pictures; nothing may run. What the frame shows is under this policy as well.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data: http: https:; \
    form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// Not found, unless the page was asked for by a name that can only mean this machine, or by a bare address.
///
/// Any site could have its own name point here, and its pages would then read the mails (DNS rebinding).
pub(super) fn refuse_foreign(req: &Request) -> poem::Result<()> {
    let authority = match req.header(header::HOST) {
        Some(host) => host.parse::<Authority>().ok(),
        None => req.original_uri().authority().cloned(),
    };
    let here = req.remote_addr().as_socket_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    match here && authority.is_some_and(|authority| is_own_name(authority.host())) {
        true => Ok(()),
        false => Err(NotFoundError.into()),
    }
}

fn is_own_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
    host == "localhost" || host.ends_with(".localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for host in ["localhost", "LocalHost", "app.localhost", "127.0.0.1", "[::1]", "192.168.0.7"] {
            assert!(is_own_name(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example", "[]"]
        {
            assert!(!is_own_name(host), "{host}");
        }
    }
}
