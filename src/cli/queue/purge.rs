use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::bail;

use super::common::{counted, known, one_of, open};
use crate::{config::Redis, queue::State};

const PURGED: &[State] = &[State::Failed, State::Queued, State::Scheduled, State::Deferred];

/// Throw away the jobs of a queue that have failed, or those that wait.
///
/// Asks first; without a terminal to ask on it needs --yes. What comes in meanwhile stays.
#[derive(clap::Args)]
pub(super) struct Args {
    queue: String,
    /// Which of them.
    #[arg(long, value_name = "STATE", default_value = State::Failed.as_str(), value_parser = one_of(PURGED))]
    status: State,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    redis: Redis,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let info = known(&queue, &self.queue).await?;
        let what = format!("{} job", self.status.as_str());
        if info.count(self.status) > 0
            && !self.yes
            && !agreed(&format!("{} of {}", counted(info.count(self.status), &what), info.name))?
        {
            writeln!(std::io::stdout(), "nothing was thrown away")?;
            return Ok(ExitCode::FAILURE);
        }
        let gone = queue.purge(&info, self.status).await?;
        writeln!(std::io::stdout(), "threw away {}", counted(gone, &what))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks whoever sits there.
fn agreed(what: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("refusing to throw away {what} unasked: add --yes, or run this in a terminal");
    }
    write!(std::io::stderr(), "throw away {what}? [y/N] ")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
