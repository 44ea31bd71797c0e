//! Compression of responses. poem's own middleware would also compress responses that are too short to benefit.

use std::io::Write;

use flate2::write::GzEncoder;
use poem::{
    Body, Request, Response,
    http::{HeaderValue, header},
};

use crate::api::{conditional::mark_compressed, header_fields::items};

/// Minimum size of a response body to compress. The compression of a shorter body saves too little.
const MIN_COMPRESS_BYTES: usize = 1_024;

/// Returns whether `Accept-Encoding` names gzip with a weight other than 0 (RFC 9110 section 12.5.3). Ignores `*`.
pub(in crate::api) fn accepts_gzip(req: &Request) -> bool {
    items(req.headers(), header::ACCEPT_ENCODING, b',').any(|item| {
        let mut parts = item.split(|octet| *octet == b';').map(<[u8]>::trim_ascii);
        let is_gzip = parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"gzip"));
        is_gzip && !parts.any(is_weight_zero)
    })
}

/// Returns whether a parameter is the weight 0 (RFC 9110 section 12.4.2): `q=0`, optionally with a decimal point and
/// more zeros.
fn is_weight_zero(parameter: &[u8]) -> bool {
    let [b'q' | b'Q', b'=', b'0', rest @ ..] = parameter else { return false };
    rest.is_empty() || rest.strip_prefix(b".").is_some_and(|zeros| zeros.iter().all(|zero| *zero == b'0'))
}

/// Compresses bytes with gzip. `None` if the compression fails.
pub(in crate::api) fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// Compresses a JSON response of at least [`MIN_COMPRESS_BYTES`] if `accepted` says that the client accepts gzip. Adds
/// `Vary: accept-encoding` to shorter and uncompressed JSON responses too. Does not change other responses, such as
/// HTML pages and problem details, nor a JSON response that already has `Vary: accept-encoding`.
pub(super) async fn compress(mut response: Response, accepted: bool) -> Response {
    let json = response.content_type().is_some_and(|kind| kind.starts_with("application/json"));
    // A handler that sets `Vary: accept-encoding` has already chosen between compressed and uncompressed.
    let has_variants = items(response.headers(), header::VARY, b',')
        .any(|item| item.eq_ignore_ascii_case(b"accept-encoding"));
    if !json || has_variants {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let bytes = match response.take_body().into_bytes().await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(error = %error, "cannot read the body of the response");
            return response;
        }
    };
    match Some(&bytes)
        .filter(|bytes| accepted && bytes.len() >= MIN_COMPRESS_BYTES)
        .and_then(|bytes| gzip(bytes))
    {
        Some(packed) => {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            mark_compressed(response.headers_mut());
            response.set_body(packed);
        }
        None => response.set_body(Body::from_bytes(bytes)),
    }
    response
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, sample::select};

    use super::*;
    use crate::property::property;

    #[test]
    fn gzip_is_accepted_unless_its_weight_is_zero() {
        let zero: &[&str] = &["q=0", "q=0.", "q=0.0", "Q=0.000"];
        let coding = select(vec!["gzip", "GZip", "br", "identity", "x-gzip", "*", ""]);
        let weight =
            select(vec!["", "q=0", "q=0.", "q=0.0", "Q=0.000", "q=1", "q=0.001", "Q=0.5", "q=1.000"]);
        let separator = select(vec![";", " ; ", ";\t"]);
        property(1, vec((coding, separator, weight), 0..5), |items| {
            let text = |(coding, separator, weight): &(&str, &str, &str)| match weight.is_empty() {
                true => (*coding).to_owned(),
                false => format!("{coding}{separator}{weight}"),
            };
            let line = items.iter().map(text).collect::<Vec<_>>().join(", ");
            let request = Request::builder().header(header::ACCEPT_ENCODING, line).finish();
            let expected = items
                .iter()
                .any(|(coding, _, weight)| coding.eq_ignore_ascii_case("gzip") && !zero.contains(weight));
            assert_eq!(accepts_gzip(&request), expected);
        });
    }
}
