mod confirm;
mod lint;
mod new;
mod schema;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::startup;
use crate::{
    config::{Core, Database, PersonalOrganizations},
    db::{
        self,
        migrations::{Migrations, State},
    },
};

/// Change the database schema.
///
/// The migrations are embedded in the binary; --dir reads them from a directory. A lock makes concurrent runs safe: one
/// runs at a time.
#[derive(clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  saas migrate up                      apply pending migrations\n  \
    saas migrate down -n 2               revert the last two, after a confirmation\n  \
    saas migrate new \"add products\"      create the files of a new one\n  \
    saas migrate lint                    find dangerous statements\n  \
    saas migrate schema                  write src/schema.rs"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Apply all pending migrations.
    Up(#[command(flatten)] Target),
    /// Revert the newest migrations. The data in their tables and columns is lost.
    ///
    /// Prints the migrations, and asks for confirmation. With DEBUG on, a single migration needs no confirmation. If a
    /// confirmation is needed and there is no terminal, --yes is required.
    Down {
        /// Number of migrations.
        #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        n: u16,
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Revert the newest migration and apply it again. The data in its tables and columns is lost.
    ///
    /// Asks for confirmation in the same cases as `saas migrate down`.
    Redo {
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        target: Target,
    },
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
    /// Find statements that are dangerous while requests are served. Exits with 1 if there is one.
    ///
    /// Reads the files up.sql, and needs no database. Prints the line, the problem and the safe way of each statement.
    Lint {
        /// Directory of the migrations.
        #[arg(long, default_value = "migrations")]
        dir: PathBuf,
        /// Also check the migrations of release 0.1.0, which are not checked by default.
        #[arg(long)]
        all: bool,
    },
    /// Write src/schema.rs, the tables as diesel sees them.
    ///
    /// Applies the migrations of a directory to a private PostgreSQL server that it starts and removes. Needs no
    /// DATABASE_URL, and no code that compiles.
    Schema {
        /// Directory of the migrations.
        #[arg(long, default_value = "migrations")]
        dir: PathBuf,
        /// The file to write.
        #[arg(long, default_value = "src/schema.rs", value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(clap::Args)]
struct Target {
    /// Directory to read the migrations from, instead of those in the binary.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[command(flatten)]
    core: Core,
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    personal: PersonalOrganizations,
}

impl Target {
    fn migrations(&self) -> anyhow::Result<Migrations> {
        match &self.dir {
            Some(dir) => Migrations::in_directory(dir),
            None => Ok(Migrations::embedded()),
        }
    }
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Up(target) => {
                let applied = target.migrations()?.up(&target.database).await?;
                startup::complete_data(&target.database, &target.personal).await?;
                report("applied", &applied, "nothing to apply")?;
            }
            Action::Down { n, yes, target } => {
                let migrations = target.migrations()?;
                let plan = migrations.plan(&target.database, n.into()).await?;
                confirm::confirm(&plan, &target.core, &target.database, yes)?;
                report("reverted", &migrations.down(&target.database, &plan).await?, "nothing to revert")?;
            }
            Action::Redo { yes, target } => {
                let migrations = target.migrations()?;
                let plan = migrations.plan(&target.database, 1).await?;
                confirm::confirm(&plan, &target.core, &target.database, yes)?;
                let done = migrations.redo(&target.database, &plan).await?;
                // The newest migration may have created columns or tables that `complete_data` fills.
                startup::complete_data(&target.database, &target.personal).await?;
                report("reverted and applied", &done, "nothing to redo")?;
            }
            Action::Status(target) => return status(&target).await,
            Action::New { description, dir } => new::create(&description, &dir)?,
            Action::Lint { dir, all } => return lint::check(&dir, all),
            Action::Schema { dir, out } => schema::write(&dir, &out).await?,
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

async fn status(target: &Target) -> anyhow::Result<ExitCode> {
    let conn = db::connect(&target.database).await?;
    let list = target.migrations()?.status(&conn).await?;
    for migration in &list {
        let state = match migration.state {
            State::Applied => "applied",
            State::Pending if migration.is_empty => {
                "pending, but empty: write its up.sql, or delete its folder"
            }
            State::Pending => "pending",
            State::Unknown => "applied, unknown to this release",
        };
        writeln!(std::io::stdout(), "{}  {state}", migration.name)?;
    }
    let is_pending = list.iter().any(|migration| migration.state == State::Pending);
    Ok(if is_pending { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
