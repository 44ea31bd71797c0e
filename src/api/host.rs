//! Parses and checks the host of a request.

use std::net::{IpAddr, Ipv6Addr};

use poem::{
    Request,
    http::{Version, header},
};
use url::Host;

use super::header_fields::single;

/// The characters of a host name besides letters, digits and percent-encoding: `unreserved` and `sub-delims` of RFC
/// 3986 section 2.
const NAME_MARKS: &[u8] = b"-._~!$&'()*+,;=";

/// Returns whether a request has exactly one header `Host` with a valid host (RFC 9112 section 3.2). An HTTP/1.0 request may have
/// no header `Host`. If the target of the request has a host too, both hosts must be valid, but they may differ.
pub(super) fn is_host_valid(req: &Request) -> bool {
    let is_valid = |text: &str| host_of(text).is_some();
    let mut lines = req.headers().get_all(header::HOST).iter();
    let valid_header = match (lines.next(), lines.next()) {
        (None, _) => req.version() < Version::HTTP_11,
        (Some(line), None) => line.to_str().is_ok_and(is_valid),
        (Some(_), Some(_)) => false,
    };
    valid_header && req.original_uri().authority().is_none_or(|authority| is_valid(authority.as_str()))
}

/// Returns the host and the port of the request, unchanged. The host of a target in absolute form takes precedence over
/// the header `Host` (RFC 9112 section 3.2.2). `None` if the header is needed, but absent, repeated or not ASCII.
pub(super) fn authority(req: &Request) -> Option<&str> {
    match req.original_uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => single(req.headers(), header::HOST),
    }
}

/// Returns the host of the request. `None` if the request names no host, or an invalid one.
pub(super) fn requested_host(req: &Request) -> Option<Host> {
    parse(authority(req)?)
}

/// Returns the IP address as a host. Converts an IPv4-mapped IPv6 address to IPv4.
pub(super) fn ip_host(ip: IpAddr) -> Host {
    match ip.to_canonical() {
        IpAddr::V4(ip) => Host::Ipv4(ip),
        IpAddr::V6(ip) => Host::Ipv6(ip),
    }
}

/// Returns whether the host always denotes the client's own machine: `localhost`, a name below it, or a loopback address.
/// A web page of another machine cannot have such a host, not even by DNS rebinding.
pub(super) fn is_local(host: &Host) -> bool {
    match host {
        Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

/// Returns a host without a final dot. [`requested_host`] also omits it.
pub(super) fn without_final_dot(host: Host) -> Host {
    match host {
        Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(&name).to_owned()),
        address => address,
    }
}

/// Parses a host with an optional port, as in the header `Host`. `None` if the text is invalid.
fn parse(text: &str) -> Option<Host> {
    let name = host_of(text)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let ip = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    if let Ok(ip) = ip.parse() {
        return Some(ip_host(ip));
    }
    Some(Host::Domain(name.to_ascii_lowercase()))
}

/// Returns the host of a text with an optional port. `None` if the text has another form (RFC 9110 section 7.2), or the
/// host is empty or has only dots. A text with user information before an `@` is refused, because parsers disagree about its
/// host.
fn host_of(text: &str) -> Option<&str> {
    let end = match text.starts_with('[') {
        true => text.find(']')? + 1,
        false => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(end);
    let valid_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    let is_port = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok();
    let valid_port = port.is_empty() || port == ":" || port.strip_prefix(':').is_some_and(is_port);
    (valid_host && valid_port).then_some(host)
}

/// Returns whether a text is a `reg-name` (RFC 3986 section 3.2.2) that contains more than dots. This includes IPv4
/// addresses.
fn is_name(text: &str) -> bool {
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let is_valid = match octet {
            b'%' => (0..2).all(|_| octets.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => octet.is_ascii_alphanumeric() || NAME_MARKS.contains(&octet),
        };
        if !is_valid {
            return false;
        }
    }
    text.bytes().any(|octet| octet != b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::property::{property, text};

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
            "127.0.0.1.",
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

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port_or_without() {
        for text in [
            "example.com",
            "EXAMPLE.com.",
            "my_service:8000",
            "xn--bcher-kva.example:",
            "b%C3%BCcher.example",
            "a-b~c!$&'()*+,;=",
            "192.0.2.7:65535",
            "[2001:db8::7]",
            "[::ffff:192.0.2.7]:0443",
        ] {
            assert!(host_of(text).is_some(), "{text}");
        }
        for text in [
            "",
            ":80",
            "..",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a\"b",
            "a<b",
            "a%2",
            "a%zz",
            "a@b",
            "a:b@c",
            "a:b",
            "a:80:80",
            "a:+80",
            "a:65536",
            "2001:db8::7",
            "[2001:db8::7",
            "[2001:db8::7]x",
            "[192.0.2.7]",
            "[fe80::1%25eth0]",
            "b\u{fc}cher.example",
        ] {
            assert!(host_of(text).is_none(), "{text}");
        }
    }

    #[test]
    fn formatting_and_parsing_a_host_returns_the_same_host() {
        let parts = "a B . - %4A 127.0.0.1 [::1] [ ] localhost : 80 @ /";
        property(1, text(parts, 5), |text| {
            let Some(name) = host_of(&text) else { return assert_eq!(parse(&text), None) };
            let rest = &text[name.len()..];
            assert!(rest.is_empty() || rest.starts_with(':'), "{text}");
            assert!(name.is_ascii() && !name.contains(['@', '/', ' ']), "{text}");
            let host = parse(&text).unwrap();
            assert_eq!(parse(&format!("{name}:80")), Some(host.clone()));
            // The parser removes only one final dot.
            if !name.ends_with("..") {
                assert_eq!(parse(&host.to_string()), Some(host));
            }
        });
    }
}
