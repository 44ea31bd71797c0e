//! Logging to standard error: text in development, one JSON object per line in production.

use std::{
    borrow::Cow,
    fmt,
    io::{BufWriter, IsTerminal},
};

use serde::Serialize;
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::{JsonFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    config::{Core, LogFormat},
    error::chain,
};

/// Size of the buffer of the log, in bytes.
const BUFFER: usize = 64 * 1024;

/// Starts logging. Call it once, and keep the guard until the command ends: dropping it writes the remaining lines.
///
/// A thread writes the lines, so that lines that are logged at the same time share a system call and no request or job
/// waits for one. No line is dropped: if the reader of the log is slow, logging waits.
///
/// # Errors
/// If `LOG_LEVEL` is invalid or logging has already been started.
pub fn init(core: &Core) -> anyhow::Result<WorkerGuard> {
    use anyhow::Context;
    // These libraries log their start and stop at `info`, which repeats the messages of this program.
    let quiet = "poem=warn,tokio_postgres=warn,hyper=warn,rustls=warn";
    check_level(&core.log_level)?;
    let filter = EnvFilter::try_new(format!("{quiet},{}", core.log_level)).with_context(|| {
        format!(
            "LOG_LEVEL {:?} is not a level (error, warn, info, debug, trace) or a list of filters",
            core.log_level
        )
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let stderr = BufWriter::with_capacity(BUFFER, std::io::stderr());
    let (writer, guard) = NonBlockingBuilder::default().lossy(false).thread_name("log").finish(stderr);
    match core.log_format() {
        LogFormat::Human => {
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(writer)
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false)
                .compact();
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(writer)
                .fmt_fields(JsonFields::new())
                .event_format(JsonLines { service: core.project_name.clone() });
            registry.with(layer).try_init()?;
        }
    }
    Ok(guard)
}

/// Refuses a misspelled level. `EnvFilter` would take it for the name of a module and log nothing else.
fn check_level(text: &str) -> anyhow::Result<()> {
    for part in text.split(',').map(str::trim).filter(|part| !part.contains(['=', '['])) {
        if part.parse::<tracing_subscriber::filter::LevelFilter>().is_err() && !part.contains("::") {
            anyhow::bail!("LOG_LEVEL has {part:?}; write error, warn, info, debug or trace, or module=level");
        }
    }
    Ok(())
}

/// Formats an event as a flat JSON object with the fields of the event and its spans, and the name of the service.
struct JsonLines {
    service: String,
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
        for span in ctx.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<FormattedFields<N>>()
                && let Ok(Value::Object(fields)) = serde_json::from_str(&fields.fields)
            {
                fields.into_iter().for_each(|(name, value)| line.add(name, &value));
            }
        }
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

/// A JSON object that is written field by field, which is faster than building a [`Value`]. If a name occurs twice, the
/// first field is kept.
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
