//! A job on the wire.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whose job it is and what asked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The user who may see and cancel it; without one only admins may.
    pub owner: Option<i64>,
    pub request_id: Option<String>,
    /// W3C Trace Context.
    pub traceparent: Option<String>,
}

/// The last error of a job. `at` is in milliseconds since the epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ErrorRecord {
    pub(super) message: String,
    #[serde(default)]
    pub(super) detail: Option<String>,
    #[serde(default)]
    pub(super) at: i64,
}

/// A job on the wire: written once at enqueue, never changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Envelope<P = Value> {
    /// Version of this layout.
    pub(super) v: u8,
    pub(super) task: String,
    pub(super) queue: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<i64>,
    /// Id of the request that enqueued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) req: Option<String>,
    /// Its trace context (W3C `traceparent`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    /// The key that keeps others like it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// Milliseconds a result is kept.
    pub(super) ttl: u64,
    /// Milliseconds since the epoch at which it was enqueued.
    pub(super) at: i64,
    /// Last, so that what comes before it can be read without it.
    pub(super) payload: P,
}

impl Envelope {
    pub(super) const VERSION: u8 = 1;

    /// Whether there may be more on record of the job than the envelope.
    pub(super) fn has_extras(&self) -> bool {
        self.group.is_some() || self.key.is_some()
    }

    /// The id of the trace that it belongs to: the second part of a `traceparent`.
    pub(super) fn trace_id(&self) -> Option<&str> {
        self.trace.as_deref()?.split('-').nth(1)
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { owner: self.owner, request_id: self.req.clone(), traceparent: self.trace.clone() }
    }
}

impl<P> Envelope<P> {
    /// Of nobody, and without anything special.
    pub(super) fn new(task: &str, queue: &str, payload: P, ttl: u64, at: i64) -> Self {
        Self {
            v: Envelope::VERSION,
            task: task.into(),
            queue: queue.into(),
            payload,
            owner: None,
            req: None,
            trace: None,
            group: None,
            key: None,
            ttl,
            at,
        }
    }
}

/// As JSON.
pub(super) fn record(value: &impl serde::Serialize) -> String {
    // Plain structs of text, numbers and JSON values: there is nothing in them that cannot be written.
    serde_json::to_string(value).unwrap_or_default()
}
