use std::{
    io::{Read, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};

use crate::{
    config::Database,
    db,
    services::api_key_revocation::{LeakedKey, revoke_by_id, revoke_by_text},
};

/// Revoke an API key that has leaked.
///
/// With --key-stdin, the key comes from standard input, so that it is neither in the history of the shell nor in the list of
/// processes. Every replica refuses the key within IDENTITY_CACHE_MS. The creator of the key and the owner of the organization
/// get a mail if they are active members. Fails if the key does not exist, has expired or is already revoked.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["key_stdin", "id"]))]
#[command(after_help = "Examples:\n  saas revoke-key --key-stdin < leaked.txt\n  saas revoke-key --id 12")]
pub(super) struct Args {
    /// Read the key from standard input. If it has the secret from before the last rotation, the present secret stays valid.
    #[arg(long)]
    key_stdin: bool,
    /// The id of the key, as shown by the API, the audit trail and the logs.
    #[arg(long)]
    id: Option<i64>,
    #[command(flatten)]
    database: Database,
}

impl Args {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let text = match self.id {
            Some(_) => String::new(),
            None => read_key()?,
        };
        let mut conn = db::connect(&self.database).await?;
        let revoked = match self.id {
            Some(id) => revoke_by_id(&mut conn, id).await?,
            None => revoke_by_text(&mut conn, &text).await?,
        };
        let Some(LeakedKey { key, current_is_valid }) = revoked else {
            bail!("this is not a valid API key: it is mistyped, revoked or has expired; nothing was changed")
        };
        let what = match current_is_valid {
            true => "revoked the secret from before the last rotation of",
            false => "revoked",
        };
        writeln!(
            std::io::stdout(),
            "{what} the API key {} ({}, {:?}) of the organization {}",
            key.id,
            key.hint,
            key.name,
            key.org_id
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

fn read_key() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("the key cannot be read from standard input")?;
    Ok(text)
}
