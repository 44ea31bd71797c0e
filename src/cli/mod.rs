//! The command line. Each subcommand is a module with its arguments and `run`; this file lists and dispatches them.

mod completions;
mod create_admin;
mod dev;
mod doctor;
mod environment;
mod healthcheck;
mod liveness_file;
mod migrate;
mod open_files;
mod openapi;
mod queue;
mod revoke_key;
mod serve;
mod server_checks;
mod shutdown;
mod startup;
mod worker;

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

use self::environment::{Environment, Findings, with_variables, without_variables};

/// A SaaS backend in one binary: accounts, API, migrations and background jobs.
///
/// `saas dev` runs everything on a laptop. In production, run `saas migrate up`, `saas serve` and `saas worker`. A setting
/// comes from its flag, else its environment variable, else the file `.env`. `saas <command> --help` lists the settings that
/// the command reads.
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
    RevokeKey(Box<revoke_key::Args>),
    Openapi(Box<openapi::Args>),
    Doctor(Box<doctor::Args>),
    Healthcheck(healthcheck::Args),
    Completions(completions::Args),
}

/// Parses the command line and runs the subcommand. Exit codes: 0 success; 1 failure, also because of a setting that the command
/// refuses, such as an invalid `REDIS_URL`; 2 wrong usage or, except for `saas doctor`, a variable, a line of `.env` or a file of
/// a secret that cannot be read, or whose value clap refuses.
pub fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let command = Cli::command();
    // Parses the command line without settings first, because the command determines which settings are read.
    let bare = without_variables(command.clone());
    let given = match bare.clone().try_get_matches_from(&args) {
        Ok(given) => given,
        Err(error) => return print_usage(&error, &args),
    };
    let (path, selected, given) = select(&command, &given);
    let environment = Environment::read(&command);
    environment.export_other_variables();
    let settings = environment.settings(&path, selected, given);
    let findings = settings.findings;
    // `saas doctor` runs in spite of the problems, and reports them with its other findings.
    let is_refused = !findings.problems.is_empty() && path != ["doctor"];
    if settings.uses_dev_servers {
        let _ = writeln!(std::io::stderr(), "using the servers of `saas dev`, which runs in this directory");
    }
    // Inserts the flags of the settings after the names of the subcommands: before the arguments of the command line.
    let start = args.len().min(1 + path.len());
    drop(args.splice(start..start, settings.flags));
    let parsed = bare.try_get_matches_from(&args).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) if is_refused => refuse(&findings, cli.command.refused_settings()),
        Err(_) if is_refused => refuse(&findings, Vec::new()),
        Ok(cli) => cli.run(&findings),
        Err(error) => print_usage(&error, &args),
    }
}

impl Cli {
    fn run(self, findings: &Findings) -> ExitCode {
        if !self.command.reports_exposed_secrets()
            && let Some(warning) = findings.exposed_secrets()
        {
            let _ = writeln!(std::io::stderr(), "warning: {warning}");
        }
        match block_on(self.command.run(findings)) {
            Ok(code) => code,
            // The reader of the output has closed the pipe, as in `saas openapi | head`.
            Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
            Err(error) => {
                let mut text = crate::error::chain(error.as_ref());
                if let Some(fix) = crate::db::pooler_fix(&text) {
                    text = format!("{text}. {fix}");
                }
                let places = findings.places_of(&text);
                print_error(&[text].into_iter().chain(places).collect::<Vec<_>>().join("\nnote: "));
                ExitCode::FAILURE
            }
        }
    }
}

/// Prints the problems of settings that cannot be read or parsed, and `others`: the problems of parsed settings for which the
/// command refuses to run. Returns exit code 2.
fn refuse(findings: &Findings, others: Vec<String>) -> ExitCode {
    let others = others.iter().filter(|problem| !findings.explains(problem));
    let all: Vec<_> = findings.problems.iter().chain(others).map(String::as_str).collect();
    print_error(&format!("invalid settings:\n  - {}", all.join("\n  - ")));
    ExitCode::from(2)
}

fn print_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "error: {text}");
}

/// Returns the subcommand that a command line selects: its path, its definition and its arguments.
fn select<'a>(
    command: &'a clap::Command,
    given: &'a ArgMatches,
) -> (Vec<&'a str>, &'a clap::Command, &'a ArgMatches) {
    let (mut path, mut selected) = (Vec::new(), (command, given));
    while let Some((name, given)) = selected.1.subcommand()
        && let Some(command) = selected.0.find_subcommand(name)
    {
        path.push(name);
        selected = (command, given);
    }
    (path, selected.0, selected.1)
}

/// Returns whether the command failed because the reader of its output has closed the pipe. A broken connection to a server must
/// not match: its error is not a `std::io::Error`, or the command converts it to text.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

impl Command {
    /// Returns whether the command itself logs or prints the warning about secrets on the command line.
    fn reports_exposed_secrets(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Worker(_) | Self::Doctor(_))
    }

    /// Returns the problems of the parsed settings for which the command would refuse to run.
    fn refused_settings(&self) -> Vec<String> {
        match self {
            Self::Serve(args) => args.refused_settings(),
            Self::Worker(args) => args.refused_settings(),
            _ => Vec::new(),
        }
    }

    async fn run(self, findings: &Findings) -> anyhow::Result<ExitCode> {
        match self {
            Self::Dev(args) => args.run(findings).await,
            Self::Serve(args) => args.run(findings).await,
            Self::Worker(args) => args.run(findings).await,
            Self::Queue(args) => args.run().await,
            Self::Migrate(args) => args.run().await,
            Self::CreateAdmin(args) => args.run().await,
            Self::RevokeKey(args) => args.run().await,
            Self::Openapi(args) => args.run(),
            Self::Doctor(args) => args.run(findings).await,
            Self::Healthcheck(args) => args.run().await,
            Self::Completions(args) => args.run(&mut Cli::command()),
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // Does not wait for a job or a request that blocks its thread.
    runtime.shutdown_background();
    result
}

/// Prints the message of clap. If it is a help text, the printed help also has the environment variables, and the
/// values of those that are not secret. Returns the exit code.
fn print_usage(error: &clap::Error, args: &[OsString]) -> ExitCode {
    let is_help =
        matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    let with_help =
        is_help.then(|| with_variables(Cli::command()).try_get_matches_from(args).err()).flatten();
    let error = with_help.as_ref().unwrap_or(error);
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
