//! `saas queue`: looking at the job queues and operating them, from a shell.
//!
//! | file | concern |
//! |---|---|
//! | `stats`, `workers` | how the queues are, and who works them off |
//! | `jobs` | the jobs of a queue, and one job |
//! | `control`, `purge` | requeue, cancel, pause, resume, limit; throw away |
//! | `table` | how tables, times and texts look |

mod common;
mod control;
mod jobs;
mod purge;
mod stats;
mod table;
mod workers;

use std::process::ExitCode;

use clap::Subcommand;

use common::explain;

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
