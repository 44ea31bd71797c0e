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
/// The logs and the audit trail have an id that no client can choose; the id of the client is beside it.
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

/// Returns the id that the client has sent, if it is valid. An invalid id must not reach the logs.
fn client_request_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let sane = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    headers.get(REQUEST_ID)?.to_str().ok().filter(sane).map(Into::into)
}

/// Returns the address of the client: the peer of the connection, or the entry of `X-Forwarded-For` that the outermost
/// trusted proxy has added. The client may have added the entries before that one, so they are ignored.
///
/// `None` if that entry is missing or is not an address. The address of the proxy is no substitute, because
/// all clients share it.
fn client_address(req: &Request, proxies: usize) -> Option<IpAddr> {
    match proxies.checked_sub(1) {
        Some(back) if req.headers().contains_key(FORWARDED_FOR) => {
            items(req.headers(), FORWARDED_FOR, b',').rev().nth(back).and_then(address)
        }
        // A request without the header does not come through a proxy.
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

/// Returns the header `User-Agent`. Octets that are not UTF-8 are replaced.
fn user_agent(headers: &HeaderMap) -> Option<Arc<str>> {
    let value = headers.get(header::USER_AGENT)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into())
}

/// Replaces the octets of a media type that the framework cannot read, since it reads ASCII only.
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
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    let valid = lengths && parts[0] == "00" && parts.iter().all(|part| hex(part));
    (valid && some(parts[1]) && some(parts[2])).then(|| text.into())
}
