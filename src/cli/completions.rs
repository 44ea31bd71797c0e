use std::{io::Write, process::ExitCode};

use clap_complete::Shell;

/// Print shell completions.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  saas completions bash > ~/.local/share/bash-completion/completions/saas")]
pub(super) struct Args {
    shell: Shell,
}

impl Args {
    pub(super) fn run(self, command: &mut clap::Command) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, "saas", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
