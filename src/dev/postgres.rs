use std::{
    fs,
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
const PATIENCE: Duration = Duration::from_secs(60);
/// The database, and the account that owns the server.
const NAME: &str = "saas";

pub(super) async fn start(dir: &Path, purpose: Purpose) -> anyhow::Result<Server> {
    let initdb = find_program(&["initdb"], PLACES, "postgresql")?;
    let program = initdb.with_file_name("postgres");
    let account = Account::unprivileged()?;
    let dir = server_dir(dir, "postgres", account.as_ref())?;
    let (data, secret, log) = (dir.join("data"), dir.join("password"), dir.join("log"));
    wait_for_predecessor(&data)?;
    if !data.join("PG_VERSION").exists() {
        fs::write(&secret, password())?;
        private(&secret, account.as_ref())?;
        initialise(&initdb, &data, &secret, account.as_ref())?;
    }
    let password = fs::read_to_string(&secret)
        .context("the password of the private PostgreSQL is gone; run `saas dev --reset`")?;

    let port = free_port()?;
    let (port_arg, data_arg) = (port.to_string(), data.to_string_lossy().into_owned());
    let program = program.to_string_lossy();
    let mut command: Vec<&str> = vec![&program, "-D", &data_arg, "-p", &port_arg];
    let mut settings =
        vec!["listen_addresses=127.0.0.1", "unix_socket_directories=", "synchronous_commit=off"];
    if purpose == Purpose::Test {
        settings.extend(["fsync=off", "full_page_writes=off", "max_connections=400", "autovacuum=off"]);
    }
    settings.iter().for_each(|setting| command.extend(["-c", setting]));
    // SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one.
    let (signal, wipe) = match purpose {
        Purpose::Development => ("INT", None),
        Purpose::Test => ("QUIT", Some(dir.as_path())),
    };
    let mut process = Guarded::start(&command, signal, &log, wipe, account.as_ref())?;

    let url = |database: &str| format!("postgres://{NAME}:{password}@127.0.0.1:{port}/{database}");
    let client = wait_until_up(&url("postgres"), &mut process).await?;
    let exists = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&NAME]).await?;
    if exists.is_none() {
        client.batch_execute(&format!("CREATE DATABASE {NAME}")).await?;
    }
    Ok(Server { url: url(NAME).into(), process })
}

fn initialise(initdb: &Path, data: &Path, secret: &Path, account: Option<&Account>) -> anyhow::Result<()> {
    let mut command = Command::new(initdb);
    command
        .args(["--encoding=UTF8", "--locale=C", "--no-sync", "--auth=scram-sha-256", "--username", NAME])
        .arg("--pwfile")
        .arg(secret)
        .arg("-D")
        .arg(data)
        .current_dir("/");
    if let Some(account) = account {
        account.drop_to(&mut command);
    }
    let output = command.output().with_context(|| format!("cannot run {}", initdb.display()))?;
    if !output.status.success() {
        // Half a cluster would stand in the way of the next try.
        super::remove(data)?;
        bail!("initdb failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The server of a `saas dev` that was killed a moment ago may still be writing its last checkpoint.
fn wait_for_predecessor(data: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let file = data.join("postmaster.pid");
    let running = || {
        let text = fs::read_to_string(&file).ok()?;
        let pid = text.lines().next()?.trim().to_owned();
        let alive = Command::new("/bin/sh")
            .args(["-c", "ps -p \"$0\" -o comm= | grep -q postgres", &pid])
            .status()
            .ok()?;
        alive.success().then_some(pid)
    };
    while let Some(pid) = running() {
        if begun.elapsed() > Duration::from_secs(20) {
            bail!(
                "a PostgreSQL (process {pid}) is still running on {}; stop it and try again",
                data.display()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

async fn wait_until_up(url: &str, process: &mut Guarded) -> anyhow::Result<tokio_postgres::Client> {
    let config = tokio_postgres::Config::from_str(url)?;
    let begun = Instant::now();
    loop {
        if process.ended().is_some() {
            bail!(
                "the private PostgreSQL did not start (`saas dev --reset` starts over):\n{}",
                process.last_words()
            );
        }
        match config.connect(NoTls).await {
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
