//! The JSON that Redis stores for a job.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The user, the scope and the request for which a job is enqueued.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Id of the user for whom the job is enqueued. `None` for a job of the product itself.
    pub owner: Option<i64>,
    /// A text of the product, such as the id of the tenant that the job belongs to. The jobs of a scope take turns with other
    /// groups like one group. The engine does not interpret the scope otherwise. The status of a job has its scope. 1 to 100
    /// letters, digits, `:`, `-`, `_` and `.`.
    pub scope: Option<String>,
    /// Id of the API key of the request. The engine does not interpret it.
    pub api_key: Option<i64>,
    pub request_id: Option<String>,
    /// Trace context of the request (W3C Trace Context).
    pub traceparent: Option<String>,
}

/// The last error of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ErrorRecord {
    /// Text that the owner of the job may read.
    pub(super) message: String,
    /// Text for admins, which the owner of the job must not read.
    #[serde(default)]
    pub(super) detail: Option<String>,
    /// When the error occurred, in milliseconds since the epoch. 0 if unknown.
    #[serde(default)]
    pub(super) at: i64,
}

/// A job as it is enqueued. It never changes afterwards.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Envelope<P = Value> {
    /// Version of this layout.
    pub(super) v: u8,
    pub(super) task: String,
    pub(super) queue: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scope: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) api_key: Option<i64>,
    /// Id of the request for which the job was enqueued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) req: Option<String>,
    /// Trace context of the request for which the job was enqueued (W3C `traceparent`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    /// The unique key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    /// The `RESULT_TTL` of the job, in milliseconds.
    pub(super) ttl: u64,
    /// When the envelope was created, in milliseconds since the epoch.
    pub(super) at: i64,
    /// The arguments. Must be the last field: a script omits the payload from a large envelope by cutting off the envelope's
    /// end.
    pub(super) payload: P,
}

impl Envelope {
    pub(super) const VERSION: u8 = 1;

    /// Returns whether Redis stores a group or a unique key of the job besides its envelope.
    pub(super) fn has_group_or_key(&self) -> bool {
        self.group.is_some() || self.key.is_some()
    }

    /// Returns the trace id, which is the second part of a `traceparent`.
    pub(super) fn trace_id(&self) -> Option<&str> {
        self.trace.as_deref()?.split('-').nth(1)
    }

    pub(super) fn origin(&self) -> Origin {
        Origin {
            owner: self.owner,
            scope: self.scope.clone(),
            api_key: self.api_key,
            request_id: self.req.clone(),
            traceparent: self.trace.clone(),
        }
    }
}

impl<P> Envelope<P> {
    /// Creates an envelope without owner, scope, API key, request, trace context, group or unique key.
    pub(super) fn new(task: &str, queue: &str, payload: P, ttl: u64, at: i64) -> Self {
        Self {
            v: Envelope::VERSION,
            task: task.into(),
            queue: queue.into(),
            payload,
            owner: None,
            scope: None,
            api_key: None,
            req: None,
            trace: None,
            group: None,
            key: None,
            ttl,
            at,
        }
    }
}

/// Serializes a record.
pub(super) fn to_json(value: &impl serde::Serialize) -> String {
    // Structs of text, numbers and JSON values always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::{btree_map, vec},
        option,
        prelude::{Just, Strategy, any, prop_oneof},
    };

    use super::*;
    use crate::property::property;

    /// Generates JSON without fractions, whose digits a round trip may change.
    fn json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|fields| fields.into_iter().collect::<Value>()),
            ]
        })
    }

    #[test]
    fn an_envelope_is_read_as_it_is_written() {
        let word = any::<String>;
        let maybe = || option::of(any::<String>());
        let texts = (maybe(), maybe(), maybe(), maybe(), maybe());
        let inputs = (word(), word(), option::of(any::<i64>()), texts, any::<u64>(), any::<i64>(), json());
        property(1, inputs, |(task, queue, owner, texts, ttl, at, payload)| {
            let new = Envelope::new(&task, &queue, payload, ttl, at);
            let (scope, req, trace, group, key) = texts;
            let text = to_json(&Envelope { owner, scope, req, trace, group, key, ..new });
            let read: Envelope = serde_json::from_str(&text).unwrap();
            assert_eq!(to_json(&read), text);
            // A newer release may add fields.
            let newer = text.replacen('{', r#"{"later":[1],"#, 1);
            let read: Envelope = serde_json::from_str(&newer).unwrap();
            assert_eq!(to_json(&read), text);
            assert_eq!(read.trace_id(), read.trace.as_deref().and_then(|trace| trace.split('-').nth(1)));
        });
    }
}
