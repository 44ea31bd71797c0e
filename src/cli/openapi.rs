use std::{io::Write, process::ExitCode};

use clap::Parser;

use crate::{
    api,
    app::App,
    config::{Config, Core},
};

/// Print the OpenAPI document, for client generators and checks for changes.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  saas openapi > openapi.json")]
pub(super) struct Args {
    #[command(flatten)]
    core: Core,
}

/// Settings of the application that the document is generated from. The document does not depend on them.
#[derive(Parser)]
struct Offline {
    #[command(flatten)]
    config: Config,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Offline { mut config } =
            Offline::try_parse_from(["saas", "--database-url", "postgres://nowhere/none"])?;
        config.core = self.core;
        writeln!(std::io::stdout(), "{}", api::document(&App::new(config)?)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
