use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::bail;
use serde_json::json;

use super::common::{counted, existing_queue, open, print_json, state_parser};
use crate::{
    config::Redis,
    queue::{Queue, State},
};

const PURGEABLE_STATES: &[State] = &[State::Failed, State::Queued, State::Scheduled, State::Deferred];

/// Delete the failed or the waiting jobs of a queue, or the jobs of a user.
///
/// With --owner, deletes the failed and the waiting jobs that this user has enqueued, in all queues, and tells the running
/// ones to stop. Emails of the product to the user are not deleted.
///
/// Asks for confirmation, unless the queue has no such jobs. Without a terminal, --yes is required. Without --owner, jobs that
/// are added during the command stay.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["queue", "owner"]))]
pub(super) struct Args {
    queue: Option<String>,
    /// Delete the failed and waiting jobs of the user with this id, and tell the running ones to stop.
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    owner: Option<i64>,
    /// The state of the jobs.
    #[arg(long, value_name = "STATE", default_value = State::Failed.as_str(), conflicts_with = "owner",
        value_parser = state_parser(PURGEABLE_STATES))]
    status: State,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) redis: Redis,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let queue = open(&self.redis)?;
        let (text, numbers) = match (self.owner, &self.queue) {
            (Some(owner), _) => {
                if !self.yes && !confirm(&format!("all jobs of user {owner}"))? {
                    return nothing_deleted();
                }
                let purged = queue.purge_owner(owner).await?;
                let mut text = format!("deleted {}", counted(purged.deleted, "job"));
                if purged.stopping > 0 {
                    text += &format!(", told {} to stop", counted(purged.stopping, "running job"));
                }
                (text, json!(purged))
            }
            (None, Some(name)) => match self.purge_queue(&queue, name).await? {
                Some(deleted) => {
                    (format!("deleted {}", counted(deleted, &self.noun())), json!({ "deleted": deleted }))
                }
                None => return nothing_deleted(),
            },
            (None, None) => bail!("name a queue, or a user with --owner"),
        };
        match self.json {
            true => print_json(&numbers)?,
            false => writeln!(std::io::stdout(), "{text}")?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Returns how many jobs were deleted, or `None` if the user has not confirmed the deletion.
    async fn purge_queue(&self, queue: &Queue, name: &str) -> anyhow::Result<Option<u64>> {
        let info = existing_queue(queue, name).await?;
        let count = info.count(self.status);
        if count > 0 && !self.yes && !confirm(&format!("{} of {name}", counted(count, &self.noun())))? {
            return Ok(None);
        }
        Ok(Some(queue.purge(&info, self.status).await?))
    }

    fn noun(&self) -> String {
        format!("{} job", self.status.as_str())
    }
}

fn nothing_deleted() -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout(), "nothing was deleted")?;
    Ok(ExitCode::FAILURE)
}

/// Asks the user whether to delete the jobs that `what` describes.
///
/// # Errors
/// If standard input is not a terminal, or the question cannot be printed or the answer cannot be read.
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
