use std::{io::Write, process::ExitCode};

use super::{
    common::{open, print_json},
    table::{
        Column::{Number, Text},
        Table, format_duration, format_elapsed, or_dash,
    },
};
use crate::config::Redis;

/// List the running workers.
///
/// UP is the time since the worker started, BEAT the time since its last heartbeat. A worker that was killed is listed for 30 s.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) redis: Redis,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut workers = open(&self.redis)?.workers().await?;
        workers.sort_by_cached_key(|worker| (worker.host.clone(), worker.pid, worker.id.clone()));
        let mut out = std::io::stdout();
        if self.json {
            print_json(&workers)?;
        } else if workers.is_empty() {
            writeln!(out, "no worker has sent a heartbeat in the last 30 s")?;
        } else {
            let mut table = Table::new([
                Text("ID"),
                Text("HOST"),
                Number("PID"),
                Text("VERSION"),
                Text("QUEUES"),
                Number("RUNNING"),
                Number("UP"),
                Number("BEAT"),
            ]);
            for worker in workers {
                table.row([
                    worker.id,
                    worker.host,
                    worker.pid.to_string(),
                    worker.version,
                    worker.queues,
                    format!("{}/{}", worker.running, worker.concurrency),
                    or_dash(worker.started_at.map(format_elapsed)),
                    format_duration(worker.silent_seconds),
                ]);
            }
            write!(out, "{table}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
