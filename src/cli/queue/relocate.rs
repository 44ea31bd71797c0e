use std::{
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use clap::builder::NonEmptyStringValueParser;
use secrecy::SecretString;

use super::{
    common::{counted, explain, open},
    table::{
        Column::{Number, Text},
        Table,
    },
};
use crate::{
    config::{Redis, secret},
    error::chain,
    queue::{Error, MoveError, Moved, Queue, QueueInfo, WorkerInfo},
};

/// Minimum time between two lines about the progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Move all jobs of another prefix, or of another Redis, to the configured prefix and server.
///
/// For a change of REDIS_KEY_PREFIX, or for a new server. Moves jobs of every state, records of ended jobs, schedules, limits
/// and pauses, in small batches. Jobs that already have the configured prefix do not change. First stop the processes that
/// use the old prefix or server: the command refuses to run while workers use it, and jobs that are enqueued there after the
/// move need another run.
///
/// After an interruption, run the command again within 30 days: no job is lost, and none is moved twice.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The prefix that the jobs have now.
    #[arg(long, value_name = "PREFIX", value_parser = NonEmptyStringValueParser::new())]
    from: String,
    /// The Redis that has the jobs now, in the form of REDIS_URL. The default is the configured Redis. For a URL with a
    /// password, use the environment variable: other users of the machine can read arguments.
    #[arg(long, env = "MOVE_FROM_REDIS_URL", hide_env_values = true, value_name = "URL")]
    from_url: Option<SecretString>,
    /// Only print what would be moved.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) redis: Redis,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let old = self.old();
        let (source, target) = (open(&old)?, open(&self.redis)?);
        let of_source = |error: Error| anyhow!(chain(explain(error.into(), &old).as_ref()));
        let queues = source.queues().await.map_err(of_source)?;
        let way = format!("from {} to {}", place(&old), place(&self.redis));
        let mut out = std::io::stdout();
        if self.dry_run {
            let jobs = queues.iter().map(|info| row(info).iter().sum::<u64>()).sum();
            write!(out, "{}", table(&queues))?;
            writeln!(out, "would move {} {way}, and the records of ended jobs", counted(jobs, "job"))?;
            return Ok(ExitCode::SUCCESS);
        }
        refuse_workers(&source.workers().await.map_err(of_source)?, &old)?;
        refuse_problems(&target).await?;
        let mut reported = Instant::now();
        let report = |moved: Moved| {
            if reported.elapsed() >= REPORT_INTERVAL {
                reported = Instant::now();
                let _ = writeln!(std::io::stderr(), "{}", text(moved));
            }
        };
        match target.move_from(&source, report).await {
            Ok(moved) if moved == Moved::default() && queues.is_empty() => {
                writeln!(out, "there is nothing to move {way}")?;
            }
            Ok(moved) => writeln!(out, "{} {way}", text(moved))?,
            Err(MoveError::Source(error)) => return Err(of_source(error)),
            Err(MoveError::Target(error)) => return Err(error.into()),
            Err(MoveError::SamePlace) => bail!(
                "the jobs are there already: {} is the configured place. Set REDIS_KEY_PREFIX or REDIS_URL to the new one",
                place(&old)
            ),
            Err(MoveError::Workers) => {
                refuse_workers(&source.workers().await.map_err(of_source)?, &old)?;
                bail!("a worker of {} was running: run the command again", place(&old));
            }
            Err(error @ MoveError::Left(_)) => bail!("{error} of {}: they stay there", place(&old)),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Returns the settings of the old prefix and server.
    fn old(&self) -> Redis {
        let mut old = match secret(&self.from_url) {
            Some(url) => self.redis.at("--from-url", url.into()),
            None => self.redis.clone(),
        };
        old.redis_key_prefix.clone_from(&self.from);
        old
    }
}

/// Describes a prefix and its server.
fn place(settings: &Redis) -> String {
    format!("{} at {}", settings.redis_key_prefix, settings.location())
}

fn text(moved: Moved) -> String {
    format!("moved {} and {}", counted(moved.jobs, "job"), counted(moved.ended, "ended job"))
}

/// Refuses to move jobs while workers run: a job that runs during the move would run again after it.
fn refuse_workers(workers: &[WorkerInfo], old: &Redis) -> anyhow::Result<()> {
    if workers.is_empty() {
        return Ok(());
    }
    let list: Vec<_> =
        workers.iter().map(|worker| format!("{} (process {})", worker.host, worker.pid)).collect();
    bail!(
        "workers of {} are running: stop them first. A worker that was killed counts for 30 s. They are on {}",
        place(old),
        list.join(", ")
    )
}

/// Refuses a new server that is not safe for jobs, such as one that may evict them.
async fn refuse_problems(target: &Queue) -> anyhow::Result<()> {
    let problems = target.server().await.map_err(Error::from)?.problems;
    match problems.is_empty() {
        true => Ok(()),
        false => bail!("refusing to move jobs into this Redis:\n  - {}", problems.join("\n  - ")),
    }
}

/// Returns how many jobs a queue has in each state that the table shows.
fn row(info: &QueueInfo) -> [u64; 5] {
    [info.queued, info.scheduled, info.deferred, info.started, info.failed]
}

fn table(queues: &[QueueInfo]) -> Table {
    let states = ["QUEUED", "SCHEDULED", "DEFERRED", "STARTED", "FAILED"].map(Number);
    let mut table = Table::new([Text("QUEUE")].into_iter().chain(states));
    for info in queues {
        let counts = row(info).map(|count| count.to_string());
        table.row([info.name.clone()].into_iter().chain(counts));
    }
    table
}
