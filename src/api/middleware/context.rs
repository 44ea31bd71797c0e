use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use poem::{
    Request,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};

use crate::{api::header_fields::items, context::RequestContext};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Creates the context of a request. `trusted_proxies` is the number of proxies whose entries in `X-Forwarded-For` are trusted.
///
/// The server creates a request id that no client can choose, for the logs and the audit trail. The id that the client sent
/// is stored separately.
pub(super) fn create(req: &Request, trusted_proxies: usize) -> RequestContext {
    RequestContext {
        ip: client_address(req, trusted_proxies),
        user_agent: user_agent(req.headers()),
        request_id: Some(uuid::Uuid::now_v7().to_string().into()),
        client_request_id: client_request_id(req.headers()),
        trace: traceparent(req.headers()),
        ..Default::default()
    }
}

/// Returns the request id that the client sent, if it is valid. An invalid id must not reach the logs.
fn client_request_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let is_safe = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    headers.get(REQUEST_ID)?.to_str().ok().filter(is_safe).map(Into::into)
}

/// Returns the IP address of the client. Without trusted proxies or without the header `X-Forwarded-For`, this is the address
/// of the peer of the connection. Otherwise, it is the entry of the header that the outermost trusted proxy has added. Entries
/// before it are ignored, because the client may have sent them.
///
/// `None` if the header has too few entries or this entry is not an IP address. The address of the proxy cannot replace it,
/// because all clients share that address.
fn client_address(req: &Request, proxies: usize) -> Option<IpAddr> {
    match proxies.checked_sub(1) {
        Some(back) if req.headers().contains_key(FORWARDED_FOR) => {
            items(req.headers(), FORWARDED_FOR, b',').rev().nth(back).and_then(address)
        }
        // A trusted proxy adds the header, so a request without it did not come through one of them: for example, a health
        // check or a request of an internal service.
        _ => req.remote_addr().as_socket_addr().map(|peer| peer.ip().to_canonical()),
    }
}

/// Parses an entry of `X-Forwarded-For`. Some proxies add the port, or write an IPv6 address in brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// Returns the header `User-Agent`. Replaces octets that are not valid UTF-8.
fn user_agent(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = headers.get(header::USER_AGENT)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into())
}

/// Replaces the non-ASCII octets in `Content-Type` with `?`, because poem reads only ASCII headers.
pub(super) fn make_content_type_readable(headers: &mut HeaderMap) {
    let Some(value) = headers.get(header::CONTENT_TYPE).filter(|value| value.to_str().is_err()) else {
        return;
    };
    let readable = |octet: &u8| if octet.is_ascii() { *octet } else { b'?' };
    let text: Vec<_> = value.as_bytes().iter().map(readable).collect();
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(header::CONTENT_TYPE, value);
    }
}

/// Returns the header `traceparent` if it is valid in version 00 (W3C Trace Context, section 3.2.2).
fn traceparent(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<_> = text.split('-').collect();
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let lengths = parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]);
    let is_nonzero = |part: &str| part.bytes().any(|b| b != b'0');
    let valid = lengths && parts[0] == "00" && parts.iter().all(|part| hex(part));
    (valid && is_nonzero(parts[1]) && is_nonzero(parts[2])).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::any,
        sample::{Index, select},
    };

    use super::*;
    use crate::property::{property, text};

    fn request(name: HeaderName, lines: &[String]) -> Request {
        let mut request = Request::builder().finish();
        for line in lines {
            request.headers_mut().append(name.clone(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        request
    }

    #[test]
    fn the_client_is_the_entry_that_the_outermost_trusted_proxy_has_added() {
        let written = |(ip, form): &(IpAddr, u8)| match form {
            0 => ip.to_string(),
            1 => SocketAddr::new(*ip, 443).to_string(),
            2 => format!("[{ip}]"),
            _ => format!("\t{ip} "),
        };
        let inputs = (vec((any::<IpAddr>(), 0..4_u8), 1..6), 1..8_usize, any::<bool>());
        property(1, inputs, |(entries, proxies, in_one_line)| {
            let lines: Vec<_> = entries.iter().map(written).collect();
            let lines = if in_one_line { vec![lines.join(",")] } else { lines };
            let added = entries.iter().rev().nth(proxies - 1).map(|(ip, _)| ip.to_canonical());
            assert_eq!(client_address(&request(FORWARDED_FOR, &lines), proxies), added);
        });
    }

    #[test]
    fn formatting_and_parsing_an_address_returns_the_same_address() {
        let parts = "1 255 . : :: [ ] ::1 127.0.0.1 :80 f %";
        property(1, text(parts, 6), |text| {
            if let Some(ip) = address(text.as_bytes()) {
                assert_eq!(address(ip.to_string().as_bytes()), Some(ip));
                assert_eq!(ip, ip.to_canonical());
            }
        });
    }

    #[test]
    fn a_request_id_from_a_client_is_short_and_safe_in_a_log() {
        let read = |id: &str| client_request_id(request(REQUEST_ID, &[id.to_owned()]).headers());
        property(1, "[A-Za-z0-9._:-]{1,128}", |id| assert_eq!(read(&id).as_deref(), Some(&*id)));
        let unsafe_octet = "[ -,/;-@\\[-^`{-~\u{e0}]";
        let inputs = ("[A-Za-z0-9]{0,9}", unsafe_octet, "[A-Za-z0-9]{0,9}");
        property(1, inputs, |(before, octet, after)| {
            assert_eq!(read(&format!("{before}{octet}{after}")), None);
        });
        assert_eq!((read(""), read(&"x".repeat(129))), (None, None));
    }

    #[test]
    fn only_a_well_formed_traceparent_is_accepted() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", HeaderValue::from_str(text).unwrap());
            traceparent(&headers)
        };
        let other = select(b"gxAF-_ ~".to_vec());
        let inputs = ("00-[1-9a-f][0-9a-f]{31}-[1-9a-f][0-9a-f]{15}-[0-9a-f]{2}", any::<Index>(), other);
        property(1, inputs, |(text, at, other)| {
            assert_eq!(read(&text).as_deref(), Some(&*text));
            let (at, other) = (at.index(text.len()), char::from(other));
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(changed == text || read(&changed).is_none(), "{changed}");
            assert!(read(&text[..at]).is_none() && read(&format!("{text}{other}")).is_none());
        });
    }

    #[test]
    fn non_ascii_octets_of_a_content_type_become_question_marks() {
        property(1, vec(0x20..=0xff_u8, 0..40), |octets| {
            let Ok(value) = HeaderValue::from_bytes(&octets) else { return };
            let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value)]);
            make_content_type_readable(&mut headers);
            let readable = headers[header::CONTENT_TYPE].to_str().unwrap();
            let expected = octets.iter().map(|octet| if octet.is_ascii() { *octet } else { b'?' });
            assert!(readable.bytes().eq(expected), "{readable}");
        });
    }
}
