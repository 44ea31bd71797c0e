//! Hosts, origins and URLs of sites, in the form in which browsers send them (WHATWG URL standard): lower case, without the
//! default port, and international names in ASCII.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use url::{Host, Url};

/// Parses the URL of a site: http or https, without user, password, query and fragment.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    // The text before an @ may contain a password, so the message does not repeat it.
    url.ok_or_else(|| match text.contains('@') {
        true => "is not the URL of a site: it has a user; write https://app.example.com".into(),
        false => format!("{text:?} is not the URL of a site; write https://app.example.com"),
    })
}

/// Parses the URL of the API. It has no path, because the API and its pages refer to each other from the root of the host.
pub(super) fn public_url(text: &str) -> Result<Url, String> {
    let url = base_url(text)?;
    if url.path() == "/" {
        return Ok(url);
    }
    // If a password contains an unescaped `/`, the path is the rest of the password.
    if text.contains('@') {
        return Err(
            "has a path, but the API and its pages are at the root of a host; write https://api.example.com"
                .into(),
        );
    }
    Err(format!(
        "{text:?} has the path {}, but the API and its pages are at the root of a host; use a host of its own, and write {}",
        url.path(),
        url.origin().ascii_serialization()
    ))
}

/// The origins of web pages, as browsers write them in the header `Origin`.
pub type Origins = HashSet<String>;

/// Parses a list of origins: a JSON list, or separated by commas.
pub(super) fn origins(text: &str) -> Result<Origins, String> {
    list(text, r#"["https://app.example.com"]"#)?.iter().map(|text| origin(text)).collect()
}

fn origin(text: &str) -> Result<String, String> {
    if text.contains('*') {
        return Err(format!(
            "has {}: a wildcard does not work with credentials, so list each origin, such as https://app.example.com",
            shown(text)
        ));
    }
    let url = base_url(text).map_err(|_| {
        let shown = shown(text);
        format!("has {shown}, which is not an origin; write scheme and host, such as https://app.example.com")
    })?;
    let origin = url.origin().ascii_serialization();
    match url.path() {
        "/" => Ok(origin),
        _ if text.contains('@') => {
            Err("has an item with a path; write scheme and host, such as https://app.example.com".into())
        }
        path => Err(format!("has {text:?}, but an origin has no path: remove {path} and write {origin}")),
    }
}

/// Returns an item for a message: in quotes, or `an item` if it has an @, because the text before an @ may be a password.
fn shown(item: &str) -> String {
    if item.contains('@') { "an item".to_owned() } else { format!("{item:?}") }
}

/// Splits a JSON list, or a list separated by commas, and drops blank items. `example` is a JSON list for the message about
/// invalid JSON.
fn list(text: &str, example: &str) -> Result<Vec<String>, String> {
    // A text that begins with a bracket is a JSON list, unless the bracket belongs to an IPv6 address.
    let is_address = text.strip_prefix('[').is_some_and(|rest| {
        rest.contains(':') && rest.starts_with(|c: char| c == ':' || c.is_ascii_hexdigit())
    });
    let list: Vec<String> = match text.starts_with('[') && !is_address {
        true => serde_json::from_str(text)
            .map_err(|error| format!("is not a JSON list of strings ({error}); write {example}"))?,
        false => text.split(',').map(str::to_owned).collect(),
    };
    let items = list.iter().map(|item| item.trim()).filter(|item| !item.is_empty());
    Ok(items.map(str::to_owned).collect())
}

/// The hosts of a server: names in lower case, and IP addresses.
pub type Hosts = HashSet<Host>;

/// Parses a list of hosts: a JSON list, or separated by commas.
pub(super) fn hosts(text: &str) -> Result<Hosts, String> {
    const EXAMPLE: &str = r#"["api.example.com"]"#;
    let hosts: Hosts = list(text, EXAMPLE)?.iter().map(|text| host(text)).collect::<Result<_, _>>()?;
    match hosts.is_empty() {
        true => Err(format!("is empty, which allows no host; write {EXAMPLE}")),
        false => Ok(hosts),
    }
}

/// Parses a host: a name, an IPv4 address, or an IPv6 address with or without brackets.
pub(super) fn host(text: &str) -> Result<Host, String> {
    if text.contains('*') {
        return Err(format!(
            "has {}: a wildcard is not a host, so list each host, such as api.example.com",
            shown(text)
        ));
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().ok().map(Host::Ipv6);
    ip.or_else(|| Host::parse(text).ok()).ok_or_else(|| {
        // Whether the text has an @ or a space, or is a path. The message must not repeat a password.
        let is_unclear = text.contains(['@', ' ']) || text.starts_with('/');
        // The text may be a URL, or a host with a port. Then the message names its host.
        let url = Url::parse(text).ok().filter(Url::has_host);
        let url = url.or_else(|| Url::parse(&format!("http://{text}")).ok());
        match url.as_ref().and_then(Url::host_str).filter(|_| !is_unclear) {
            Some(host) => format!("has {text:?}, which is more than a host; write {host}"),
            None => "has an item that is not a host; write a name or an IP address, such as api.example.com"
                .into(),
        }
    })
}

/// Parses an address to listen on: an IP address, or `localhost`.
///
/// # Errors
/// If it is something else; the message says what to write.
pub(super) fn listen_address(text: &str) -> Result<IpAddr, String> {
    let text = text.trim();
    if text.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let address = match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(text) => text.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    address.ok_or_else(|| match text.parse::<SocketAddr>() {
        Ok(both) => format!("it has a port: write {}, and {} into PORT", both.ip(), both.port()),
        Err(_) => "it is not an IP address: write 127.0.0.1, ::1 or localhost for this machine only, and 0.0.0.0 or :: \
                   for all interfaces"
            .into(),
    })
}

/// Returns whether a host is a loopback address, `localhost` or a name below it. Connections to it do not use the network.
pub(super) fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let is_loopback = host.parse().is_ok_and(|address: IpAddr| address.to_canonical().is_loopback());
    is_loopback || host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_site_urls_are_refused() {
        for good in ["https://app.example.com", "http://localhost:8000/", "https://example.com/app"] {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for bad in [
            "example.com",
            "ftp://example.com",
            "https://",
            "https://a@example.com",
            "https://a:hunter2@example.com",
            "https://a.example/?x",
            "https://a.example/#x",
            "https://a b.example",
        ] {
            assert!(!base_url(bad).unwrap_err().contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn the_url_of_the_api_has_no_path() {
        for (text, wanted) in [
            ("https://API.example.com:443", "https://api.example.com/"),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
            ("http://[::1]:8000", "http://[::1]:8000/"),
        ] {
            assert_eq!(public_url(text).unwrap().as_str(), wanted);
        }
        let problem = public_url("https://example.com/app").unwrap_err();
        assert!(problem.contains("/app") && problem.ends_with("write https://example.com"), "{problem}");
        let problem = public_url("https://u:1/hunter2@example.com").unwrap_err();
        assert!(problem.contains("has a path") && !problem.contains("hunter2"), "{problem}");
    }

    #[test]
    fn origins_are_normalized() {
        let wanted = Origins::from(["https://app.example.com".into(), "http://localhost:3000".into()]);
        assert_eq!(origins("https://App.example.com/, http://localhost:3000,").unwrap(), wanted);
        assert_eq!(origins(r#"["https://app.example.com:443", "http://localhost:3000"]"#).unwrap(), wanted);
        let international = origins("https://Bücher.example:443,http://[::1]:80").unwrap();
        assert_eq!(
            international,
            Origins::from(["https://xn--bcher-kva.example".into(), "http://[::1]".into()])
        );
        for (bad, problem) in [
            ("*", "wildcard"),
            ("https://*.example.com", "wildcard"),
            ("https://a.example/path", "remove /path and write https://a.example"),
            ("https://a.example:8443/path/", "write https://a.example:8443"),
            ("app.example.com", "write scheme and host"),
            ("null", "write scheme and host"),
            ("https://u:hunter2@a.example", "an item"),
            ("https://u:hunter2@*.example", "wildcard"),
            ("https://u:1/hunter2@a.example", "an item with a path"),
            ("[1]", "JSON list"),
        ] {
            let found = origins(bad).unwrap_err();
            assert!(found.contains(problem) && !found.contains("hunter2"), "{bad}: {found}");
        }
    }

    #[test]
    fn hosts_are_normalized() {
        let wanted =
            Hosts::from([Host::Domain("api.example.com".into()), Host::Ipv6("::1".parse().unwrap())]);
        assert_eq!(hosts("API.example.com, [::1],").unwrap(), wanted);
        assert_eq!(hosts(r#"["api.example.com", "::1"]"#).unwrap(), wanted);
        assert_eq!(hosts("[::1], API.example.com").unwrap(), wanted);
        assert!(hosts("bücher.example").unwrap().contains(&Host::Domain("xn--bcher-kva.example".into())));
        for (bad, problem) in [
            ("*", "wildcard"),
            ("*.example.com", "wildcard"),
            ("u:hunter2@*", "wildcard"),
            ("api.example.com:443", "write api.example.com"),
            ("https://API.example.com", "write api.example.com"),
            ("redis://cache:6379/0", "write cache"),
            ("[::1]:6379", "write [::1]"),
            ("/run/server.sock", "not a host"),
            ("u:hunter2@db", "not a host"),
            ("[]", "allows no host"),
            (",", "allows no host"),
            ("a b", "not a host"),
        ] {
            let found = hosts(bad).unwrap_err();
            assert!(found.contains(problem) && !found.contains("hunter2"), "{bad}: {found}");
        }
    }

    #[test]
    fn listen_addresses_are_parsed() {
        for (text, wanted) in [
            ("localhost", "127.0.0.1"),
            ("LocalHost.", "127.0.0.1"),
            (" 127.0.0.1 ", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("::", "::"),
            ("[::1]", "::1"),
            ("::1", "::1"),
        ] {
            assert_eq!(listen_address(text).unwrap().to_string(), wanted, "{text}");
        }
        for (bad, problem) in [
            ("127.0.0.1:8000", "write 127.0.0.1, and 8000 into PORT"),
            ("[::1]:8000", "write ::1, and 8000 into PORT"),
            ("my-machine", "not an IP address"),
            ("*", "not an IP address"),
            ("http://localhost", "not an IP address"),
            ("[127.0.0.1]", "not an IP address"),
            ("[::1", "not an IP address"),
        ] {
            let found = listen_address(bad).unwrap_err();
            assert!(found.contains(problem), "{bad}: {found}");
        }
    }
}
