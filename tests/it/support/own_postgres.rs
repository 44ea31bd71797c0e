//! A PostgreSQL server for one test.

use std::{path::PathBuf, process::Command};

use saas::db::migrations;

use super::{
    eventually,
    postgres_pair::{Account, free_port},
    process::{Running, TempDir, run},
    records::column_at,
    servers::{database_settings, execute, servers},
};

/// A PostgreSQL server with the migrated database `app`, which a test may crash and start again with its data and address.
pub struct OwnPostgres {
    port: u16,
    process: Running,
    programs: PathBuf,
    dir: TempDir,
}

impl OwnPostgres {
    pub async fn start() -> Self {
        let dir = TempDir::new();
        Account::unprivileged().own(dir.path());
        let postgres = servers().await.database_url("postgres");
        let programs = column_at(&postgres, "SELECT setting FROM pg_config WHERE name = 'BINDIR'").await;
        let programs = PathBuf::from(programs.unwrap().remove(0));
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.args(["-U", "saas", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"]);
        initdb.arg(dir.path().join("data"));
        Account::unprivileged().apply(&mut initdb);
        run(initdb).await.succeeded();
        let port = free_port();
        let process = Self::spawn(&programs, &dir, port);
        let server = Self { port, process, programs, dir };
        server.wait_until_up("postgres").await;
        execute(&server.url_of("postgres"), "CREATE DATABASE app").await;
        migrations::up(&database_settings(&server.url())).await.unwrap();
        server
    }

    fn spawn(programs: &std::path::Path, dir: &TempDir, port: u16) -> Running {
        let mut command = Command::new(programs.join("postgres"));
        command.arg("-D").arg(dir.path().join("data")).args(["-p", &port.to_string()]);
        // Without fsync, a crash of the machine may lose data, but a crash of the server does not.
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
            command.args(["-c", setting]);
        }
        Account::unprivileged().apply(&mut command);
        Running::start(command)
    }

    pub fn url(&self) -> String {
        self.url_of("app")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://saas@127.0.0.1:{}/{database}", self.port)
    }

    async fn wait_until_up(&self, database: &str) {
        let url = self.url_of(database);
        eventually("PostgreSQL is up", || async { column_at(&url, "SELECT 1").await.ok() }).await;
    }

    /// Stops the server at once, without a checkpoint (SIGQUIT). All its processes end, and open transactions are lost.
    pub async fn crash(&mut self) {
        self.process.signal("QUIT");
        self.process.end().await;
    }

    pub async fn restart(&mut self) {
        self.process = Self::spawn(&self.programs, &self.dir, self.port);
        self.wait_until_up("app").await;
    }
}
