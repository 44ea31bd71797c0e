use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser};

use super::environment::without_variables;
use crate::{
    api,
    app::App,
    config::{Config, Core},
};

/// Print the OpenAPI document, to generate clients or to detect changes of the API.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  saas openapi > openapi.json")]
pub(super) struct Args {
    #[command(flatten)]
    core: Core,
    /// URL at which clients reach the API, such as `https://api.example.com`: the first server of the document.
    #[arg(long, env, value_name = "URL", help_heading = "Mail settings")]
    public_url: Option<String>,
}

/// The settings of an application that only generates the document. It connects to no server.
#[derive(Parser)]
struct Offline {
    #[command(flatten)]
    config: Config,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let public_url = self.public_url.unwrap_or_default();
        let settings = ["saas", "--database-url", "postgres://nowhere/none", "--public-url", &public_url];
        // The variables of the environment are ignored: an invalid setting that has no effect is no reason to fail.
        let matches = without_variables(Offline::command()).try_get_matches_from(settings)?;
        let Offline { mut config } = Offline::from_arg_matches(&matches)?;
        config.core = self.core;
        writeln!(std::io::stdout(), "{}", api::document(&App::new(config)?)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
