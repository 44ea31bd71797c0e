use std::{io::Write, process::ExitCode};

use super::{
    common::{counted, known, open, queue_name},
    table::limits,
};
use crate::{
    config::Redis,
    queue::{Cancel as Outcome, Queue, Rate},
};

/// Put failed jobs back into their queue, their failures forgotten.
///
/// Exits with 1 when one of the ids is not among the failed.
#[derive(clap::Args)]
pub(super) struct Requeue {
    /// Ids of failed jobs.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All that have failed in this queue until now.
    #[arg(long, value_name = "QUEUE")]
    all: Option<String>,
    #[command(flatten)]
    redis: Redis,
}

impl Requeue {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let mut done = 0;
        // Said when all is done: a reader that goes away must not end it half-way.
        let mut others = Vec::new();
        if let Some(name) = &self.all {
            done += queue.requeue_failed(&known(&queue, name).await?).await?;
        }
        for id in &self.ids {
            if queue.requeue(id).await? {
                done += 1;
            } else {
                others.push(id);
            }
        }
        for id in &others {
            writeln!(std::io::stderr(), "{id} is not among the failed jobs")?;
        }
        writeln!(std::io::stdout(), "requeued {}", counted(done, "job"))?;
        Ok(if others.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Cancel jobs: those that wait at once, and those that run are asked to stop.
///
/// Exits with 1 when one of them has already ended or is unknown.
#[derive(clap::Args)]
pub(super) struct Cancel {
    /// Ids of jobs.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    redis: Redis,
}

impl Cancel {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let mut code = ExitCode::SUCCESS;
        // Said when all is done: a reader that goes away must not end it half-way.
        let mut lines = String::new();
        for id in &self.ids {
            let outcome = queue.cancel(id).await?;
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
        Ok(code)
    }
}

/// One queue, which need not have been used yet.
#[derive(clap::Args)]
struct Target {
    #[arg(value_parser = queue_name)]
    queue: String,
    #[command(flatten)]
    redis: Redis,
}

impl Target {
    /// Connects, and says so where the name is new, since it may be a slip.
    async fn open(&self) -> anyhow::Result<Queue> {
        let queue = open(&self.redis)?;
        if queue.queue(&self.queue).await?.is_none() {
            writeln!(std::io::stderr(), "note: there was no queue {:?} until now", self.queue)?;
        }
        Ok(queue)
    }
}

/// Let workers take nothing more from a queue.
///
/// What runs goes on, and jobs can still be enqueued.
#[derive(clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    target: Target,
}

impl Pause {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let name = &self.target.queue;
        self.target.open().await?.pause(name).await?;
        writeln!(std::io::stdout(), "{name} is paused")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Let workers take from a queue again.
#[derive(clap::Args)]
pub(super) struct Resume {
    #[command(flatten)]
    target: Target,
}

impl Resume {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let name = &self.target.queue;
        self.target.open().await?.resume(name).await?;
        writeln!(std::io::stdout(), "{name} is not paused any more")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Limit how fast a queue is worked off, by all workers together.
///
/// Without a limit to set it shows those that there are.
#[derive(clap::Args)]
pub(super) struct Limit {
    /// How many of its jobs may run at once.
    #[arg(long, value_name = "N|none", value_parser = at_once)]
    concurrency: Option<Setting<u32>>,
    /// How many of its jobs may begin in a time, such as 100/s, 30/m or 5/10s.
    #[arg(long, value_name = "RATE|none", value_parser = rate)]
    rate: Option<Setting<Rate>>,
    #[command(flatten)]
    target: Target,
}

/// A limit, or that there is to be none.
#[derive(Clone, Copy)]
struct Setting<T>(Option<T>);

fn at_once(text: &str) -> Result<Setting<u32>, &'static str> {
    match text.parse::<u32>() {
        Ok(most @ 1..) => Ok(Setting(Some(most))),
        Err(_) if text == "none" => Ok(Setting(None)),
        _ => Err("write a number from 1, or none"),
    }
}

fn rate(text: &str) -> Result<Setting<Rate>, String> {
    match text {
        "none" => Ok(Setting(None)),
        _ => Ok(Setting(Some(text.parse()?))),
    }
}

impl Limit {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let name = &self.target.queue;
        let queue = match self.concurrency.is_some() || self.rate.is_some() {
            true => self.target.open().await?,
            false => open(&self.target.redis)?,
        };
        if let Some(Setting(most)) = self.concurrency {
            queue.limit_concurrency(name, most).await?;
        }
        if let Some(Setting(rate)) = self.rate {
            queue.limit_rate(name, rate).await?;
        }
        let limits = queue.queue(name).await?.as_ref().and_then(limits);
        writeln!(std::io::stdout(), "{name}: {}", limits.unwrap_or_else(|| "no limits".to_owned()))?;
        Ok(ExitCode::SUCCESS)
    }
}
