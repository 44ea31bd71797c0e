//! Who asks, and from where: made for each request by the API and passed to the services.

use std::{net::IpAddr, sync::Arc};

use uuid::Uuid;

use crate::queue::Origin;

/// The request that a service works for. [`Default`] is work without a request: a command or a job.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    /// The signed-in user.
    pub actor: Option<i64>,
    /// The session of the signed-in user.
    pub session: Option<Uuid>,
    /// The address of the client, as far as it is known.
    pub ip: Option<IpAddr>,
    /// The header `User-Agent`.
    pub user_agent: Option<Arc<str>>,
    pub request_id: Option<Arc<str>>,
    /// The `traceparent` of the client (W3C Trace Context).
    pub trace: Option<Arc<str>>,
}

impl RequestContext {
    /// The same request, by a signed-in user.
    pub fn signed_in(&self, actor: i64, session: Uuid) -> Self {
        Self { actor: Some(actor), session: Some(session), ..self.clone() }
    }

    /// The origin of a job that this request enqueues; `owner` may see and cancel it.
    pub fn origin(&self, owner: Option<i64>) -> Origin {
        let text = |value: &Option<Arc<str>>| value.as_deref().map(str::to_owned);
        Origin { owner, request_id: text(&self.request_id), traceparent: text(&self.trace) }
    }
}

/// The id of the trace in a `traceparent`.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.split('-').nth(1)
}
