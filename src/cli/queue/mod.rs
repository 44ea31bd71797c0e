//! `saas queue`: looking at the job queues and operating them, from a shell.
//!
//! | file | concern |
//! |---|---|
//! | `stats`, `workers` | how the queues are, and who works them off |
//! | `jobs` | the jobs of a queue, and one job |
//! | `control`, `purge` | requeue, cancel, pause, resume, limit; throw away |
//! | `table` | how tables, times and texts look |

mod control;
mod jobs;
mod purge;
mod stats;
mod table;
mod workers;

use std::{io::Write, process::ExitCode};

use anyhow::bail;
use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::Serialize;

use crate::{
    error::Error,
    queue::{Queue, QueueInfo, Queues, State},
};

/// Look at the job queues and operate them.
///
/// Needs nothing but Redis. Lists are tables with times in UTC, or JSON for programs with --json.
#[derive(clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  saas queue stats --watch                         what is in each queue, every 2 s\n  \
    saas queue failed default --limit 5              the latest failed jobs, with their errors\n  \
    saas queue show 019a2b...                        everything about one job\n  \
    saas queue requeue --all default                 try again what has failed\n  \
    saas queue pause default                         let workers take nothing more from it\n  \
    saas queue limit default --concurrency 5 --rate 100/m\n  \
    saas queue purge default --status queued --yes   throw away what waits"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Stats(stats::Args),
    Failed(jobs::Failed),
    Jobs(jobs::Listing),
    Show(jobs::Show),
    Requeue(control::Requeue),
    Cancel(control::Cancel),
    Pause(control::Pause),
    Resume(control::Resume),
    Limit(control::Limit),
    Purge(purge::Args),
    Workers(workers::Args),
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        self.action.run().await.map_err(explain)
    }
}

impl Action {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Stats(args) => args.run().await,
            Self::Failed(args) => args.run().await,
            Self::Jobs(args) => args.run().await,
            Self::Show(args) => args.run().await,
            Self::Requeue(args) => args.run().await,
            Self::Cancel(args) => args.run().await,
            Self::Pause(args) => args.run().await,
            Self::Resume(args) => args.run().await,
            Self::Limit(args) => args.run().await,
            Self::Purge(args) => args.run().await,
            Self::Workers(args) => args.run().await,
        }
    }
}

/// Adds what to look at where Redis is at fault.
fn explain(error: anyhow::Error) -> anyhow::Error {
    let away = matches!(error.downcast_ref::<Error>(), Some(Error::Unavailable { .. }));
    match away {
        true => error.context("Redis cannot be used: check REDIS_URL and that the server is up"),
        false => error,
    }
}

/// A queue that was used before.
async fn known(queue: &Queue, name: &str) -> anyhow::Result<QueueInfo> {
    let mut all = queue.queues().await?;
    if let Some(at) = all.iter().position(|info| info.name == name) {
        return Ok(all.swap_remove(at));
    }
    if all.is_empty() {
        bail!("there is no queue {name:?}, nor any other yet");
    }
    let names: Vec<_> = all.iter().map(|info| info.name.as_str()).collect();
    bail!("there is no queue {name:?}; known: {}", names.join(", "))
}

/// Reads a name that a queue may have.
fn queue_name(text: &str) -> Result<String, &'static str> {
    Queues::check_name(text).map(|()| text.to_owned())
}

/// Reads one of these states.
fn one_of(states: &'static [State]) -> impl TypedValueParser<Value = State> {
    let read = move |word: String| {
        states.iter().copied().find(|state| state.word() == word).ok_or("there is no such state")
    };
    PossibleValuesParser::new(states.iter().map(|state| state.word())).try_map(read)
}

/// `1 job`, `2 jobs`.
fn counted(n: u64, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_queues() {
        for good in ["default", "a", "mails-2.low_3"] {
            assert_eq!(queue_name(good), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a,b", "a:1", "é"] {
            assert!(queue_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_and_many() {
        assert_eq!(counted(1, "failed job"), "1 failed job");
        assert_eq!((counted(0, "job"), counted(2, "job")), ("0 jobs".into(), "2 jobs".into()));
    }

    #[test]
    fn only_a_dependency_that_is_away_is_explained() {
        let away = explain(Error::unavailable("Redis", "Connection refused").into());
        assert!(format!("{away:#}").contains("check REDIS_URL"), "{away:#}");
        let other = explain(Error::NotFound("Job").into());
        assert_eq!(format!("{other:#}"), "Job not found");
    }
}
