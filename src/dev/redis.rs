use std::{
    fs::remove_file,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;

use super::{
    data_dir::{server_dir, write_private_file},
    guard::{Account, Guarded},
    program::find_program,
    server::{Purpose, Server, free_port, kept_password},
};

const BIN_DIRS: &[&str] = &["/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/usr/sbin"];
/// Environment variable with the name of the program to start, such as `valkey-server`.
const PROGRAM_VARIABLE: &str = "REDIS_SERVER";
/// Lowest major version with the commands and the Lua API that the scripts of the queue use.
const MIN_MAJOR_VERSION: u32 = 7;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

impl Server {
    /// Starts a Redis server that stores its data below `dir`. If this process runs as root and the account of the server cannot
    /// reach `dir`, the data is below `/var/lib/saas-dev`.
    ///
    /// # Errors
    /// If Redis is not installed or too old, this process runs as root and no account for the server exists, the files of the
    /// server cannot be created or read, or the server does not start. In the last case, the message has the end of the server's
    /// log.
    pub async fn redis(dir: &Path, purpose: Purpose) -> anyhow::Result<Self> {
        let chosen = std::env::var(PROGRAM_VARIABLE).ok().filter(|name| !name.is_empty());
        let names = chosen.as_deref().map_or(vec!["redis-server", "valkey-server"], |name| vec![name]);
        let program = find_program(&names, BIN_DIRS, "redis-server")?;
        let account = Account::unprivileged()?;
        let dir = server_dir(dir, "redis", account.as_ref())?;
        let (config, log, port_file) = (dir.join("conf"), dir.join("log"), dir.join("port"));
        let password = kept_password(&dir.join("password"), account.as_ref())?;
        let (program, config_arg) =
            (program.to_string_lossy().into_owned(), config.to_string_lossy().into_owned());
        let wipe = (purpose == Purpose::Test).then_some(dir.as_path());
        let append = if purpose == Purpose::Development { "yes" } else { "no" };
        loop {
            let port = free_port(&port_file)?;
            write_private_file(&port_file, &port.to_string(), account.as_ref())?;
            // The password is passed in a file, because every user of the machine can read arguments.
            let settings = format!(
                "port {port}\nbind 127.0.0.1\nrequirepass {password}\ndir \"{}\"\nappendonly {append}\n\
                 save \"\"\nmaxmemory-policy noeviction\nlazyfree-lazy-expire yes\n",
                dir.display()
            );
            write_private_file(&config, &settings, account.as_ref())?;
            let mut process = Guarded::start(&[&program, &config_arg], "TERM", &log, wipe, account.as_ref())?;
            let url = format!("redis://:{password}@127.0.0.1:{port}/0");
            match wait_until_ready(&url, &mut process).await {
                Ok(()) => return Ok(Self { url: url.into(), process }),
                // Another process took the port first.
                Err(_) if process.log_tail().contains("Address already in use") => remove_file(&port_file)?,
                Err(error) => return Err(error),
            }
        }
    }
}

async fn wait_until_ready(url: &str, process: &mut Guarded) -> anyhow::Result<()> {
    let client = redis::Client::open(url)?;
    let start = Instant::now();
    loop {
        if process.exit_status().is_some() {
            bail!(
                "the private Redis did not start. If its data is damaged, run `saas dev --reset`:\n{}",
                process.log_tail()
            );
        }
        // While Redis loads its data, it answers with the error LOADING, so the loop tries again.
        let answer: Result<String, redis::RedisError> = async {
            let mut conn = client.get_multiplexed_async_connection().await?;
            redis::cmd("PING").query_async::<()>(&mut conn).await?;
            redis::cmd("INFO").arg("server").query_async(&mut conn).await
        }
        .await;
        match answer {
            Ok(info) => return check_version(&info),
            Err(error) if start.elapsed() > START_TIMEOUT => {
                bail!("the private Redis does not answer: {error}\n{}", process.log_tail());
            }
            Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
        }
    }
}

fn check_version(info: &str) -> anyhow::Result<()> {
    let version =
        info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default().trim();
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= MIN_MAJOR_VERSION => Ok(()),
        _ => bail!("Redis {version} is installed, but the job queue needs {MIN_MAJOR_VERSION} or newer"),
    }
}
