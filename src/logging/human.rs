//! Log lines for people.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use chrono::Local;
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

/// The first fields in the line of a request, in this order. Their names are not shown.
const REQUEST_FIELDS: [&str; 6] = ["method", "path", "status", "code", "fields", "duration_ms"];
/// Fields whose ids are shortened, except in warnings, errors and the lines of failed requests.
const REQUEST_IDS: [&str; 2] = ["request_id", "client_request_id"];
/// Length of a UUID with its four hyphens.
const UUID_CHARS: usize = 36;
/// Length of a shortened id: enough digits to distinguish the requests of a few minutes.
const SHORT_ID_CHARS: usize = 8;

// SGR codes of terminals (ECMA-48).
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";

/// Formats an event as a line of text: time, level, message and fields. The time is in the time zone of this machine.
pub(super) struct HumanLines {
    /// Whether lines begin with the date, not only with the time.
    pub(super) with_date: bool,
}

impl<S, N> FormatEvent<S, N> for HumanLines
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
        let mut line = Line::new(*event.metadata().level(), writer.has_ansi_escapes());
        event.record(&mut line);
        for_each_span_field(ctx, |name, value| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            line.add(name, text);
        });
        let time = if self.with_date { "%Y-%m-%d %H:%M:%S%.3f" } else { "%H:%M:%S%.3f" };
        let time = line.paint(DIM, &Local::now().format(time).to_string());
        writeln!(writer, "{time} {}", line.finish()?)
    }
}

/// The content of a log line.
struct Line {
    level: Level,
    /// Whether the line has colors.
    ansi: bool,
    message: String,
    fields: Vec<(Cow<'static, str>, String)>,
}

impl Line {
    fn new(level: Level, ansi: bool) -> Self {
        Self { level, ansi, message: String::new(), fields: Vec::new() }
    }

    /// Adds a field. If a name occurs twice, the first field is kept.
    fn add(&mut self, name: impl Into<Cow<'static, str>>, value: String) {
        let name = name.into();
        if self.fields.iter().all(|(other, _)| *other != name) {
            self.fields.push((name, value));
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.fields.iter().position(|(other, _)| other == name)?;
        Some(self.fields.remove(at).1)
    }

    /// Returns the text in a color or, if the line has no colors, unchanged.
    fn paint(&self, color: &str, text: &str) -> String {
        match self.ansi {
            true => format!("\x1b[{color}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// Returns the text of the line after the time.
    fn finish(mut self) -> Result<String, fmt::Error> {
        let (color, level) = match self.level {
            Level::ERROR => (RED, "ERROR"),
            Level::WARN => (YELLOW, " WARN"),
            Level::INFO => (GREEN, " INFO"),
            Level::DEBUG => (BLUE, "DEBUG"),
            Level::TRACE => (DIM, "TRACE"),
        };
        let mut text = format!("{} ", self.paint(color, level));
        let status = self.fields.iter().find(|(name, _)| name == "status");
        let status = status.and_then(|(_, status)| status.parse::<u16>().ok());
        let failed = self.level <= Level::WARN || status.is_some_and(|status| status >= 400);
        match status.filter(|_| self.message == "request") {
            Some(status) => text.push_str(&self.take_request(status)),
            None => self.message.chars().for_each(|c| push_visible(&mut text, c)),
        }
        for (name, value) in std::mem::take(&mut self.fields) {
            let value = match REQUEST_IDS.contains(&&*name) && !failed {
                true => shortened_id(&value),
                false => &value,
            };
            write!(text, " {}{}", self.paint(DIM, &format!("{name}=")), quoted(value))?;
        }
        Ok(text)
    }

    /// Removes the [`REQUEST_FIELDS`], and returns their values for the beginning of the line.
    fn take_request(&mut self, status: u16) -> String {
        let color = match status {
            500.. => RED,
            400.. => YELLOW,
            _ => GREEN,
        };
        let parts = REQUEST_FIELDS.iter().filter_map(|name| {
            let value = quoted(&self.take(name)?).into_owned();
            Some(match *name {
                "status" | "code" | "fields" => self.paint(color, &value),
                "duration_ms" => self.paint(DIM, &format!("{value} ms")),
                _ => value,
            })
        });
        parts.collect::<Vec<_>>().join(" ")
    }
}

/// Adds a character of a message. Line feeds and tabs are kept, because a message may have several lines.
/// Other control characters are escaped, because they could change the terminal.
fn push_visible(text: &mut String, c: char) {
    match c.is_control() && !matches!(c, '\n' | '\t') {
        true => text.extend(c.escape_debug()),
        false => text.push(c),
    }
}

/// Returns a value in quotes, with escapes, if it is empty or contains a space, a quote, a backslash or an invisible character.
fn quoted(value: &str) -> Cow<'_, str> {
    let is_plain = !value.is_empty() && !value.contains(' ') && value.escape_debug().eq(value.chars());
    if is_plain { value.into() } else { format!("{value:?}").into() }
}

/// Returns the end of an id with the length of a UUID, whose end is random in versions 4 and 7. Returns other ids unchanged.
fn shortened_id(id: &str) -> &str {
    if id.len() == UUID_CHARS { id.get(UUID_CHARS - SHORT_ID_CHARS..).unwrap_or(id) } else { id }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.add(name, text),
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => self.add(name, value.to_owned()),
        }
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field.name(), chain(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(status: &str, more: &[(&'static str, &str)], ansi: bool) -> String {
        let mut line = Line { message: "request".into(), ..Line::new(Level::INFO, ansi) };
        let id = "01a203c5-1357-763a-a32d-0c63a944ff19";
        let fields = [("request_id", id), ("method", "POST"), ("path", "/a b"), ("status", status)];
        let fields = fields.iter().chain(more);
        fields.for_each(|(name, value)| line.add(*name, (*value).to_owned()));
        line.finish().unwrap()
    }

    #[test]
    fn the_line_of_a_failed_request_has_the_error_and_the_whole_request_id() {
        let why = [("duration_ms", "1.5"), ("code", "validation_error"), ("fields", "body.email,body.age")];
        assert_eq!(
            request("422", &why, false),
            " INFO POST \"/a b\" 422 validation_error body.email,body.age 1.5 ms \
             request_id=01a203c5-1357-763a-a32d-0c63a944ff19"
        );
        assert_eq!(
            request("200", &[("user_id", "7")], false),
            " INFO POST \"/a b\" 200 request_id=a944ff19 user_id=7"
        );
        assert!(request("404", &[], true).contains("\x1b[33m404\x1b[0m"));
        assert!(request("500", &[], true).contains("\x1b[31m500\x1b[0m"));
    }

    #[test]
    fn control_characters_that_could_change_the_terminal_are_escaped() {
        let mut line = Line::new(Level::WARN, false);
        line.message = "two\nlines\x1b[31m".into();
        line.add("error", "a \x1b[0m\nb \u{202e}".into());
        line.add("error", "ignored".into());
        assert_eq!(
            line.finish().unwrap(),
            " WARN two\nlines\\u{1b}[31m error=\"a \\u{1b}[0m\\nb \\u{202e}\""
        );
    }
}
