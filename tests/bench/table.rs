//! Figures of several rounds, and the table that they are printed in.

use std::{fmt, iter::once};

use crate::bare::CALLERS;

/// What each round of a measurement gave.
#[derive(Default)]
pub struct Rounds(Vec<f64>);

/// How a figure is written.
#[derive(Clone, Copy)]
struct Unit {
    suffix: &'static str,
    digits: usize,
}

const PER_SECOND: Unit = Unit { suffix: "/s", digits: 0 };
const MICROSECONDS: Unit = Unit { suffix: " µs", digits: 2 };
const MILLISECONDS: Unit = Unit { suffix: " ms", digits: 3 };
const BYTES: Unit = Unit { suffix: " B", digits: 0 };

impl Rounds {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn median(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            n if n.is_multiple_of(2) => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        }
    }

    /// The median, and from where to where the rounds went.
    fn show(&self, unit: Unit) -> String {
        let text = |value| number(value, unit.digits);
        let median = format!("{}{}", text(self.median()), unit.suffix);
        if self.0.len() < 2 {
            return median;
        }
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{median} ({}..{})", text(least), text(most))
    }
}

/// One round of one side.
#[derive(Default)]
pub struct Sample {
    pub jobs: usize,
    pub seconds: f64,
    /// Microseconds that Redis spent on it.
    pub redis: f64,
}

impl Sample {
    pub fn add(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.seconds += other.seconds;
        self.redis += other.redis;
    }
}

/// The rounds of one measurement: the engine's, and the floor's.
#[derive(Default)]
pub struct Both {
    /// Jobs a second.
    pub rate: [Rounds; 2],
    /// Redis's own time for each job, in microseconds.
    pub cost: [Rounds; 2],
}

impl Both {
    pub fn add(&mut self, samples: &[Sample; 2]) {
        for (side, sample) in samples.iter().enumerate() {
            let jobs = sample.jobs as f64;
            self.rate[side].push(jobs / sample.seconds);
            self.cost[side].push(sample.redis / jobs);
        }
    }
}

/// How a figure compares to its floor.
fn ratio([figure, floor]: &[Rounds; 2]) -> f64 {
    figure.median() / floor.median()
}

/// A number with so many decimals and its thousands apart.
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

/// What a figure should be, and whether it is.
fn target(text: impl fmt::Display, met: bool) -> String {
    format!("{text}: {}", if met { "met" } else { "MISSED" })
}

/// What there is to be told of the job engine.
pub struct Figures {
    /// How long the two backlogs are.
    pub short: String,
    pub long: String,
    pub bulk: Both,
    pub single: Both,
    pub short_drain: Both,
    pub long_drain: Both,
    /// Milliseconds, beside those of a PING: the median, the 99th percentile, the most.
    pub pick_up: [[Rounds; 2]; 3],
    /// Bytes of a queued job, and of its envelope alone.
    pub memory: [Rounds; 2],
    /// Calls of scripts that took too long, and the worst of them.
    pub slow: (usize, Option<String>),
}

impl Figures {
    pub fn table(&self) -> Table {
        let mut table = Table::default();
        let names = [
            "enqueue, 250 a call".to_owned(),
            format!("enqueue, one by one, {CALLERS} at once"),
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
                ">= 40,000/s and >= 0.8 of the floor",
                short >= 40_000.0 && ratio(&self.short_drain.rate) >= 0.8,
            ),
            target(format!(">= 0.9 of the {} rate, is {}", self.short, number(share, 2)), share >= 0.9),
        ];
        for ((name, both), goal) in names.iter().zip(all).zip(goals) {
            table.compare(name, &both.rate, PER_SECOND, goal);
        }
        for (name, both) in names.iter().zip(all) {
            table.compare(format!("Redis's time a job, {name}"), &both.cost, MICROSECONDS, String::new());
        }
        let goals = [target("< 2 ms", self.pick_up[0][0].median() < 2.0), String::new(), String::new()];
        for ((share, both), goal) in ["p50", "p99", "max"].iter().zip(&self.pick_up).zip(goals) {
            table.compare(
                format!("pick-up by an idle worker, {share}; floor: PING"),
                both,
                MILLISECONDS,
                goal,
            );
        }
        let goal = target("< 400", self.memory[0].median() < 400.0);
        table.compare("memory of a queued job; floor: its envelope", &self.memory, BYTES, goal);
        let goal = target("none above 10 ms", self.slow.0 == 0);
        let (name, count) = ("calls of scripts above 10 ms".into(), self.slow.0.to_string());
        table.0.push([name, count, String::new(), String::new(), goal]);
        table
    }
}

const COLUMNS: usize = 5;
const HEAD: [&str; COLUMNS] = ["what", "figure", "floor", "ratio", "target"];

#[derive(Default)]
pub struct Table(Vec<[String; COLUMNS]>);

impl Table {
    /// A figure beside its floor.
    fn compare(&mut self, what: impl Into<String>, both: &[Rounds; 2], unit: Unit, target: String) {
        let [figure, floor] = both;
        self.0.push([what.into(), figure.show(unit), floor.show(unit), number(ratio(both), 2), target]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = HEAD.map(str::to_owned);
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            once(&head).chain(&self.0).map(|row| row[column].chars().count()).max().unwrap_or(0)
        });
        let rule = widths.map(|width| "-".repeat(width));
        for row in once(&head).chain(once(&rule)).chain(&self.0) {
            let cells: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}
