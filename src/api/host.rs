//! The host that a request is for.

use std::net::IpAddr;

use poem::{
    Request,
    http::{header, uri::Authority},
};
use url::Host;

/// Returns the host that the client asked for. `None` if the request names none, several, or an invalid one (RFC 9112
/// section 3.2).
pub(super) fn requested_host(req: &Request) -> Option<Host> {
    let mut headers = req.headers().get_all(header::HOST).iter();
    let header = headers.next();
    if headers.next().is_some() {
        return None;
    }
    let header = header.map(|host| parse(host.to_str().ok()?));
    let target = req.original_uri().authority().map(|authority| parse(authority.as_str()));
    match (header, target) {
        (Some(host), None) | (None, Some(host)) => host,
        (Some(host), Some(target)) => host.filter(|host| Some(host) == target.as_ref()),
        (None, None) => None,
    }
}

/// Returns an address as a host.
pub(super) fn ip_host(ip: IpAddr) -> Host {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Host::Ipv4(ip),
        IpAddr::V6(ip) => Host::Ipv6(ip),
    }
}

/// Returns whether the host can only be the machine of the client. No web page can have such a name.
pub(super) fn is_local(host: &Host) -> bool {
    match host {
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

/// Parses a host with or without a port, as in the header `Host`.
fn parse(text: &str) -> Option<Host> {
    let authority: Authority = text.parse().ok()?;
    // Never part of a `Host` header, and parsers disagree on what it hides.
    if text.contains('@') {
        return None;
    }
    let name = authority.host();
    if let Some(ip) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return ip.parse().ok().map(ip_host);
    }
    if let Ok(ip) = name.parse() {
        return Some(ip_host(ip));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty()).then(|| Host::Domain(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str) -> bool {
        parse(text).is_some_and(|host| is_local(&host))
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "localhost",
            "LocalHost:8000",
            "localhost.",
            "app.localhost",
            "127.0.0.1",
            "127.1.2.3:80",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(local(host), "{host}");
        }
        for host in [
            "",
            ".",
            ":8000",
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "127.1",
            "[]",
            "[evil.example]",
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost, evil.example",
            "192.168.0.7",
            "203.0.113.9",
            "0.0.0.0",
            "[fe80::1]",
        ] {
            assert!(!local(host), "{host}");
        }
    }
}
