use std::{fs, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Subcommand;

use super::startup;
use crate::{
    config::{Core, Database},
    db::{self, migrations},
};

/// Change the database schema.
///
/// The migrations are embedded in the binary. A lock makes concurrent runs safe: one runs at a time.
#[derive(clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  saas migrate up                      apply pending migrations\n  \
    saas migrate down -n 2               revert the last two\n  saas migrate new \"add products\"      create the files of a new one"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Apply all pending migrations.
    Up(#[command(flatten)] Target),
    /// Revert the newest migrations.
    Down {
        /// Number of migrations.
        #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        n: u16,
        #[command(flatten)]
        target: Target,
    },
    /// Revert the newest migration and apply it again.
    Redo(#[command(flatten)] Target),
    /// List the migrations. Exits with 1 if one is pending.
    Status(#[command(flatten)] Target),
    /// Create the directory of a new migration.
    New {
        /// What the migration does, in a few words.
        description: String,
        /// Directory of the migrations.
        #[arg(long, default_value = "migrations")]
        dir: PathBuf,
    },
}

#[derive(clap::Args)]
struct Target {
    #[command(flatten)]
    core: Core,
    #[command(flatten)]
    database: Database,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Up(target) => {
                report("applied", &startup::migrate(&target.database).await?, "nothing to apply")?
            }
            Action::Down { n, target } => {
                report(
                    "reverted",
                    &migrations::down(&target.database, n.into()).await?,
                    "nothing to revert",
                )?;
            }
            Action::Redo(target) => {
                let names = migrations::redo(&target.database).await?;
                // The newest migration may be the one of the column.
                startup::fill_email_keys(&target.database).await?;
                report("reverted and applied", &names, "nothing to redo")?;
            }
            Action::Status(target) => return status(&target.database).await,
            Action::New { description, dir } => new(&description, &dir)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn report(done: &str, names: &[String], nothing: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    for name in names {
        writeln!(out, "{done} {name}")?;
    }
    if names.is_empty() {
        writeln!(out, "{nothing}")?;
    }
    Ok(())
}

async fn status(database: &Database) -> anyhow::Result<ExitCode> {
    let conn = db::connect(database).await?;
    let list = migrations::status(&conn).await?;
    for migration in &list {
        let state = match migration.state {
            migrations::State::Applied => "applied",
            migrations::State::Pending => "pending",
            migrations::State::Unknown => "applied, unknown to this release",
        };
        writeln!(std::io::stdout(), "{}  {state}", migration.name)?;
    }
    let pending = list.iter().filter(|migration| migration.state == migrations::State::Pending).count();
    Ok(match pending {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn new(description: &str, dir: &std::path::Path) -> anyhow::Result<()> {
    let words: String = description
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' })
        .collect();
    let slug = words.split_whitespace().collect::<Vec<_>>().join("_");
    if slug.is_empty() {
        bail!(
            "the description {description:?} has no letters or digits; write, for example, \"add products\""
        );
    }
    if !dir.is_dir() {
        bail!("there is no directory {}: run this in the project, or set --dir", dir.display());
    }
    let stamp = chrono::Utc::now().format("%Y-%m-%d-%H%M%S");
    let folder = dir.join(format!("{stamp}_{slug}"));
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (file, text) in [
        ("up.sql", format!("-- {description}\n")),
        ("down.sql", "-- Undo up.sql, in reverse order.\n".to_owned()),
    ] {
        let path = folder.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(std::io::stdout(), "{}", path.display())?;
    }
    Ok(())
}
