//! Figures of several rounds, and the tables that show these figures.

use std::{fmt, iter::once};

use crate::bare::CALLERS;

/// The values of one measurement, usually one for each round.
#[derive(Default)]
pub struct Rounds(Vec<f64>);

/// The unit and precision of a figure.
#[derive(Clone, Copy)]
pub struct Unit {
    pub suffix: &'static str,
    pub digits: usize,
}

impl Unit {
    pub fn format(self, value: f64) -> String {
        format!("{}{}", number(value, self.digits), self.suffix)
    }
}

pub const PER_SECOND: Unit = Unit { suffix: "/s", digits: 0 };
const MICROSECONDS: Unit = Unit { suffix: " µs", digits: 2 };
const MILLISECONDS: Unit = Unit { suffix: " ms", digits: 3 };
const BYTES: Unit = Unit { suffix: " B", digits: 0 };

impl Rounds {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn median(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            n if n.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        }
    }

    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Returns the ratio of the median to the median of the baseline.
    pub fn ratio_to(&self, baseline: &Self) -> f64 {
        self.median() / baseline.median()
    }

    /// Formats the median, or a dash if nothing was measured.
    pub fn show_median(&self, unit: Unit) -> String {
        match self.is_empty() {
            true => "-".into(),
            false => unit.format(self.median()),
        }
    }

    /// Formats the median, and the minimum and maximum if there are several rounds. Returns a dash if nothing was measured.
    pub fn show(&self, unit: Unit) -> String {
        let text = |value| number(value, unit.digits);
        let median = self.show_median(unit);
        if self.0.len() < 2 {
            return median;
        }
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        format!("{median} ({}..{})", text(least), text(self.max()))
    }
}

/// The result of one or more runs of the engine or of the baseline.
#[derive(Default)]
pub struct Sample {
    pub jobs: usize,
    pub seconds: f64,
    /// Microseconds that Redis has spent in scripts and in BZPOPMIN.
    pub redis: f64,
}

impl Sample {
    /// Returns the jobs per second.
    pub fn rate(&self) -> f64 {
        self.jobs as f64 / self.seconds
    }

    pub fn add(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.seconds += other.seconds;
        self.redis += other.redis;
    }
}

/// The results of one measurement in all rounds: first of the engine, then of the baseline.
#[derive(Default)]
pub struct EngineAndBaseline {
    /// Jobs per second.
    pub rate: [Rounds; 2],
    /// Microseconds that Redis has spent in scripts and in BZPOPMIN, per job.
    pub cost: [Rounds; 2],
}

impl EngineAndBaseline {
    pub fn add(&mut self, samples: &[Sample; 2]) {
        for (side, sample) in samples.iter().enumerate() {
            let jobs = sample.jobs as f64;
            self.rate[side].push(sample.rate());
            self.cost[side].push(sample.redis / jobs);
        }
    }
}

/// Returns the ratio of a figure to its baseline.
fn ratio([figure, baseline]: &[Rounds; 2]) -> f64 {
    figure.ratio_to(baseline)
}

/// Formats a number with `digits` decimals and thousands separators.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, decimals) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::with_capacity(text.len() + text.len() / 3);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + decimals
}

/// Formats a target, and whether it is met.
pub fn target(text: impl fmt::Display, met: bool) -> String {
    format!("{text}: {}", if met { "met" } else { "MISSED" })
}

/// The figures of the job engine.
pub struct Figures {
    /// The number of jobs in the short backlog, formatted.
    pub short: String,
    /// The number of jobs in the long backlog, formatted.
    pub long: String,
    pub bulk: EngineAndBaseline,
    pub single: EngineAndBaseline,
    pub short_drain: EngineAndBaseline,
    pub long_drain: EngineAndBaseline,
    /// The median, the 99th percentile and the maximum of the milliseconds until an idle worker starts a job, and until a PING
    /// is answered.
    pub pick_up: [[Rounds; 2]; 3],
    /// Bytes of a queued job and of its envelope.
    pub memory: [Rounds; 2],
    /// Bytes of a finished job whose result is stored, and of a finished job whose result was deleted.
    pub ended: [Rounds; 2],
    /// The number of script calls above 10 ms, and a description of the slowest.
    pub slow: (usize, Option<String>),
}

impl Figures {
    pub fn table(&self) -> Table<5> {
        let mut table = Table::new(["what", "figure", "baseline", "ratio", "target"]);
        let names = [
            "enqueue, 250 per call".to_owned(),
            format!("enqueue, one per call, {CALLERS} callers"),
            format!("drain of {}", self.short),
            format!("drain of {}", self.long),
        ];
        let all = [&self.bulk, &self.single, &self.short_drain, &self.long_drain];
        let [_, single, short, long] = all.map(|both| both.rate[0].median());
        let share = long / short;
        let goals = [
            String::new(),
            target(">= 45,000/s", single >= 45_000.0),
            target(
                ">= 40,000/s and >= 0.8 of the baseline",
                short >= 40_000.0 && ratio(&self.short_drain.rate) >= 0.8,
            ),
            target(format!(">= 0.9 of the {} rate, is {}", self.short, number(share, 2)), share >= 0.9),
        ];
        for ((name, both), goal) in names.iter().zip(all).zip(goals) {
            table.compare(name, &both.rate, PER_SECOND, goal);
        }
        for (name, both) in names.iter().zip(all) {
            table.compare(format!("Redis time per job, {name}"), &both.cost, MICROSECONDS, String::new());
        }
        let goals = [target("< 2 ms", self.pick_up[0][0].median() < 2.0), String::new(), String::new()];
        for ((share, both), goal) in ["p50", "p99", "max"].iter().zip(&self.pick_up).zip(goals) {
            table.compare(
                format!("pick-up by an idle worker, {share}; baseline: PING"),
                both,
                MILLISECONDS,
                goal,
            );
        }
        let goal = target("< 400", self.memory[0].median() < 400.0);
        table.compare("memory of a queued job; baseline: its envelope", &self.memory, BYTES, goal);
        for (bytes, name, limit) in [
            (&self.ended[0], "memory of a finished job with its result", 250.0),
            (&self.ended[1], "memory of a finished job later: its state", 60.0),
        ] {
            let goal = target(format!("<= {limit}"), bytes.median() <= limit);
            table.push([name.into(), bytes.show(BYTES), String::new(), String::new(), goal]);
        }
        let goal = target("none above 10 ms", self.slow.0 == 0);
        let (name, count) = ("script calls above 10 ms".into(), self.slow.0.to_string());
        table.push([name, count, String::new(), String::new(), goal]);
        table
    }
}

/// A table with `N` columns.
pub struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(head: [&'static str; N]) -> Self {
        Self { head, rows: Vec::new() }
    }

    pub fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    /// Formats the table as Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(N));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&self.head.map(str::to_owned)) + &rule + &rows
    }
}

impl Table<5> {
    /// Adds a row with a figure and its baseline.
    fn compare(&mut self, what: impl Into<String>, both: &[Rounds; 2], unit: Unit, target: String) {
        let [figure, baseline] = both;
        self.push([what.into(), figure.show(unit), baseline.show(unit), number(ratio(both), 2), target]);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head.map(str::to_owned);
        let widths: [usize; N] = std::array::from_fn(|column| {
            once(&head).chain(&self.rows).map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        let rule = widths.map(|width| "-".repeat(width));
        for row in once(&head).chain(once(&rule)).chain(&self.rows) {
            let cells: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}
