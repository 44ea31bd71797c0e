//! A PgBouncer in front of the database of a test.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{
    eventually,
    postgres_pair::{Account, free_port},
    process::{Running, TempDir},
    records::column_at,
    servers::TestDatabase,
};

/// The first version of PgBouncer that supports prepared statements in transaction mode.
const MIN_VERSION: (u32, u32) = (1, 21);

pub struct PgBouncer {
    /// The URL of the test's database through PgBouncer.
    pub url: String,
    _process: Running,
    _dir: TempDir,
}

impl PgBouncer {
    /// Starts PgBouncer in front of a database, in transaction mode with 5 connections to the server. `settings` are
    /// lines of `pgbouncer.ini` that override this.
    ///
    /// Returns `None`, and prints why, if the program is not found, cannot be run or is older than 1.21. The program is the
    /// file that the variable `PGBOUNCER` names, or `pgbouncer` in `PATH` or `/usr/sbin`.
    pub async fn before(database: &TestDatabase, settings: &[&str]) -> Option<Self> {
        let program = match find_program() {
            Ok(program) => program,
            Err(why) => {
                eprintln!("NOT TRIED: {why}. Set PGBOUNCER to the path of PgBouncer 1.21 or newer.");
                return None;
            }
        };
        let (account, dir, port) = (Account::unprivileged(), TempDir::new(), free_port());
        let (_, rest) = database.url.split_once("://").unwrap();
        let (login, place) = rest.split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (address, name) = place.split_once('/').unwrap();
        let (host, server_port) = address.split_once(':').unwrap();
        let text = format!(
            "[databases]\n\
             {name} = host={host} port={server_port} dbname={name} user={user} password={password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 5\nmax_prepared_statements = 200\n{}\n",
            settings.join("\n")
        );
        let file = dir.path().join("pgbouncer.ini");
        std::fs::write(&file, text).unwrap();
        account.own(&file);
        let mut command = Command::new(program);
        command.arg(&file);
        account.apply(&mut command);
        let process = Running::start(command);
        let url = format!("postgres://saas:x@127.0.0.1:{port}/{name}");
        eventually("PgBouncer is up", || async { column_at(&url, "SELECT 1").await.ok() }).await;
        Some(Self { url, _process: process, _dir: dir })
    }
}

fn find_program() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let given = std::env::var_os("PGBOUNCER").map(PathBuf::from);
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let mut found = given.into_iter().chain(dirs.map(|dir| dir.join("pgbouncer")));
    let program = found.find(|path| path.is_file()).ok_or("there is no pgbouncer")?;
    let output = Command::new(&program).arg("--version").stderr(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= MIN_VERSION {
        true => Ok(program),
        false => Err(format!("{} has the version {version}", program.display())),
    }
}
