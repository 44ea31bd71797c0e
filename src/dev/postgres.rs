use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio_postgres::NoTls;

use super::{
    Purpose, Server, find_program, free_port,
    guard::{Account, Guarded},
    password, private, server_dir,
};

const PLACES: &[&str] = &[
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
];
const ATTEMPT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);
/// The database, and the account that owns the server.
const NAME: &str = "saas";

pub(super) async fn start(dir: &Path, purpose: Purpose) -> anyhow::Result<Server> {
    let initdb = find_program(&["initdb"], PLACES, "postgresql")?;
    let program = initdb.with_file_name("postgres");
    let account = Account::unprivileged()?;
    let dir = server_dir(dir, "postgres", account.as_ref())?;
    let (data, secret, log) = (dir.join("data"), dir.join("password"), dir.join("log"));
    wait_for_predecessor(&data).await;
    if !data.exists() {
        fs::write(&secret, password())?;
        private(&secret, account.as_ref())?;
        initialise(&initdb, &dir, &secret, account.as_ref()).await?;
    }
    let password = fs::read_to_string(&secret)
        .context("the password of the private PostgreSQL is gone; run `saas dev --reset`")?;

    let (data_arg, program) = (data.to_string_lossy().into_owned(), program.to_string_lossy().into_owned());
    let mut settings =
        vec!["listen_addresses=127.0.0.1", "unix_socket_directories=", "synchronous_commit=off"];
    if purpose == Purpose::Test {
        settings.extend(["fsync=off", "full_page_writes=off", "max_connections=400", "autovacuum=off"]);
    }
    // SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one.
    let (signal, wipe) = match purpose {
        Purpose::Development => ("INT", None),
        Purpose::Test => ("QUIT", Some(dir.as_path())),
    };
    let (process, client, address) = loop {
        let port = free_port()?.to_string();
        let mut command = vec![program.as_str(), "-D", &data_arg, "-p", &port];
        settings.iter().for_each(|setting| command.extend(["-c", setting]));
        let mut process = Guarded::start(&command, signal, &log, wipe, account.as_ref())?;
        let address = format!("postgres://{NAME}:{password}@127.0.0.1:{port}");
        match wait_until_up(&format!("{address}/postgres"), &mut process).await {
            Ok(client) => break (process, client, address),
            // Somebody else was faster.
            Err(_) if process.last_words().contains("Address already in use") => {}
            Err(error) => return Err(error),
        }
    };
    let exists = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&NAME]).await?;
    if exists.is_none() {
        client.batch_execute(&format!("CREATE DATABASE {NAME}")).await?;
    }
    Ok(Server { url: format!("{address}/{NAME}").into(), process })
}

/// Makes the cluster under another name first, so that half a one is never taken for a whole.
/// What is upper and lower case beyond ASCII, as servers elsewhere know it.
const LETTERS: &str = if cfg!(target_os = "macos") { "--lc-ctype=UTF-8" } else { "--lc-ctype=C.UTF-8" };

async fn initialise(
    initdb: &Path,
    dir: &Path,
    secret: &Path,
    account: Option<&Account>,
) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("unfinished-") {
            super::remove(&entry.path())?;
        }
    }
    let data = dir.join(format!("unfinished-{}", uuid::Uuid::new_v4().simple()));
    let mut command = Command::new(initdb);
    command
        .args([
            "--encoding=UTF8",
            "--locale=C",
            LETTERS,
            "--no-sync",
            "--auth=scram-sha-256",
            "--username",
            NAME,
        ])
        .arg("--pwfile")
        .arg(secret)
        .arg("-D")
        .arg(&data)
        .current_dir("/")
        // Ctrl-C is for the parent, which then drops this.
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

/// The server of a `saas dev` that was killed a moment ago may still be writing its last checkpoint. PostgreSQL
/// itself sees to it that no two run on the same data.
pub(super) async fn wait_for_predecessor(data: &Path) {
    let begun = Instant::now();
    let running = || {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().to_owned();
        let probe = Command::new("/bin/sh").args(["-c", "kill -0 \"$0\" 2>/dev/null", &pid]).status().ok()?;
        probe.success().then_some(())
    };
    while running().is_some() && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wait_until_up(url: &str, process: &mut Guarded) -> anyhow::Result<tokio_postgres::Client> {
    let config = tokio_postgres::Config::from_str(url)?;
    let begun = Instant::now();
    loop {
        if process.ended().is_some() {
            bail!(
                "the private PostgreSQL did not start; if its data is damaged `saas dev --reset` starts over:\n{}",
                process.last_words()
            );
        }
        // Bounded, since whoever has taken the port meanwhile may not speak PostgreSQL at all.
        let attempt = tokio::time::timeout(ATTEMPT, config.connect(NoTls)).await;
        match attempt.map_err(anyhow::Error::from).and_then(|result| Ok(result?)) {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) if begun.elapsed() > PATIENCE => {
                bail!("the private PostgreSQL does not answer: {error}\n{}", process.last_words());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
