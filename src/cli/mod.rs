//! The command line. Each subcommand is one file with its arguments and `run`; this file lists and dispatches them.

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
mod shutdown;
mod startup;
mod worker;

use std::{ffi::OsStr, io::Write, process::ExitCode};

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand, error::ContextKind};

use crate::config::RENAMED_VARIABLES;

/// A SaaS backend in one binary: accounts, API, migrations and background jobs.
///
/// `saas dev` runs everything on a laptop. In production, run `saas migrate up`, `saas serve` and `saas worker`. A setting
/// comes from its flag, its environment variable or the file `.env`, in this order. `saas <command> --help` lists the
/// settings that the command reads.
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

/// Parses the command line and runs the subcommand. Exit codes: 0 success, 1 failure, 2 wrong usage.
pub fn main() -> ExitCode {
    if let Err(error) = load_dotenv() {
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        return ExitCode::from(2);
    }
    let command = with_environment(Cli::command());
    let parsed = command.clone().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return print_usage_error(&error, &command),
    };
    match block_on(cli.command.run()) {
        Ok(code) => code,
        // The reader of the output has closed the pipe, as in `saas openapi | head`.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", crate::error::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Chooses the environment variable of each argument: its own, or the one of an earlier release if only that is set.
///
/// A blank variable counts as not set, since `.env` and compose files have lines without a value.
fn with_environment(command: clap::Command) -> clap::Command {
    command.mut_args(choose_variable).mut_subcommands(with_environment)
}

fn choose_variable(arg: Arg) -> Arg {
    let Some(name) = arg.get_env().map(ToOwned::to_owned) else { return arg };
    if has_value(&name) {
        return arg;
    }
    let renamed = RENAMED_VARIABLES.iter().filter(|(_, new)| name == *new);
    let old = renamed.map(|(old, _)| *old).find(|old| has_value(old.as_ref()));
    match old {
        Some(old) => arg.env(old),
        None if std::env::var_os(name).is_some() => arg.env(None::<&'static str>),
        None => arg,
    }
}

fn has_value(variable: &OsStr) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.to_string_lossy().trim().is_empty())
}

/// Returns whether the command failed to write its own output. Errors of connections have a context and do not match.
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
    // Do not wait for a handler that blocks its thread.
    runtime.shutdown_background();
    result
}

/// Reads `.env` from the working directory. Variables that are already set win.
fn load_dotenv() -> anyhow::Result<()> {
    match dotenvy::from_path(".env") {
        Ok(()) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        // The library's message repeats the line, which may contain a secret.
        Err(dotenvy::Error::LineParse(_, index)) => {
            anyhow::bail!(
                "the file .env cannot be read near character {index} of a line: write NAME=value, with quotes around values that have spaces or #"
            )
        }
        Err(error) => Err(anyhow::anyhow!(error).context("the file .env cannot be read")),
    }
}

/// Prints clap's message. If the invalid value came from an environment variable, names the variable.
fn print_usage_error(error: &clap::Error, command: &clap::Command) -> ExitCode {
    let _ = error.print();
    if let Some(clap::error::ContextValue::String(invalid)) = error.get(ContextKind::InvalidArg)
        && let Some(flag) = invalid.strip_prefix("--").and_then(|arg| arg.split([' ', '[', '=']).next())
        && let Some(arg) = find_arg(command, flag)
        && let Some(variable) = arg.get_env().filter(|name| std::env::var_os(name).is_some())
        && !is_on_command_line(arg)
    {
        let _ = writeln!(
            std::io::stderr(),
            "The value comes from the environment variable {} (or the file .env).",
            variable.display()
        );
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Finds an argument by its flag in a command and its subcommands. A flag means the same setting in all of them.
fn find_arg<'a>(command: &'a clap::Command, flag: &str) -> Option<&'a Arg> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
    own.or_else(|| command.get_subcommands().find_map(|subcommand| find_arg(subcommand, flag)))
}

fn is_on_command_line(arg: &Arg) -> bool {
    let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
    let flags: Vec<_> = names.map(|name| format!("--{name}")).collect();
    std::env::args().any(|given| flags.iter().any(|flag| given.split('=').next() == Some(flag)))
}
