use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use poem::{
    Endpoint, Request, Response, Result,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};

use crate::{api::extract::LoggedUser, context::RequestContext};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Creates the [`RequestContext`], attaches it to the request, and adds an id to the response: that of the client if it
/// has sent one, since clients find their requests by it. The logs and the audit trail have an id that no client can choose.
pub(super) struct WithContext<E> {
    pub(super) inner: E,
    /// Number of proxies whose entries in `X-Forwarded-For` are trusted.
    pub(super) trusted_proxies: usize,
}

impl<E: Endpoint<Output = Response>> Endpoint for WithContext<E> {
    type Output = Response;

    async fn call(&self, mut req: Request) -> Result<Response> {
        let context = RequestContext {
            ip: client_address(&req, self.trusted_proxies),
            user_agent: user_agent(req.headers()),
            request_id: Some(uuid::Uuid::now_v7().to_string().into()),
            client_request_id: client_request_id(req.headers()),
            trace: traceparent(req.headers()),
            ..Default::default()
        };
        let id = HeaderValue::from_str(&context.response_id());
        req.set_data(context);
        req.set_data(LoggedUser::default());
        let mut response = self.inner.call(req).await?;
        if let Ok(id) = id {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        Ok(response)
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
fn client_address(req: &Request, proxies: usize) -> Option<IpAddr> {
    let peer = req.remote_addr().as_socket_addr().map(|address| address.ip().to_canonical());
    let Some(back) = proxies.checked_sub(1) else { return peer };
    let values = req.headers().get_all("x-forwarded-for").iter();
    // Lossy, so that invalid UTF-8 from the client does not hide the entries of the proxies.
    let text = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(",");
    let hop = text.rsplit(',').nth(back).map(str::trim);
    // Some proxies add the port.
    let address = |hop: &str| hop.parse().or_else(|_| hop.parse().map(|hop: SocketAddr| hop.ip())).ok();
    hop.and_then(address).map(|address: IpAddr| address.to_canonical()).or(peer)
}

fn user_agent(headers: &HeaderMap) -> Option<Arc<str>> {
    headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(Into::into)
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
