//! A PostgreSQL primary and its streaming standby, which a test may freeze, kill and promote.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use saas::db::migrations;

use super::{
    eventually,
    process::{Running, TempDir, run},
    records::column_at,
    servers::{database_settings, execute, servers},
};

/// The operating-system account that runs the servers of a test, as user id and group id. `None` is the account of the
/// test. PostgreSQL and PgBouncer refuse to run as root.
#[derive(Clone, Copy)]
pub struct Account(Option<(u32, u32)>);

impl Account {
    /// Returns the account of this process. If this is root, returns the first existing account of `postgres`,
    /// `_postgres` and `nobody`.
    pub fn unprivileged() -> Self {
        let id = |args: &[&str]| -> Option<u32> {
            let output = Command::new("id").args(args).stderr(Stdio::null()).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        if id(&["-u"]) != Some(0) {
            return Self(None);
        }
        let ids = ["postgres", "_postgres", "nobody"]
            .iter()
            .find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)));
        Self(Some(ids.expect("the account postgres is needed")))
    }

    /// Makes a command run under this account.
    pub fn apply(self, command: &mut Command) {
        // The account may not be permitted to enter the current directory.
        command.current_dir("/");
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
    }

    /// Makes a file or a directory belong to this account.
    pub fn own(self, path: &Path) {
        if let Some((user, group)) = self.0 {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }
}

/// Returns a port of the loopback interface that is free at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A primary with the migrated database `app`, and its standby.
pub struct PostgresPair {
    pub primary: Node,
    pub standby: Node,
    _dir: TempDir,
}

/// A PostgreSQL server that accepts every login from this machine.
pub struct Node {
    pub port: u16,
    process: Running,
    /// The ids of the processes that [`Self::freeze`] has suspended. The child processes do not end when the server is killed.
    frozen: Vec<String>,
}

impl PostgresPair {
    pub async fn start() -> Self {
        let account = Account::unprivileged();
        let dir = TempDir::new();
        account.own(dir.path());
        let postgres = servers().await.database_url("postgres");
        let programs = column_at(&postgres, "SELECT setting FROM pg_config WHERE name = 'BINDIR'").await;
        let programs = PathBuf::from(programs.unwrap().remove(0));
        let program = |name: &str, args: &[&str]| {
            let mut command = Command::new(programs.join(name));
            command.args(args);
            account.apply(&mut command);
            command
        };
        let data = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (first, second) = (data("primary"), data("standby"));
        let options = ["-U", "saas", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"];
        run(program("initdb", &[&options[..], &["-D", &first]].concat())).await.succeeded();
        let start = |data: &str, port: u16| {
            let port_text = port.to_string();
            let mut command = program("postgres", &["-D", data, "-p", &port_text]);
            for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
                command.args(["-c", setting]);
            }
            Node { port, process: Running::start(command), frozen: Vec::new() }
        };
        let primary = start(&first, free_port());
        primary.until_up("postgres").await;
        execute(&primary.url_of("postgres"), "CREATE DATABASE app").await;
        migrations::up(&database_settings(&primary.url())).await.unwrap();
        let source = format!("host=127.0.0.1 port={} user=saas", primary.port);
        let copy = ["-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-d", &source, "-D", &second];
        run(program("pg_basebackup", &copy)).await.succeeded();
        let standby = start(&second, free_port());
        standby.until_up("app").await;
        Self { primary, standby, _dir: dir }
    }

    /// Returns a URL that lists the primary first.
    pub fn url(&self) -> String {
        format!("postgres://saas@127.0.0.1:{},127.0.0.1:{}/app", self.primary.port, self.standby.port)
    }

    /// Waits until the standby has applied everything that the primary has committed.
    pub async fn until_replicated(&self) {
        let written = column_at(&self.primary.url(), "SELECT pg_current_wal_lsn()").await.unwrap().remove(0);
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        eventually("the standby has replayed all changes", || async {
            (column_at(&self.standby.url(), &replayed).await.ok()? == ["t"]).then_some(())
        })
        .await;
    }

    /// Promotes the standby to a primary, and waits until the promotion is complete.
    pub async fn promote(&self) {
        execute(&self.standby.url(), "SELECT pg_promote()").await;
    }
}

impl Node {
    pub fn url(&self) -> String {
        self.url_of("app")
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://saas@127.0.0.1:{}/{database}", self.port)
    }

    async fn until_up(&self, database: &str) {
        let url = self.url_of(database);
        eventually("PostgreSQL is up", || async { column_at(&url, "SELECT 1").await.ok() }).await;
    }

    /// Kills the server without a shutdown, as in a crash.
    pub async fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.end().await;
    }

    /// Suspends the processes of the server. Open connections stay open, and the operating system still accepts new
    /// ones, but no process responds.
    pub async fn freeze(&mut self) {
        self.frozen = column_at(&self.url(), "SELECT pid FROM pg_stat_activity").await.unwrap();
        self.frozen.push(self.process.id().to_string());
        send("STOP", &self.frozen);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        send("KILL", &self.frozen);
    }
}

/// Sends a signal to processes. Ignores processes that have ended.
fn send(signal: &str, processes: &[String]) {
    for process in processes {
        let mut kill = Command::new("/bin/sh");
        kill.args(["-c", "kill -s \"$0\" \"$1\"", signal, process]).stderr(Stdio::null());
        kill.status().unwrap();
    }
}
