use std::{
    fs::{self, remove_file},
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, test_kill_process};
use tokio_postgres::NoTls;

use super::{
    data_dir::{remove_dir, server_dir, write_private_file},
    guard::{Account, Guarded},
    program::find_program,
    server::{Purpose, Server, free_port, random_password},
};

const BIN_DIRS: &[&str] = &[
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum time to wait for the server of an earlier run to end.
const PREVIOUS_STOP_TIMEOUT: Duration = Duration::from_secs(20);
const PREVIOUS_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Name of the database, and of the superuser that owns it.
const DATABASE: &str = "saas";
/// Argument of initdb for the case of letters beyond ASCII, which production servers usually support too. All other categories
/// of the locale are `C`.
const CTYPE_ARG: &str = if cfg!(target_os = "macos") { "--lc-ctype=UTF-8" } else { "--lc-ctype=C.UTF-8" };

impl Server {
    /// Starts a PostgreSQL server that stores its data below `dir`, with an empty database on the first start. If this process
    /// runs as root and the account of the server cannot reach `dir`, the data is below `/var/lib/saas-dev`.
    ///
    /// # Errors
    /// If PostgreSQL is not installed, this process runs as root and no account for the server exists, the files of the server
    /// cannot be created or read, or the server does not start. In the last case, the message has the end of the server's log.
    pub async fn postgres(dir: &Path, purpose: Purpose) -> anyhow::Result<Self> {
        let initdb = find_program(&["initdb"], BIN_DIRS, "postgresql")?;
        let program = initdb.with_file_name("postgres");
        let account = Account::unprivileged()?;
        let dir = server_dir(dir, "postgres", account.as_ref())?;
        let (data, password_file, log) = (dir.join("data"), dir.join("password"), dir.join("log"));
        let port_file = dir.join("port");
        wait_for_previous_server(&data).await;
        if !data.exists() {
            write_private_file(&password_file, &random_password(), account.as_ref())?;
            init_cluster(&initdb, &dir, &password_file, account.as_ref()).await?;
        }
        let password = fs::read_to_string(&password_file)
            .context("cannot read the password of the private PostgreSQL; run `saas dev --reset`")?;

        let (data_arg, program) =
            (data.to_string_lossy().into_owned(), program.to_string_lossy().into_owned());
        let mut settings =
            vec!["listen_addresses=127.0.0.1", "unix_socket_directories=", "synchronous_commit=off"];
        if purpose == Purpose::Test {
            settings.extend(["fsync=off", "full_page_writes=off", "max_connections=400", "autovacuum=off"]);
        }
        // SIGINT requests a fast shutdown, which writes a checkpoint. SIGQUIT requests an immediate shutdown, which does not.
        let (signal, wipe) = match purpose {
            Purpose::Development => ("INT", None),
            Purpose::Test => ("QUIT", Some(dir.as_path())),
        };
        let (process, client, address) = loop {
            let port = free_port(&port_file)?.to_string();
            write_private_file(&port_file, &port, account.as_ref())?;
            let mut command = vec![program.as_str(), "-D", &data_arg, "-p", &port];
            settings.iter().for_each(|setting| command.extend(["-c", setting]));
            let mut process = Guarded::start(&command, signal, &log, wipe, account.as_ref())?;
            let address = format!("postgres://{DATABASE}:{password}@127.0.0.1:{port}");
            match wait_until_ready(&format!("{address}/postgres"), &mut process).await {
                Ok(client) => break (process, client, address),
                // Another process took the port first.
                Err(_) if process.log_tail().contains("Address already in use") => remove_file(&port_file)?,
                Err(error) => return Err(error),
            }
        };
        let exists =
            client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&DATABASE]).await?.is_some();
        if !exists {
            client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        }
        Ok(Self { url: format!("{address}/{DATABASE}").into(), process })
    }
}

/// Creates the database cluster in `dir/data`.
///
/// The cluster is created under a temporary name and then renamed, so that an interrupted attempt leaves no incomplete
/// cluster in `dir/data`.
async fn init_cluster(
    initdb: &Path,
    dir: &Path,
    password_file: &Path,
    account: Option<&Account>,
) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("unfinished-") {
            remove_dir(&entry.path())?;
        }
    }
    let data = dir.join(format!("unfinished-{}", uuid::Uuid::new_v4().simple()));
    let mut command = Command::new(initdb);
    command
        .args([
            "--encoding=UTF8",
            "--locale=C",
            CTYPE_ARG,
            "--no-sync",
            "--auth=scram-sha-256",
            "--username",
            DATABASE,
        ])
        .arg("--pwfile")
        .arg(password_file)
        .arg("-D")
        .arg(&data)
        .current_dir("/")
        // Ctrl-C reaches only this process, which then drops the child and so kills it.
        .process_group(0);
    if let Some(account) = account {
        account.drop_to(&mut command);
    }
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {}", initdb.display()))?;
    if !output.status.success() {
        bail!("initdb failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(fs::rename(&data, dir.join("data"))?)
}

/// Waits until the server of an earlier `saas dev` has ended: if that process was killed, the server may still write its last
/// checkpoint.
///
/// Waits for at most 20 s. If the server still runs then, PostgreSQL itself refuses to start twice on the same data.
pub(super) async fn wait_for_previous_server(data: &Path) {
    let start = Instant::now();
    let is_running = || {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        test_kill_process(pid).ok()
    };
    while is_running().is_some() && start.elapsed() < PREVIOUS_STOP_TIMEOUT {
        tokio::time::sleep(PREVIOUS_POLL_INTERVAL).await;
    }
}

async fn wait_until_ready(url: &str, process: &mut Guarded) -> anyhow::Result<tokio_postgres::Client> {
    let config = tokio_postgres::Config::from_str(url)?;
    let start = Instant::now();
    loop {
        if process.exit_status().is_some() {
            bail!(
                "the private PostgreSQL did not start. If its data is damaged, run `saas dev --reset`:\n{}",
                process.log_tail()
            );
        }
        // The attempt needs a timeout: a process that took the port meanwhile may not speak PostgreSQL's protocol.
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls)).await;
        match attempt.map_err(anyhow::Error::from).and_then(|result| Ok(result?)) {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) if start.elapsed() > START_TIMEOUT => {
                bail!("the private PostgreSQL does not answer: {error}\n{}", process.log_tail());
            }
            Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}
