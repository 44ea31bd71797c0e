//! `saas queue`: inspect and operate the job queues.
//!
//! | file | concern |
//! |---|---|
//! | `stats`, `workers` | the state of the queues, and the running workers |
//! | `jobs` | lists of jobs, and one job |
//! | `control`, `purge` | requeue, cancel, pause, resume, limit; delete |
//! | `relocate` | move jobs to another prefix or server |
//! | `table` | the format of tables, times and texts |
//! | `common` | the parsers and functions that the commands share |

mod common;
mod control;
mod jobs;
mod purge;
mod relocate;
mod stats;
mod table;
mod workers;

use std::process::ExitCode;

use clap::Subcommand;

use common::explain;

use crate::config::Redis;

/// Inspect and operate the job queues.
///
/// Connects only to Redis. Lists are tables with times in UTC, or JSON with --json.
#[derive(clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  saas queue stats --watch                         the state of each queue, every 2 s\n  \
    saas queue failed default --limit 5              the latest failed jobs, with their errors\n  \
    saas queue show 019a2b...                        all details of one job\n  \
    saas queue requeue --all default                 retry all failed jobs\n  \
    saas queue pause default                         stop workers from taking jobs\n  \
    saas queue limit default --concurrency 5 --rate 100/m\n  \
    saas queue purge default --status queued --yes   delete the waiting jobs\n  \
    saas queue purge --owner 7                       delete the failed and waiting jobs of user 7\n  \
    saas queue move --from rq                        move the jobs of the prefix rq to REDIS_KEY_PREFIX"
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
    Move(relocate::Args),
    Workers(workers::Args),
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let redis = self.action.redis().clone();
        self.action.run().await.map_err(|error| explain(error, &redis))
    }
}

impl Action {
    fn redis(&self) -> &Redis {
        match self {
            Self::Stats(args) => &args.redis,
            Self::Failed(args) => &args.redis,
            Self::Jobs(args) => &args.redis,
            Self::Show(args) => &args.redis,
            Self::Requeue(args) => &args.redis,
            Self::Cancel(args) => &args.redis,
            Self::Pause(args) => &args.target.redis,
            Self::Resume(args) => &args.target.redis,
            Self::Limit(args) => &args.target.redis,
            Self::Purge(args) => &args.redis,
            Self::Move(args) => &args.redis,
            Self::Workers(args) => &args.redis,
        }
    }

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
            Self::Move(args) => args.run().await,
            Self::Workers(args) => args.run().await,
        }
    }
}
