use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::bail;

use super::common::{counted, existing_queue, open, state_parser};
use crate::{config::Redis, queue::State};

const PURGEABLE_STATES: &[State] = &[State::Failed, State::Queued, State::Scheduled, State::Deferred];

/// Delete the failed or the waiting jobs of a queue.
///
/// Asks for confirmation. Without a terminal, --yes is required. Jobs that are added meanwhile stay.
#[derive(clap::Args)]
pub(super) struct Args {
    queue: String,
    /// The state of the jobs.
    #[arg(long, value_name = "STATE", default_value = State::Failed.as_str(), value_parser = state_parser(PURGEABLE_STATES))]
    status: State,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    redis: Redis,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let info = existing_queue(&queue, &self.queue).await?;
        let what = format!("{} job", self.status.as_str());
        if info.count(self.status) > 0
            && !self.yes
            && !confirm(&format!("{} of {}", counted(info.count(self.status), &what), info.name))?
        {
            writeln!(std::io::stdout(), "nothing was deleted")?;
            return Ok(ExitCode::FAILURE);
        }
        let deleted = queue.purge(&info, self.status).await?;
        writeln!(std::io::stdout(), "deleted {}", counted(deleted, &what))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks the user for confirmation.
///
/// # Errors
/// If standard input is not a terminal.
fn confirm(what: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("refusing to delete {what} without confirmation: add --yes, or run this in a terminal");
    }
    write!(std::io::stderr(), "delete {what}? [y/N] ")?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
