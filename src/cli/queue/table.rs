//! Plain text tables, and the format of times and texts in them.

use std::fmt::{self, Write};

use chrono::{DateTime, Utc};

use crate::queue::QueueInfo;

/// A column with its heading. Numbers are aligned to the right.
#[derive(Clone, Copy)]
pub(super) enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// A table with a heading and aligned columns.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        let columns: Vec<_> = columns.into_iter().collect();
        let heading = |column: &Column| match column {
            Column::Text(heading) | Column::Number(heading) => (*heading).to_owned(),
        };
        let rows = vec![columns.iter().map(heading).collect()];
        Self { columns, rows }
    }

    /// Adds a row with one cell for each column.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, column), &width) in row.iter().zip(&self.columns).zip(&widths) {
                match column {
                    Column::Text(_) => write!(line, "{cell:<width$}  ")?,
                    Column::Number(_) => write!(line, "{cell:>width$}  ")?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Replaces control characters, so that a text stays on one line and cannot control the terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Cuts a text to at most `max_chars` characters.
pub(super) fn cut(text: &str, max_chars: usize) -> String {
    match text.chars().nth(max_chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max_chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Returns the text, or a dash if there is none.
pub(super) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// Formats a time in UTC, with seconds: `2026-11-25 18:07:12`.
pub(super) fn format_time(time: DateTime<Utc>) -> String {
    time.format("%F %T").to_string()
}

/// Formats the time that has passed since `time`.
pub(super) fn format_elapsed(time: DateTime<Utc>) -> String {
    format_duration((Utc::now() - time).num_milliseconds() as f64 / 1_000.0)
}

/// Formats a time span in one unit: `3.2s`, `4m`, `2h`, `5d`. From 1 hour to less than 48 hours, the unit is hours.
pub(super) fn format_duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds as u64;
    match whole {
        0..=9 => format!("{:.1}s", (seconds * 10.0).floor() / 10.0),
        10..=59 => format!("{whole}s"),
        60..=3_599 => format!("{}m", whole / 60),
        3_600..=172_799 => format!("{}h", whole / 3_600),
        _ => format!("{}d", whole / 86_400),
    }
}

/// Formats the limits of a queue, as in `5 at once, 100/60s`. `None` if the queue has no limits.
pub(super) fn limits(info: &QueueInfo) -> Option<String> {
    let at_once = info.concurrency_limit.map(|limit| format!("{limit} at once"));
    let rate = info.rate_limit.map(|rate| rate.to_string());
    let all: Vec<_> = at_once.into_iter().chain(rate).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_space() {
        let mut table = Table::new([Column::Text("NAME"), Column::Number("N"), Column::Text("ERROR")]);
        table.row(["ü".to_owned(), "100".to_owned(), "two\nlines \x1b[2J".to_owned()]);
        table.row(["longer".to_owned(), "7".to_owned(), String::new()]);
        assert_eq!(table.to_string(), "NAME      N  ERROR\nü       100  two lines  [2J\nlonger    7\n");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!((cut("short", 5), cut("longer", 5)), ("short".into(), "long…".into()));
        assert_eq!(cut("äöüß", 3), "äö…");
    }

    #[test]
    fn durations_are_in_one_unit() {
        let ages = [-1.0, 0.04, 3.26, 9.99, 10.5, 59.9, 60.0, 3_599.0, 7_200.0, 172_800.0];
        let words = ["0.0s", "0.0s", "3.2s", "9.9s", "10s", "59s", "1m", "59m", "2h", "2d"];
        assert_eq!(ages.map(format_duration), words);
    }
}
