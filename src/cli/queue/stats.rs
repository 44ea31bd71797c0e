use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use chrono::Utc;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    common::{explain, open, print_json},
    table::{
        Column::{Number, Text},
        Table, format_duration, format_time, limits, or_dash,
    },
};
use crate::{
    cli::shutdown::Shutdown,
    config::Redis,
    queue::{Error, Queue, QueueInfo},
};

/// Escape sequence that clears the terminal and moves the cursor to the upper left.
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

/// Show the state of each queue.
///
/// OLDEST is the age of the oldest job that is next in the queue or in one of its groups: the time since the job was created,
/// including delays and retries. FINISHED counts all jobs that have finished since the queue was created. The other numbers
/// count the present jobs.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print JSON. With --watch, one array per line.
    #[arg(long)]
    json: bool,
    /// Repeat every SECONDS until Ctrl-C. The default is 2.
    #[arg(long, num_args = 0..=1, default_missing_value = "2", value_name = "SECONDS",
        value_parser = parse_seconds)]
    watch: Option<Duration>,
    #[command(flatten)]
    pub(super) redis: Redis,
}

fn parse_seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3_600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write a number of seconds, from 0.1 to 3600"),
    }
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        if let Some(period) = self.watch {
            self.repeat(&queue, period).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let queues = queue.queues().await?;
        match self.json {
            true => print_json(&queues)?,
            false => write!(std::io::stdout(), "{}", text(&queues))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints the state once per period until a shutdown is requested. While Redis is unavailable, prints the error and
    /// continues.
    async fn repeat(&self, queue: &Queue, period: Duration) -> anyhow::Result<()> {
        let shutdown = Shutdown::on_signals()?;
        let clear = if !self.json && std::io::stdout().is_terminal() { CLEAR_SCREEN } else { "" };
        let mut beat = interval(period);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = async {
                beat.tick().await;
                queue.queues().await
            };
            let queues = tokio::select! {
                queues = next => queues,
                () = shutdown.graceful.cancelled() => return Ok(()),
            };
            let mut out = std::io::stdout();
            match queues {
                Ok(queues) if self.json => writeln!(out, "{}", serde_json::to_string(&queues)?)?,
                Ok(queues) => writeln!(out, "{clear}{} UTC\n{}", format_time(Utc::now()), text(&queues))?,
                Err(error @ Error::Unavailable(_)) => {
                    write!(out, "{clear}")?;
                    out.flush()?;
                    let error = explain(error.into(), &self.redis);
                    writeln!(std::io::stderr(), "error: {}", crate::error::chain(error.as_ref()))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn text(queues: &[QueueInfo]) -> String {
    if queues.is_empty() {
        return "there is no queue: no job was enqueued yet\n".to_owned();
    }
    let mut table = Table::new([
        Text("QUEUE"),
        Text("STATE"),
        Number("QUEUED"),
        Number("SCHEDULED"),
        Number("DEFERRED"),
        Number("STARTED"),
        Number("FAILED"),
        Number("FINISHED"),
        Number("OLDEST"),
        Text("LIMITS"),
    ]);
    for info in queues {
        let state = if info.paused { "paused" } else { "-" };
        table.row([
            info.name.clone(),
            state.to_owned(),
            info.queued.to_string(),
            info.scheduled.to_string(),
            info.deferred.to_string(),
            info.started.to_string(),
            info.failed.to_string(),
            info.totals.finished.to_string(),
            or_dash(info.latency_seconds.map(format_duration)),
            or_dash(limits(info)),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_periods_are_refused() {
        assert_eq!(parse_seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "nan", "inf", "1e9", "soon"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong:?}");
        }
    }
}
