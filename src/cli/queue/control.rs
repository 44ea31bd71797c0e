use std::{io::Write, process::ExitCode};

use super::{
    common::{counted, existing_queue, open, parse_queue_name},
    table::limits,
};
use crate::{
    config::Redis,
    queue::{Cancel as Outcome, Queue, Rate},
};

/// Put failed jobs back into their queue, with all attempts left.
///
/// Exits with 1 if an id does not belong to a failed job.
#[derive(clap::Args)]
pub(super) struct Requeue {
    /// Ids of failed jobs.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Requeue all failed jobs of this queue.
    #[arg(long, value_name = "QUEUE")]
    all: Option<String>,
    #[command(flatten)]
    pub(super) redis: Redis,
}

impl Requeue {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let mut done = 0;
        // Ids that are not those of failed jobs. They are printed at the end: if the output is a closed pipe, printing ends the
        // command, and the remaining jobs would be skipped.
        let mut others = Vec::new();
        // An error ends the loop, and is returned after the results so far are printed.
        let mut result = Ok(());
        if let Some(name) = &self.all {
            done += queue.requeue_failed(&existing_queue(&queue, name).await?).await?;
        }
        for id in &self.ids {
            match queue.requeue(id).await {
                Ok(true) => done += 1,
                Ok(false) => others.push(id),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        for id in &others {
            writeln!(std::io::stderr(), "{id} is not a failed job")?;
        }
        writeln!(std::io::stdout(), "requeued {}", counted(done, "job"))?;
        result?;
        Ok(if others.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Cancel jobs. Waiting jobs are canceled at once, running jobs are asked to stop.
///
/// Exits with 1 if a job has already ended or is unknown.
#[derive(clap::Args)]
pub(super) struct Cancel {
    /// Ids of jobs.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    pub(super) redis: Redis,
}

impl Cancel {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let mut code = ExitCode::SUCCESS;
        // Printed at the end: if the output is a closed pipe, printing ends the command, and the remaining jobs would be skipped.
        let mut lines = String::new();
        // An error ends the loop, and is returned after the results so far are printed.
        let mut result = Ok(());
        for id in &self.ids {
            let outcome = match queue.cancel(id).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            let word = match outcome {
                Outcome::Canceled => "canceled",
                Outcome::Requested => "asked to stop",
                Outcome::Ended => "has already ended",
                Outcome::Unknown => "unknown",
            };
            lines += &format!("{id}: {word}\n");
            if matches!(outcome, Outcome::Ended | Outcome::Unknown) {
                code = ExitCode::FAILURE;
            }
        }
        write!(std::io::stdout(), "{lines}")?;
        result?;
        Ok(code)
    }
}

/// The arguments of a command that changes one queue. The queue need not exist.
#[derive(clap::Args)]
pub(super) struct Target {
    #[arg(value_parser = parse_queue_name)]
    queue: String,
    #[command(flatten)]
    pub(super) redis: Redis,
}

impl Target {
    /// Opens the queue. If it does not exist, prints a note, since the name may be misspelled.
    async fn open(&self) -> anyhow::Result<Queue> {
        let queue = open(&self.redis)?;
        if queue.queue(&self.queue).await?.is_none() {
            writeln!(std::io::stderr(), "note: the queue {:?} is new", self.queue)?;
        }
        Ok(queue)
    }
}

/// Stop workers from taking jobs from a queue.
///
/// Running jobs continue, and jobs can still be enqueued.
#[derive(clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    pub(super) target: Target,
}

impl Pause {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let name = &self.target.queue;
        self.target.open().await?.pause(name).await?;
        writeln!(std::io::stdout(), "{name} is paused")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Let workers take jobs from a paused queue again.
#[derive(clap::Args)]
pub(super) struct Resume {
    #[command(flatten)]
    pub(super) target: Target,
}

impl Resume {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let name = &self.target.queue;
        self.target.open().await?.resume(name).await?;
        writeln!(std::io::stdout(), "{name} is resumed")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Limit how fast all workers together run the jobs of a queue.
///
/// Without an option, prints the present limits.
#[derive(clap::Args)]
pub(super) struct Limit {
    /// Maximum number of jobs that run at the same time.
    #[arg(long, value_name = "N|none", value_parser = parse_concurrency)]
    concurrency: Option<NewLimit<u32>>,
    /// Maximum rate at which jobs start, such as 100/s, 30/m or 5/10s.
    #[arg(long, value_name = "RATE|none", value_parser = parse_rate)]
    rate: Option<NewLimit<Rate>>,
    #[command(flatten)]
    pub(super) target: Target,
}

/// A new limit. `None` removes the present limit.
#[derive(Clone, Copy)]
struct NewLimit<T>(Option<T>);

fn parse_concurrency(text: &str) -> Result<NewLimit<u32>, &'static str> {
    match text.parse::<u32>() {
        Ok(limit @ 1..) => Ok(NewLimit(Some(limit))),
        Err(_) if text == "none" => Ok(NewLimit(None)),
        _ => Err("write a number from 1, or none"),
    }
}

fn parse_rate(text: &str) -> Result<NewLimit<Rate>, String> {
    match text {
        "none" => Ok(NewLimit(None)),
        _ => Ok(NewLimit(Some(text.parse()?))),
    }
}

impl Limit {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let name = &self.target.queue;
        let queue = match self.concurrency.is_some() || self.rate.is_some() {
            true => self.target.open().await?,
            false => open(&self.target.redis)?,
        };
        if let Some(NewLimit(limit)) = self.concurrency {
            queue.limit_concurrency(name, limit).await?;
        }
        if let Some(NewLimit(rate)) = self.rate {
            queue.limit_rate(name, rate).await?;
        }
        let limits = queue.queue(name).await?.as_ref().and_then(limits);
        writeln!(std::io::stdout(), "{name}: {}", limits.unwrap_or_else(|| "no limits".to_owned()))?;
        Ok(ExitCode::SUCCESS)
    }
}
