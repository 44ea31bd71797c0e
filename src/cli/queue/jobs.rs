use std::{cmp::Reverse, io::Write, process::ExitCode};

use anyhow::bail;
use chrono::{DateTime, Utc};

use super::{
    common::{existing_queue, open, print_json, state_parser},
    table::{
        Column::{Number, Text},
        Table, cut, format_time, or_dash, plain,
    },
};
use crate::{
    config::Redis,
    queue::{JobStatus, Queue, QueueInfo, State},
};

/// Maximum number of jobs that one call of [`Queue::list`] reads. The answer has up to 16 KiB for the payload of each job.
const MAX_JOBS_PER_CALL: u64 = 100;
/// Maximum number of characters of an error in a table.
const MAX_ERROR_CHARS: usize = 60;
const LISTED_STATES: &[State] =
    &[State::Queued, State::Scheduled, State::Deferred, State::Started, State::Failed];

/// List the failed jobs, latest first.
#[derive(clap::Args)]
pub(super) struct Failed {
    /// The queue. The default is all queues.
    queue: Option<String>,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    pub(super) redis: Redis,
}

/// List the jobs of a queue that are in one state.
///
/// Queued jobs without a group come first, then the jobs of each group. Scheduled jobs are sorted by the time at which they are
/// due, started jobs by the time at which their leases expire, and failed jobs by the time of the failure, latest first. Deferred
/// jobs with a delay follow those without. Finished and canceled jobs are not listed; `saas queue show` finds them by their id.
#[derive(clap::Args)]
pub(super) struct Listing {
    queue: String,
    /// The state.
    #[arg(long, value_name = "STATE", default_value = State::Queued.as_str(), value_parser = state_parser(LISTED_STATES))]
    status: State,
    #[command(flatten)]
    page: Page,
    #[command(flatten)]
    pub(super) redis: Redis,
}

/// Show all details of one job.
#[derive(clap::Args)]
pub(super) struct Show {
    id: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) redis: Redis,
}

/// Which part of a list is printed, and in which format.
#[derive(clap::Args)]
struct Page {
    /// Maximum number of jobs.
    #[arg(long, default_value_t = 20, value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..=10_000))]
    limit: u64,
    /// Number of jobs to skip.
    #[arg(long, default_value_t = 0, value_name = "N",
        value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    offset: u64,
    /// Print JSON, with complete errors, and with the payloads of jobs of up to 16 KiB.
    #[arg(long)]
    json: bool,
}

impl Failed {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let Page { limit, offset, .. } = self.page;
        let jobs = match &self.queue {
            Some(name) => {
                let info = existing_queue(&queue, name).await?;
                part(&queue, &info, State::Failed, offset, limit, self.page.json).await?
            }
            None => failed_in_all_queues(&queue, offset, limit, self.page.json).await?,
        };
        self.page.print(&jobs, State::Failed)
    }
}

impl Listing {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let Page { limit, offset, .. } = self.page;
        let info = existing_queue(&queue, &self.queue).await?;
        let jobs = part(&queue, &info, self.status, offset, limit, self.page.json).await?;
        self.page.print(&jobs, self.status)
    }
}

/// Returns up to `limit` jobs of a queue in one state, after the first `offset`. Without `with_payloads`, omits the payloads,
/// which a table does not show.
async fn part(
    queue: &Queue,
    info: &QueueInfo,
    state: State,
    offset: u64,
    limit: u64,
    with_payloads: bool,
) -> anyhow::Result<Vec<JobStatus>> {
    let end = offset.saturating_add(limit).min(info.count(state));
    let (mut jobs, mut at) = (Vec::new(), offset);
    while at < end {
        let n = (end - at).min(MAX_JOBS_PER_CALL);
        jobs.extend(match with_payloads {
            true => queue.list(&info.name, state, at, n).await?,
            false => queue.list_without_payloads(&info.name, state, at, n).await?,
        });
        at += n;
    }
    Ok(jobs)
}

/// Returns up to `limit` failed jobs of all queues, latest first, after the first `offset`.
async fn failed_in_all_queues(
    queue: &Queue,
    offset: u64,
    limit: u64,
    with_payloads: bool,
) -> anyhow::Result<Vec<JobStatus>> {
    let mut jobs = Vec::new();
    for info in queue.queues().await? {
        let end = offset.saturating_add(limit);
        jobs.extend(part(queue, &info, State::Failed, 0, end, with_payloads).await?);
    }
    jobs.sort_by_key(|job| Reverse(job.ended_at));
    Ok(jobs.into_iter().skip(offset as usize).take(limit as usize).collect())
}

impl Page {
    fn print(&self, jobs: &[JobStatus], state: State) -> anyhow::Result<ExitCode> {
        let mut out = std::io::stdout();
        if self.json {
            print_json(&jobs)?;
        } else if jobs.is_empty() {
            let from =
                if self.offset > 0 { format!(" after the first {}", self.offset) } else { String::new() };
            writeln!(out, "no {} jobs{from}", state.as_str())?;
        } else {
            write!(out, "{}", table(jobs, state))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(jobs: &[JobStatus], state: State) -> Table {
    let time = match state {
        State::Scheduled => "DUE AT",
        State::Started => "STARTED AT",
        State::Failed => "FAILED AT",
        _ => "ENQUEUED AT",
    };
    let mut table =
        Table::new([Text("ID"), Text("TASK"), Text("QUEUE"), Number("ATTEMPTS"), Text(time), Text("ERROR")]);
    for job in jobs {
        let time = match state {
            State::Scheduled => job.due_at,
            State::Started => job.started_at,
            State::Failed => job.ended_at,
            _ => job.enqueued_at,
        };
        let error = job.error_detail.as_deref().or(job.error.as_deref());
        table.row([
            job.id.clone(),
            job.task.clone(),
            job.queue.clone(),
            job.attempts.to_string(),
            or_dash(time.map(format_time)),
            or_dash(error.map(|error| cut(error, MAX_ERROR_CHARS))),
        ]);
    }
    table
}

impl Show {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let Some(job) = open(&self.redis)?.status(&self.id).await? else {
            bail!("no job {}: it is unknown or has expired", self.id);
        };
        match self.json {
            true => print_json(&job)?,
            false => write!(std::io::stdout(), "{}", lines(&job))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Formats the details of a job, one line each.
fn lines(job: &JobStatus) -> String {
    let time = |time: Option<DateTime<Utc>>| time.map(format_time);
    let detail = job.error_detail.clone().filter(|detail| job.error.as_ref() != Some(detail));
    let fields = [
        ("id:", Some(job.id.clone())),
        ("status:", Some(job.state.as_str().to_owned())),
        ("task:", Some(job.task.clone())),
        ("queue:", Some(job.queue.clone())),
        ("attempts:", Some(job.attempts.to_string())),
        ("owner:", job.owner.map(|owner| owner.to_string())),
        ("scope:", job.scope.clone()),
        ("group:", job.group.clone()),
        ("request:", job.request_id.clone()),
        ("worker:", job.worker.clone()),
        ("enqueued:", time(job.enqueued_at)),
        ("due:", time(job.due_at)),
        ("started:", time(job.started_at)),
        ("ended:", time(job.ended_at)),
        ("error:", job.error.clone()),
        ("detail:", detail),
        ("progress:", job.progress.as_ref().map(ToString::to_string)),
        ("payload:", job.payload.as_ref().map(ToString::to_string)),
        ("result:", job.result.as_ref().map(ToString::to_string)),
    ];
    let known = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.map(|(name, value)| format!("{name:<9} {}\n", plain(&value))).collect()
}
