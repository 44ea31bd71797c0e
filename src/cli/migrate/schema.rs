use std::{fs, io::Write, path::Path};

use anyhow::Context;

use crate::{
    config::Database,
    db::{
        self,
        migrations::{Migrations, schema_file},
    },
    dev::{self, Purpose, Server},
};

/// Applies the migrations in `dir` to a private server, and writes diesel's definitions of its tables to `out`.
///
/// # Errors
/// If the migrations cannot be read, the private server cannot be started, for example because PostgreSQL is not installed, a
/// migration fails, or the file cannot be written.
pub(super) async fn write(dir: &Path, out: &Path) -> anyhow::Result<()> {
    let migrations = Migrations::in_directory(dir)?;
    let data = dev::test_dir()?;
    let result = match Server::postgres(&data, Purpose::Test).await {
        Ok(server) => {
            let result = text(&migrations, &Database::at(server.url.clone())).await;
            server.stop().await;
            result
        }
        Err(error) => Err(error),
    };
    // A server that has stopped has removed its data, but one that did not start may have left some.
    let _ = fs::remove_dir_all(&data);
    let text = result?;
    if fs::read_to_string(out).is_ok_and(|written| written == text) {
        writeln!(std::io::stdout(), "{} is up to date", out.display())?;
        return Ok(());
    }
    fs::write(out, text).with_context(|| format!("cannot write {}", out.display()))?;
    writeln!(std::io::stdout(), "wrote {}", out.display())?;
    Ok(())
}

async fn text(migrations: &Migrations, database: &Database) -> anyhow::Result<String> {
    migrations.up(database).await?;
    schema_file(&db::connect(database).await?).await
}
