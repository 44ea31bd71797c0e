//! One process of Redis, which can be killed, suspended, and started again with its directory and address.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use redis::FromRedisValue;

use super::{poll::eventually, signals::Frozen};
use crate::{
    bare,
    http::process::{self, Running},
};

pub struct Node {
    process: Option<Running>,
    pub port: u16,
    dir: PathBuf,
    args: Vec<String>,
}

/// Returns free ports. All listeners stay open until all ports are chosen, so that the ports differ.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listeners: Vec<_> = listeners.collect::<io::Result<_>>()?;
    listeners.iter().map(|listener| anyhow::Ok(listener.local_addr()?.port())).collect()
}

/// Returns the name of the server program: `REDIS_SERVER`, or the first of `redis-server` and `valkey-server` that is
/// installed.
fn program() -> String {
    let chosen = std::env::var("REDIS_SERVER").ok().filter(|name| !name.is_empty());
    chosen.unwrap_or_else(|| {
        let names = ["redis-server", "valkey-server"];
        let is_installed = |name: &&str| std::process::Command::new(*name).arg("--version").output().is_ok();
        names.into_iter().find(is_installed).unwrap_or(names[0]).to_owned()
    })
}

impl Node {
    /// Starts a server without snapshots. It stores its data in a directory of its own below `parent`.
    pub async fn server(parent: &Path, port: u16, settings: &[&str]) -> Result<Self> {
        let mut node = Self::new(parent, port)?;
        let (port, dir) = (port.to_string(), node.dir.to_string_lossy().into_owned());
        // By default, a primary waits five seconds for more replicas before it sends its data to the first one.
        let common = ["--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0"];
        node.args = ["--port", &port, "--dir", &dir]
            .iter()
            .chain(&common)
            .chain(settings)
            .map(|arg| (*arg).to_owned())
            .collect();
        node.start().await?;
        Ok(node)
    }

    /// Starts a Sentinel with the given lines of configuration.
    pub async fn sentinel(parent: &Path, port: u16, lines: &str) -> Result<Self> {
        let mut node = Self::new(parent, port)?;
        let config = node.dir.join("conf");
        let dir = node.dir.display();
        fs::write(&config, format!("port {port}\nbind 127.0.0.1\ndir \"{dir}\"\n{lines}"))?;
        node.args = vec![config.to_string_lossy().into_owned(), "--sentinel".into()];
        node.start().await?;
        Ok(node)
    }

    fn new(parent: &Path, port: u16) -> Result<Self> {
        let dir = parent.join(format!("redis-{port}"));
        fs::create_dir(&dir)?;
        Ok(Self { process: None, port, dir, args: Vec::new() })
    }

    /// Starts the process, and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        let mut command = process::command(program());
        command.args(&self.args);
        let mut process = Running::start(command, &self.dir.join("log"))?;
        // The port is closed at first, and Redis answers LOADING until it has its data.
        eventually("Redis answers", async || match process.check() {
            Err(error) => Some(Err(error)),
            Ok(()) => self.command::<String>(&["PING"]).await.ok().map(|_| Ok(())),
        })
        .await??;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the process, if it runs.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    /// Suspends the process until the returned value is dropped.
    pub fn freeze(&self) -> Result<Frozen> {
        let process = self.process.as_ref().context("the server does not run")?;
        let mut frozen = Frozen::default();
        frozen.freeze(i32::try_from(process.pid)?)?;
        Ok(frozen)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let mut conn = bare::connect(&self.url()).await?;
        Ok(redis::cmd(words[0]).arg(&words[1..]).query_async(&mut conn).await?)
    }

    async fn replication(&self) -> Result<String> {
        self.command(&["INFO", "replication"]).await
    }

    pub async fn is_primary(&self) -> bool {
        self.replication().await.is_ok_and(|info| info.contains("role:master"))
    }

    /// Waits until exactly `replicas` replicas are connected to this server.
    pub async fn wait_for_replicas(&self, replicas: usize) -> Result<()> {
        eventually("the replicas are connected", async || {
            (self.replication().await.ok()?.matches("state=online").count() == replicas).then_some(())
        })
        .await
    }
}
