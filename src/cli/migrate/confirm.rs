use std::io::{IsTerminal, Write};

use anyhow::bail;

use crate::{
    config::{Core, Database},
    db::migrations::Plan,
};

/// Prints the migrations that are about to be reverted, and asks the user to type the name of the database. Does not ask if
/// `yes` is set, or for a single migration with `DEBUG` on.
///
/// The function holds no connection and no lock while it waits for the user, so Ctrl-C changes nothing.
///
/// # Errors
/// If a confirmation is needed, and the user does not confirm or standard input is not a terminal.
pub(super) fn confirm(plan: &Plan, core: &Core, database: &Database, yes: bool) -> anyhow::Result<()> {
    if plan.names.is_empty() {
        return Ok(());
    }
    let location = database.location();
    let mut err = std::io::stderr();
    writeln!(
        err,
        "Reverting these migrations of {location} deletes the tables and columns that they have added, with the data:"
    )?;
    for name in &plan.names {
        writeln!(err, "  {name}")?;
    }
    if yes || (core.debug && plan.names.len() == 1) {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("refusing to revert them without confirmation: add --yes, or run this in a terminal");
    }
    write!(err, "To continue, type the name of the database ({}): ", plan.database)?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    if answer.trim() != plan.database {
        bail!("not confirmed; nothing was reverted");
    }
    Ok(())
}
