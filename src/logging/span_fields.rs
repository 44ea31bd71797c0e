//! The fields of spans.

use serde_json::Value;
use tracing::Subscriber;
use tracing_subscriber::{
    fmt::{FmtContext, FormatFields, FormattedFields},
    registry::LookupSpan,
};

/// Calls `add` with each field of the spans of an event, those of the innermost span first. The layer must
/// format the fields of spans as JSON, because this function parses them.
pub(super) fn for_each_span_field<S, N>(ctx: &FmtContext<'_, S, N>, mut add: impl FnMut(String, Value))
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    for span in ctx.event_scope().into_iter().flatten() {
        let extensions = span.extensions();
        if let Some(fields) = extensions.get::<FormattedFields<N>>()
            && let Ok(Value::Object(fields)) = serde_json::from_str(&fields.fields)
        {
            fields.into_iter().for_each(|(name, value)| add(name, value));
        }
    }
}
