//! Compression, where it pays: texts from a kilobyte on. poem's middleware would compress the smallest answer too.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use poem::{
    Body, Request, Response,
    http::{HeaderValue, header},
};

/// A shorter answer fits into one packet as it is.
const WORTH_IT: usize = 1_024;

pub(super) fn accepts_gzip(req: &Request) -> bool {
    let accepted =
        req.headers().get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|list| list.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|q| matches!(q, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

pub(super) fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// Compresses a JSON answer that is long enough. Anything else, and so a stream, is left as it is.
pub(super) async fn compress(mut response: Response, accepted: bool) -> Response {
    let json = response.content_type().is_some_and(|kind| kind.starts_with("application/json"));
    if !json || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let bytes = match response.take_body().into_bytes().await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(error = %error, "an answer could not be read");
            return response;
        }
    };
    match Some(&bytes).filter(|bytes| accepted && bytes.len() >= WORTH_IT).and_then(|bytes| gzip(bytes)) {
        Some(packed) => {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.set_body(packed);
        }
        None => response.set_body(Body::from_bytes(bytes)),
    }
    response
}
