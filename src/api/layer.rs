//! What every request and response goes through: its id, its log line, errors as problems, headers.

use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use futures_util::FutureExt;
use poem::{
    Endpoint, PathPattern, Request, Response, Result,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
};
use tracing::Instrument;

use super::{
    cors::Cors,
    gzip::{accepts_gzip, compress},
    paths::PREFIX,
    problem::{Asked, Operations},
};
use crate::{
    app::App,
    error::Error,
    jobs,
    telemetry::{REQUEST, RequestContext, chain, trace_id},
};

/// Seconds after which a client may try again when something is away.
const RETRY_AFTER: &str = "2";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) struct Layer<E> {
    pub(super) inner: E,
    pub(super) operations: Operations,
    pub(super) cors: Cors,
    /// Whether clients reach the API over TLS.
    pub(super) https: bool,
    /// Proxies whose word on the client's address counts.
    pub(super) proxies: usize,
    pub(super) app: App,
}

impl<E: Endpoint<Output = Response>> Endpoint for Layer<E> {
    type Output = Response;

    async fn call(&self, req: Request) -> Result<Response> {
        let begun = Instant::now();
        let traceparent = traceparent(req.headers());
        let request = RequestContext {
            id: request_id(req.headers()),
            traceparent,
            address: client_address(&req, self.proxies),
            user_agent: user_agent(req.headers()),
            ..Default::default()
        };
        let (method, uri) = (req.method().clone(), req.original_uri().clone());
        let gzip = accepts_gzip(&req);
        let origin = req.headers().get(header::ORIGIN).cloned();
        let span = tracing::info_span!("request", request_id = &*request.id);

        let (response, pattern) = match self.cors.preflight(&req) {
            Some(answer) => (answer, None),
            None => {
                let answer = AssertUnwindSafe(REQUEST.scope(request.clone(), self.inner.call(req)))
                    .catch_unwind()
                    .instrument(span.clone())
                    .await
                    .unwrap_or_else(|_| Err(Error::internal("a handler panicked").into()));
                match answer {
                    Ok(response) => {
                        let pattern = response.data::<PathPattern>().map(|pattern| pattern.0.clone());
                        (response, pattern)
                    }
                    Err(error) => {
                        let pattern = error.data::<PathPattern>().map(|pattern| pattern.0.clone());
                        let asked = Asked { id: &request.id, method: &method, uri: &uri };
                        (span.in_scope(|| self.operations.render(error, &asked)), pattern)
                    }
                }
            }
        };
        if request.letters.load(Ordering::Relaxed) {
            self.hand_over_letters(request.clone());
        }
        let mut response = compress(response, gzip).await;
        self.finish(&mut response, &request, origin.as_ref());
        // The pattern, never the path as sent: that may hold an id or a token.
        tracing::info!(
            method = method.as_str(),
            path = &*self.documented(pattern),
            status = response.status().as_u16(),
            duration_ms = begun.elapsed().as_micros() as f64 / 1_000.0,
            request_id = &*request.id,
            trace_id = request.traceparent.as_deref().and_then(trace_id),
            user_id = request.user.get().copied(),
            "request"
        );
        Ok(response)
    }
}

impl<E> Layer<E> {
    /// The path as documented; `-` where there is none.
    fn documented(&self, pattern: Option<Arc<str>>) -> Arc<str> {
        match pattern {
            Some(pattern) if &*pattern != PREFIX => self.operations.path(&pattern).unwrap_or(pattern),
            _ => "-".into(),
        }
    }

    /// Those that the request has put into the outbox. If this fails a job does it within a minute.
    fn hand_over_letters(&self, request: RequestContext) {
        let app = self.app.clone();
        tokio::spawn(async move {
            if let Err(error) = REQUEST.scope(request, jobs::hand_over(&app)).await {
                tracing::warn!(error = chain(&error), "letters wait in the outbox");
            }
        });
    }

    fn finish(&self, response: &mut Response, request: &RequestContext, origin: Option<&HeaderValue>) {
        self.cors.decorate(response, origin);
        let status = response.status();
        let headers = response.headers_mut();
        // Once rather than bit by bit.
        headers.reserve(12);
        if let Ok(id) = HeaderValue::from_str(&request.id) {
            headers.insert(REQUEST_ID, id);
        }
        // OWASP REST Security Cheat Sheet, "Security Headers".
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        // So that clients and balancers look elsewhere while they still can.
        if self.app.is_stopping() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.https {
            let year = HeaderValue::from_static("max-age=31536000; includeSubDomains");
            headers.insert(header::STRICT_TRANSPORT_SECURITY, year);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        // What a page or the API document has said of itself stands.
        let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
}

/// The caller's id where it is sane, since it goes into logs; else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let sane = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    match headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane) {
        Some(id) => id.into(),
        None => uuid::Uuid::now_v7().to_string().into(),
    }
}

/// The address that the client calls from: of the connection, or what the outermost of our proxies has seen. What
/// the client itself has put into the header comes before that.
fn client_address(req: &Request, proxies: usize) -> Option<IpAddr> {
    let peer = req.remote_addr().as_socket_addr().map(|address| address.ip().to_canonical());
    let Some(back) = proxies.checked_sub(1) else { return peer };
    let values = req.headers().get_all("x-forwarded-for").iter();
    // Whatever else the client has put there must not hide what our proxies have added.
    let text = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(",");
    let hop = text.rsplit(',').nth(back).map(str::trim);
    // Some proxies add the port.
    let address = |hop: &str| hop.parse().or_else(|_| hop.parse().map(|hop: SocketAddr| hop.ip())).ok();
    hop.and_then(address).map(|address: IpAddr| address.to_canonical()).or(peer)
}

fn user_agent(headers: &HeaderMap) -> Option<Arc<str>> {
    headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(Into::into)
}

/// The caller's trace, where it is one: version 00 of W3C Trace Context, section 3.2.2.
fn traceparent(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<_> = text.split('-').collect();
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let lengths = parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]);
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    let valid = lengths && parts[0] == "00" && parts.iter().all(|part| hex(part));
    (valid && some(parts[1]) && some(parts[2])).then(|| text.into())
}
