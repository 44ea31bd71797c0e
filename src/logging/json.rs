//! Log lines for programs.

use std::{borrow::Cow, fmt};

use serde::Serialize;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::span_fields::for_each_span_field;
use crate::error::chain;

/// Formats an event as a flat JSON object: the time, the level, the name and version of the service, the target, and the fields
/// of the event and its spans.
pub(super) struct JsonLines {
    /// `PROJECT_NAME`.
    pub(super) service: String,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (mut line, meta) = (JsonLine::new(), event.metadata());
        line.add("timestamp", &chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
        line.add("level", level(*meta.level()));
        line.add("service", &*self.service);
        line.add("version", env!("CARGO_PKG_VERSION"));
        line.add("target", meta.target());
        event.record(&mut line);
        for_each_span_field(ctx, |name, value| line.add(name, &value));
        writeln!(writer, "{}", line.finish())
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// A JSON object that is written field by field, which is faster than building a [`serde_json::Value`]. If a name occurs
/// twice, the first field is kept.
struct JsonLine {
    text: Vec<u8>,
    names: Vec<Cow<'static, str>>,
}

impl JsonLine {
    fn new() -> Self {
        Self { text: Vec::with_capacity(512), names: Vec::with_capacity(16) }
    }

    fn add(&mut self, name: impl Into<Cow<'static, str>>, value: &(impl Serialize + ?Sized)) {
        let name = name.into();
        if self.names.contains(&name) {
            return;
        }
        self.text.push(if self.names.is_empty() { b'{' } else { b',' });
        // Writing a string or a field value to memory as JSON does not fail.
        let _ = serde_json::to_writer(&mut self.text, &name);
        self.text.push(b':');
        let _ = serde_json::to_writer(&mut self.text, value);
        self.names.push(name);
    }

    fn finish(mut self) -> String {
        self.text.push(b'}');
        String::from_utf8(self.text).unwrap_or_default()
    }
}

impl Visit for JsonLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), &value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), &value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), &value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field.name(), &chain(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_fields_with_the_same_name_is_kept() {
        let mut line = JsonLine::new();
        line.add("a", "quotes \" and\nlines");
        line.add("b", &1);
        line.add("a", &2);
        line.add("none", &f64::NAN);
        assert_eq!(line.finish(), r#"{"a":"quotes \" and\nlines","b":1,"none":null}"#);
    }
}
