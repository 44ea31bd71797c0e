//! Requests that hyper refuses, because they are malformed or their head is too large.
//!
//! hyper responds to them with a status and an empty body. The type `Connection` sends a response of the endpoint
//! instead. The endpoint's response has problem details, a request id and all default headers, and the access log
//! contains a line for the request.

use futures_util::FutureExt;
use poem::{
    Body, Request, Response,
    http::{Method, StatusCode, header, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};

use super::limits::{MAX_HEAD_BYTES, MAX_HEADERS};

/// The reason why hyper has refused a request. The endpoint receives a placeholder request with this value as an
/// extension. The value contains no input of the client.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum Refusal {
    #[error("The request is not valid HTTP/1.1")]
    Malformed,
    #[error(
        "The target of the request is too long; the head of a request has at most {} bytes",
        MAX_HEAD_BYTES
    )]
    TargetTooLong,
    #[error("The head of the request has more than {} bytes or {} headers", MAX_HEAD_BYTES, MAX_HEADERS)]
    HeadTooLarge,
}

impl Refusal {
    /// Returns the refusal that a response of hyper reports. `None` if `bytes` are anything else.
    ///
    /// hyper's own limit for request targets is higher than [`MAX_HEAD_BYTES`]. So for a head that is too large, the
    /// length of its first line decides whether the target is too long.
    pub(super) fn of(bytes: &[u8], first_line_bytes: usize) -> Option<Self> {
        let after = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
        if !bytes.ends_with(b"\r\n\r\n") {
            return None;
        }
        match StatusCode::from_bytes(after.get(..3)?).ok()? {
            StatusCode::BAD_REQUEST => Some(Self::Malformed),
            StatusCode::URI_TOO_LONG => Some(Self::TargetTooLong),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if first_line_bytes > MAX_HEAD_BYTES / 2 => {
                Some(Self::TargetTooLong)
            }
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Some(Self::HeadTooLarge),
            _ => None,
        }
    }

    /// Returns the status of the response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// Returns the placeholder request that makes the endpoint build the response.
    pub(super) fn request(self, local: LocalAddr, peer: RemoteAddr) -> Request {
        let (mut parts, ()) = hyper::Request::new(()).into_parts();
        // The access log shows this method, because the client's method is unknown.
        parts.method = Method::from_bytes(b"-").unwrap_or_default();
        parts.extensions.insert(self);
        Request::from_parts((parts, local, peer, Scheme::HTTP).into(), Body::empty())
    }
}

/// Encodes a response after which the connection is closed. Copies the header `Date` from `replaced`, the response of
/// hyper. A response to HEAD has the content length of the body, but no body. `None` if the body cannot be read at
/// once.
pub(super) fn encode(mut response: Response, replaced: &[u8], is_head_request: bool) -> Option<Vec<u8>> {
    let body = response.take_body().into_bytes().now_or_never()?.ok()?;
    let (status, length) = (response.status(), body.len());
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n");
    let mut bytes = head.into_bytes();
    for line in replaced.split_inclusive(|octet| *octet == b'\n').filter(|line| line.starts_with(b"date: ")) {
        bytes.extend_from_slice(line);
    }
    for (name, value) in response.headers().iter().filter(|(name, _)| **name != header::CONNECTION) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    if !is_head_request {
        bytes.extend_from_slice(&body);
    }
    Some(bytes)
}
