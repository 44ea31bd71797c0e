//! The parameters of a PostgreSQL URL (PostgreSQL documentation, "Connection URIs").

use percent_encoding::percent_decode_str;

/// Splits the text after `postgres://` into the parameters of libpq and their values, in the order in which later parameters
/// override earlier ones of the same name. Several hosts are one value, separated by commas, and so are their ports.
///
/// # Errors
/// If the text is not a valid URL. The message contains no part of the text, because any part may belong to the password.
pub(super) fn parameters(url: &str) -> Result<Vec<(String, String)>, String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (login, place) = base.split_once('@').unwrap_or(("", base));
    if place.contains('@') {
        return Err(
            "the host or the database has an @. In a user or a password, write @ as %40 and / as %2F".into(),
        );
    }
    let (servers, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let servers = servers.split(',').map(host_and_port).collect::<Result<Vec<_>, _>>()?;
    let (hosts, ports): (Vec<_>, Vec<_>) = servers.into_iter().unzip();
    let (hosts, ports) = (hosts.join(","), ports.join(","));
    let parts = [
        ("user", user),
        ("password", password),
        ("host", hosts.as_str()),
        ("port", ports.as_str()),
        ("dbname", database),
    ];
    let mut list = Vec::new();
    for (name, value) in parts.into_iter().filter(|(_, value)| !value.is_empty()) {
        list.push((name.to_owned(), decode(value)?));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or("a parameter after `?` has no value. In a password, write ? as %3F")?;
        list.push((decode(name)?, decode(value)?));
    }
    Ok(list)
}

/// Splits `host:port`. An IPv6 address is in brackets. The port is empty if it is missing.
fn host_and_port(server: &str) -> Result<(&str, &str), String> {
    let Some(rest) = server.strip_prefix('[') else {
        return Ok(server.split_once(':').unwrap_or((server, "")));
    };
    let (host, port) = rest.split_once(']').ok_or("an IPv6 address has no closing bracket")?;
    match (port, port.strip_prefix(':')) {
        ("", _) => Ok((host, "")),
        (_, Some(port)) => Ok((host, port)),
        (_, None) => Err("something other than a port follows an IPv6 address".into()),
    }
}

/// Decodes percent-encoding, such as `%20`. A `+` is a plus sign (RFC 3986). A percent sign without two hexadecimal digits after
/// it is kept.
pub(super) fn decode(text: &str) -> Result<String, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) if !text.contains('\0') => Ok(text.into_owned()),
        _ => Err("a value is not UTF-8 text".into()),
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::{collection::vec, prelude::any};

    use super::*;
    use crate::property::{property, text};

    fn of(url: &str) -> String {
        let list = parameters(url).unwrap();
        list.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn urls_are_split_as_libpq_splits_them() {
        for (url, expected) in [
            ("u:p@h:5433/db?a=b", "user=u password=p host=h port=5433 dbname=db a=b"),
            ("h", "host=h"),
            ("h1:1,h2/db", "host=h1,h2 port=1, dbname=db"),
            ("[::1]:7,[fe80::2%25eth0]/", "host=::1,fe80::2%eth0 port=7,"),
            ("/db?host=/run/pg&user=u@tenant", "dbname=db host=/run/pg user=u@tenant"),
            ("%2Frun%2Fa,%2Frun%2Fb/d", "host=/run/a,/run/b port=, dbname=d"),
            (
                "u%40x:p%2F%3f%25+%zz@h/a%20b?password=a+b",
                "user=u@x password=p/?%+%zz host=h dbname=a b password=a+b",
            ),
        ] {
            assert_eq!(of(url), expected, "{url}");
        }
        for url in ["[::1", "[::1]x", "h?sslmode", "u:p@x@h/d", "u:p@x/y@h/d", "h/%ff", "h/a%00b"] {
            assert!(parameters(url).is_err(), "{url}");
        }
    }

    #[test]
    fn percent_encoded_parts_are_decoded() {
        let word = "\\PC{1,8}";
        let servers = vec((word, 1..=u16::MAX), 1..4);
        property(1, (word, word, servers, word, vec((word, any::<String>()), 0..3)), |parts| {
            let (user, password, servers, database, pairs) = parts;
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let places = servers.iter().map(|(host, port)| format!("{}:{port}", encode(host)));
            let query = pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
            let url = format!(
                "{}:{}@{}/{}?{}",
                encode(&user),
                encode(&password),
                places.collect::<Vec<_>>().join(","),
                encode(&database),
                query.collect::<Vec<_>>().join("&")
            );
            let hosts = servers.iter().map(|(host, _)| host.as_str()).collect::<Vec<_>>().join(",");
            let ports = servers.iter().map(|(_, port)| port.to_string()).collect::<Vec<_>>().join(",");
            let mut expected = vec![
                ("user".to_owned(), user),
                ("password".to_owned(), password),
                ("host".to_owned(), hosts),
                ("port".to_owned(), ports),
                ("dbname".to_owned(), database),
            ];
            expected.extend(pairs);
            assert_eq!(parameters(&url), Ok(expected));
        });
    }

    #[test]
    fn no_problem_repeats_a_part_of_the_url() {
        let parts = ": @ / ? # & = % %ff %00 , [ ] h 1";
        property(1, (text(parts, 6), text(parts, 6)), |(before, after)| {
            if let Err(problem) = parameters(&format!("{before}hunter2{after}")) {
                assert!(!problem.contains("hunter2"), "{problem}");
            }
        });
    }
}
