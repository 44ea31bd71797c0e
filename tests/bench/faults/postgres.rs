//! A PostgreSQL server that can be killed, suspended, restarted and promoted.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use saas::dev::{self, Purpose, Server};
use secrecy::ExposeSecret;
use tokio_postgres::{Client, NoTls};
use url::Url;

use super::{
    poll::eventually,
    signals::{self, Frozen},
};
use crate::http::process;

pub struct Postgres {
    server: Server,
    /// The handles of killed servers. They are kept until the end: if a handle is dropped while the guard process of the server
    /// still runs, the guard deletes the data.
    killed: Vec<Server>,
    /// A connection as the superuser.
    pub sql: Client,
    dir: DataDir,
}

impl Postgres {
    pub async fn start() -> Result<Self> {
        Self::start_in(DataDir(dev::test_dir()?)).await
    }

    async fn start_in(dir: DataDir) -> Result<Self> {
        let server = Server::postgres(&dir.0, Purpose::Test).await?;
        let sql = connect(server.url.expose_secret()).await?;
        Ok(Self { server, killed: Vec::new(), sql, dir })
    }

    /// Starts a standby with a copy of the data.
    pub async fn start_standby(&self) -> Result<Self> {
        let programs = self.setting("SELECT setting FROM pg_config WHERE name = 'BINDIR'").await?;
        let original = self.setting("SHOW data_directory").await?;
        let (original, url) = (Path::new(&original), self.parsed_url()?);
        let account = fs::metadata(original)?;
        // `Server::postgres` expects the data and the password in `dir/postgres`.
        let dir = DataDir(dev::test_dir()?);
        let copy = dir.0.join("postgres");
        let mut backup = process::command(Path::new(&programs).join("pg_basebackup"));
        backup
            .args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-h", "127.0.0.1"])
            .args(["-p", &self.port()?.to_string(), "-U", url.username(), "-D"])
            .arg(copy.join("data"))
            .env("PGPASSWORD", url.password().unwrap_or_default())
            .uid(account.uid())
            .gid(account.gid());
        process::run(backup).await?;
        let password = original.parent().context("the data has no parent directory")?.join("password");
        fs::copy(password, copy.join("password"))?;
        Self::start_in(dir).await
    }

    async fn setting(&self, query: &str) -> Result<String> {
        Ok(self.sql.query_one(query, &[]).await?.try_get(0)?)
    }

    pub fn url(&self) -> &str {
        self.server.url.expose_secret()
    }

    fn parsed_url(&self) -> Result<Url> {
        Ok(Url::parse(self.url())?)
    }

    pub fn port(&self) -> Result<u16> {
        self.parsed_url()?.port().context("the URL has no port")
    }

    /// Returns the URL with another port.
    pub fn url_at(&self, port: u16) -> Result<String> {
        let mut url = self.parsed_url()?;
        url.set_port(Some(port)).map_err(|()| anyhow!("the URL cannot have a port"))?;
        Ok(url.into())
    }

    /// Returns a URL that lists this server, then another one.
    pub fn url_with(&self, other: &Self) -> Result<String> {
        let (own, others) = (self.port()?, other.port()?);
        let address = format!("@127.0.0.1:{own}/");
        ensure!(self.url().contains(&address), "the URL has an unexpected form");
        Ok(self.url().replace(&address, &format!("@127.0.0.1:{own},127.0.0.1:{others}/")))
    }

    /// Kills the main process and all processes in `pg_stat_activity`, as when the machine fails.
    pub async fn kill(&self) -> Result<()> {
        let main = self.main_process().await?;
        let others = self.other_processes().await?;
        signals::kill(main)?;
        for process in others {
            // The process may have exited already, because the main process has ended.
            let _ = signals::kill(process);
        }
        Ok(())
    }

    /// Starts the killed server again with its data and address.
    pub async fn start_again(&mut self) -> Result<()> {
        // PostgreSQL refuses to start while processes of the killed server remain.
        let server = eventually("PostgreSQL has restarted", async || {
            Server::postgres(&self.dir.0, Purpose::Test).await.ok()
        })
        .await?;
        let is_same = server.url.expose_secret() == self.url();
        self.killed.push(std::mem::replace(&mut self.server, server));
        ensure!(is_same, "PostgreSQL has restarted at another address");
        self.sql = connect(self.url()).await?;
        Ok(())
    }

    /// Suspends the main process and all processes in `pg_stat_activity` until the returned value is dropped. Connections stay
    /// open.
    pub async fn freeze(&self) -> Result<Frozen> {
        let mut frozen = Frozen::default();
        // The main process is frozen first, so that it starts no more processes.
        frozen.freeze(self.main_process().await?)?;
        for process in self.other_processes().await? {
            // The process may have ended.
            let _ = frozen.freeze(process);
        }
        Ok(frozen)
    }

    async fn main_process(&self) -> Result<i32> {
        let query = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::integer";
        Ok(self.sql.query_one(query, &[]).await?.try_get(0)?)
    }

    async fn other_processes(&self) -> Result<Vec<i32>> {
        let rows = self.sql.query("SELECT pid FROM pg_stat_activity", &[]).await?;
        rows.iter().map(|row| anyhow::Ok(row.try_get::<_, i32>(0)?)).collect()
    }

    /// Makes a standby the primary.
    pub async fn promote(&self) -> Result<()> {
        Ok(self.sql.batch_execute("SELECT pg_promote()").await?)
    }

    /// Stops the server and waits for its exit.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

async fn connect(url: &str) -> Result<Client> {
    let (sql, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(sql)
}

/// A directory that is deleted on drop. The guard process of a server deletes it too, unless the server was killed.
struct DataDir(PathBuf);

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
