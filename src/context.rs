//! The context of a request. The API creates it and passes it to the services.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use uuid::Uuid;

use crate::queue::Origin;

/// The user, the client and the ids of a request. [`Default`] is for work without a request, such as a command or a scheduled
/// job.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    /// The id of the signed-in user, of the creator of the API key, or of the owner of the running job. `None` if there is no
    /// such user.
    pub actor: Option<i64>,
    /// The id of the session, if the user is signed in.
    pub session: Option<Uuid>,
    /// The id of the API key that authenticated the request, or the request that enqueued the running job. `None` if no API key
    /// was used.
    pub api_key: Option<i64>,
    /// The IP address of the client, if it is known.
    pub ip: Option<IpAddr>,
    /// The header `User-Agent`.
    pub user_agent: Option<Arc<str>>,
    /// The id that the server has given to the request, or to the request that enqueued the running job. Log lines and audit
    /// entries contain this id.
    pub request_id: Option<Arc<str>>,
    /// The header `X-Request-Id` if it is valid. A client can send any id, also the id of another request.
    pub client_request_id: Option<Arc<str>>,
    /// The header `traceparent` (W3C Trace Context) of the request, or of the request that enqueued the running job. `None` if
    /// the header is absent or invalid.
    pub trace: Option<Arc<str>>,
}

impl RequestContext {
    /// Returns the context with a signed-in user.
    pub fn signed_in(&self, actor: i64, session: Uuid) -> Self {
        Self { actor: Some(actor), session: Some(session), ..self.clone() }
    }

    /// Returns the context with an API key. `actor` is the creator of the key, in whose name the key acts.
    pub fn with_api_key(&self, actor: i64, api_key: i64) -> Self {
        Self { actor: Some(actor), api_key: Some(api_key), ..self.clone() }
    }

    /// Returns the name under which the idempotency keys of the caller are stored: `key:12` for an API key, or [`user_caller`]
    /// for a signed-in user. `None` if the request is not authenticated.
    pub fn caller(&self) -> Option<String> {
        match self.api_key {
            Some(id) => Some(format!("key:{id}")),
            None => self.actor.map(user_caller),
        }
    }

    /// Returns the request id for the response: the client's id if the client has sent a valid id, else the server's id. The
    /// text is empty if the context does not belong to a request.
    pub fn response_id(&self) -> Arc<str> {
        self.client_request_id.clone().or_else(|| self.request_id.clone()).unwrap_or_default()
    }

    /// Returns the origin, without a scope, of a job that this request enqueues. `owner` is the user for whom the job runs, or
    /// `None` for a job of the product itself.
    pub fn origin(&self, owner: Option<i64>) -> Origin {
        let text = |value: &Option<Arc<str>>| value.as_deref().map(str::to_owned);
        Origin {
            owner,
            scope: None,
            api_key: self.api_key,
            request_id: text(&self.request_id),
            traceparent: text(&self.trace),
        }
    }
}

/// Returns the name of a user as a caller, such as `user:7`; see [`RequestContext::caller`].
pub fn user_caller(id: i64) -> String {
    format!("user:{id}")
}

/// Returns the network of a client: an IPv4 address, or an IPv6 /64, because a subscriber usually has at least 2^64 addresses.
pub fn client_network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip => ip,
    }
}

/// Returns the trace id of a `traceparent`, which is its second field. `None` if the text has one field only.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.split('-').nth(1)
}
