//! The command line: each subcommand is a file with its arguments and `run`; this one lists and dispatches.

mod completions;
mod create_admin;
mod dev;
mod doctor;
mod healthcheck;
mod migrate;
mod open_files;
mod openapi;
mod queue;
mod serve;
mod startup;
mod stop;
mod worker;

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ContextKind};

use crate::telemetry;

/// A SaaS backend in one binary: accounts, API, migrations and background jobs.
///
/// `saas dev` runs everything on a laptop. In production run `saas migrate up`, `saas serve` and `saas worker`.
/// Settings come from flags, the environment or a file `.env`, in this order; `saas <command> --help` lists those
/// that the command reads.
#[derive(Parser)]
#[command(version, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dev(Box<dev::Args>),
    Serve(Box<serve::Args>),
    Worker(Box<worker::Args>),
    Queue(Box<queue::Args>),
    Migrate(Box<migrate::Args>),
    CreateAdmin(Box<create_admin::Args>),
    Openapi(Box<openapi::Args>),
    Doctor(Box<doctor::Args>),
    Healthcheck(healthcheck::Args),
    Completions(completions::Args),
}

/// Reads the command line and does what it says. Exit codes: 0 done, 1 failed, 2 wrong usage.
pub fn main() -> ExitCode {
    if let Err(error) = load_dotenv() {
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        return ExitCode::from(2);
    }
    let parsed = without_empty_variables(Cli::command())
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match block_on(cli.command.run()) {
        Ok(code) => code,
        // Whoever read the output has seen enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// A variable that is set to nothing counts as not set, as lines without a value in `.env` and compose files are
/// meant.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let empty = |arg: &clap::Arg| {
        arg.get_env()
            .and_then(std::env::var_os)
            .is_some_and(|value| value.to_string_lossy().trim().is_empty())
    };
    command
        .mut_args(|arg| if empty(&arg) { arg.env(None::<&'static str>) } else { arg })
        .mut_subcommands(without_empty_variables)
}

/// Only what a command wrote itself: the faults of connections have been given a context of their own.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

impl Command {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Dev(args) => args.run().await,
            Self::Serve(args) => args.run().await,
            Self::Worker(args) => args.run().await,
            Self::Queue(args) => args.run().await,
            Self::Migrate(args) => args.run().await,
            Self::CreateAdmin(args) => args.run().await,
            Self::Openapi(args) => args.run(),
            Self::Doctor(args) => args.run().await,
            Self::Healthcheck(args) => args.run().await,
            Self::Completions(args) => args.run(&mut Cli::command()),
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A handler that blocks its thread must not keep the process from ending.
    runtime.shutdown_background();
    result
}

/// Reads `.env` from the working folder; what is set already wins.
fn load_dotenv() -> anyhow::Result<()> {
    match dotenvy::from_path(".env") {
        Ok(()) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        // The library's message repeats the line, which may hold a secret.
        Err(dotenvy::Error::LineParse(_, index)) => {
            anyhow::bail!(
                "the file .env cannot be read near character {index} of a line: write NAME=value, with quotes around values that have spaces or #"
            )
        }
        Err(error) => Err(anyhow::anyhow!(error).context("the file .env cannot be read")),
    }
}

/// Prints what clap says, and where a value came from the environment, which variable that was.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if let Some(clap::error::ContextValue::String(arg)) = error.get(ContextKind::InvalidArg)
        && let Some(flag) = arg.strip_prefix("--").and_then(|arg| arg.split([' ', '[', '=']).next())
    {
        let name = match flag {
            "concurrency" | "lease-seconds" => format!("WORKER_{}", flag.to_uppercase().replace('-', "_")),
            "shutdown-grace" => "WORKER_SHUTDOWN_GRACE".to_owned(),
            _ => flag.to_uppercase().replace('-', "_"),
        };
        let on_line = std::env::args()
            .any(|given| given == format!("--{flag}") || given.starts_with(&format!("--{flag}=")));
        if !on_line && std::env::var_os(&name).is_some() {
            let _ = writeln!(
                std::io::stderr(),
                "The value comes from the environment variable {name} (or the file .env)."
            );
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// An error and its causes in one line.
fn one_line(error: &anyhow::Error) -> String {
    telemetry::chain(error.as_ref())
}
