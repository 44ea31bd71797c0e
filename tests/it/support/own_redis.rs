//! A Redis server for one test.

use std::process::Command;

use super::{
    eventually,
    process::{Running, TempDir},
    queue::{TestQueue, connect},
};

/// Returns the first installed program of these: the one that the variable `REDIS_SERVER` names, `redis-server`,
/// `valkey-server`.
pub fn redis_server() -> String {
    let is_installed = |name: &String| Command::new(name).arg("--version").output().is_ok();
    let chosen = std::env::var("REDIS_SERVER").ok().filter(|name| !name.is_empty());
    let names = chosen.into_iter().chain(["redis-server", "valkey-server"].map(str::to_owned));
    names.into_iter().find(is_installed).expect("redis-server or valkey-server is installed")
}

/// A Redis server that a test may kill and restart at the same address. Its data survives a restart only if the settings
/// turn on the append-only file.
pub struct OwnRedis {
    dir: TempDir,
    pub process: Running,
    settings: Vec<&'static str>,
}

impl OwnRedis {
    pub async fn start(settings: &[&'static str]) -> Self {
        // The directory is in memory if possible. With `appendfsync everysec` on a slow disk, Redis may respond to a command
        // before it writes the command to the file: Redis postpones the write while an fsync runs.
        let dir = TempDir::in_memory();
        let process = Self::spawn(&dir, settings);
        let redis = Self { dir, process, settings: settings.to_vec() };
        redis.wait_until_up().await;
        redis
    }

    fn spawn(dir: &TempDir, settings: &[&str]) -> Running {
        let mut command = Command::new(redis_server());
        command.args(["--port", "0", "--save", "", "--dir"]).arg(dir.path());
        command.arg("--unixsocket").arg(dir.path().join("socket")).args(settings);
        Running::start(command)
    }

    pub fn url(&self) -> String {
        format!("unix://{}/socket", self.dir.path().display())
    }

    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut conn = connect(&self.url()).await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut conn).await
    }

    /// Returns the number of commands that the server has run, including those of scripts.
    pub async fn commands(&self) -> u64 {
        let info: String = self.command(&["INFO", "commandstats"]).await.unwrap();
        let calls = info
            .lines()
            .filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok());
        calls.sum()
    }

    pub async fn wait_until_up(&self) {
        eventually("Redis is up", || async { self.command::<String>(&["PING"]).await.ok() }).await;
    }

    pub async fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.end().await;
    }

    pub async fn restart(&mut self) {
        self.process = Self::spawn(&self.dir, &self.settings);
        self.wait_until_up().await;
    }

    pub fn queue(&self) -> TestQueue {
        TestQueue::on(&self.url(), "rq")
    }
}
