//! Counts the failed requests and lost jobs of a fault.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::load::Samples;
use crate::table::{Table, Unit, number};

const COLUMNS: usize = 10;
const SECONDS: Unit = Unit { suffix: " s", digits: 1 };

/// The runs of jobs, as the logs of the workers report them.
pub struct Runs {
    /// The number of starts of each job.
    starts: HashMap<String, usize>,
    /// The jobs with a run that has finished.
    finished: HashSet<String>,
    /// When the runs have finished, in ascending order.
    times: Vec<DateTime<Utc>>,
}

/// A log line about a job.
#[derive(Deserialize)]
struct Line {
    timestamp: DateTime<Utc>,
    message: String,
    job_id: String,
}

impl Runs {
    pub fn parse(log: &str) -> Self {
        let mut runs = Self { starts: HashMap::new(), finished: HashSet::new(), times: Vec::new() };
        // A line that is not parsed has no job, or was cut off when the worker was killed.
        for line in log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            match line.message.as_str() {
                "job started" => *runs.starts.entry(line.job_id).or_default() += 1,
                "job finished" => {
                    runs.finished.insert(line.job_id);
                    runs.times.push(line.timestamp);
                }
                _ => {}
            }
        }
        runs.times.sort_unstable();
        runs
    }

    /// Returns the longest time without a finished job, between the first finished job and `end`. Zero if no job has finished
    /// before `end`.
    fn outage(&self, end: DateTime<Utc>) -> Duration {
        let mut times: Vec<_> = self.times.iter().copied().filter(|time| *time < end).collect();
        times.push(end);
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().and_then(|longest| longest.to_std().ok()).unwrap_or_default()
    }
}

/// The results of one fault.
pub struct Measurement {
    pub samples: Samples,
    /// When the cause of the fault had ended.
    pub over: Instant,
    pub runs: Runs,
    /// The accepted jobs, each with its state, or `None` if the API does not know the job.
    pub jobs: Vec<(String, Option<String>)>,
}

impl Measurement {
    fn row(&self, name: &str) -> [String; COLUMNS] {
        let Self { samples, over, runs, jobs } = self;
        let seconds = |duration: Duration| SECONDS.format(duration.as_secs_f64());
        let count = |found: usize| number(found as f64, 0);
        let unknown = jobs.iter().filter(|(_, state)| state.is_none()).count();
        // A killed worker may have stored the outcome of a job without logging its end. So a job with the state
        // `finished` is not counted.
        let never_ran = jobs
            .iter()
            .filter(|(id, state)| state.as_deref() != Some("finished") && !runs.finished.contains(id));
        let twice = jobs.iter().filter(|(id, _)| runs.starts.get(id).is_some_and(|starts| *starts > 1));
        [
            name.to_owned(),
            seconds(samples.outage(&samples.enqueues)),
            seconds(samples.outage(&samples.reads)),
            seconds(runs.outage(samples.ended_at)),
            seconds(samples.recovery(*over)),
            count(jobs.len()),
            count(samples.enqueues.len() - jobs.len()),
            count(unknown),
            count(never_ran.count()),
            count(twice.count()),
        ]
    }
}

/// The table of all faults.
pub struct Report(Table<COLUMNS>);

impl Report {
    pub fn new() -> Self {
        Self(Table::new([
            "fault",
            "enqueues away",
            "reads away",
            "jobs away",
            "back after",
            "accepted",
            "refused",
            "unknown",
            "never ran",
            "ran twice",
        ]))
    }

    /// Adds the row of a fault, and prints it.
    pub fn add(&mut self, name: &str, measurement: &Measurement) {
        let row = measurement.row(name);
        eprintln!("| {} |", row.join(" | "));
        self.0.push(row);
    }

    pub fn table(&self) -> &Table<COLUMNS> {
        &self.0
    }
}
