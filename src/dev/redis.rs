use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;

use super::{
    Purpose, Server, find_program, free_port,
    guard::{Account, Guarded},
    password, private, server_dir,
};

const PLACES: &[&str] = &["/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/usr/sbin"];
/// The job queue's scripts need it.
const LEAST_VERSION: u32 = 7;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn start(dir: &Path, purpose: Purpose) -> anyhow::Result<Server> {
    let program = find_program(&["redis-server", "valkey-server"], PLACES, "redis-server")?;
    let account = Account::unprivileged()?;
    let dir = server_dir(dir, "redis", account.as_ref())?;
    let (config, log, password) = (dir.join("conf"), dir.join("log"), password());
    let (program, config_arg) =
        (program.to_string_lossy().into_owned(), config.to_string_lossy().into_owned());
    let wipe = (purpose == Purpose::Test).then_some(dir.as_path());
    let append = if purpose == Purpose::Development { "yes" } else { "no" };
    loop {
        let port = free_port()?;
        // The password goes through a file: arguments are for everybody to see.
        fs::write(
            &config,
            format!(
                "port {port}\nbind 127.0.0.1\nrequirepass {password}\ndir \"{}\"\nappendonly {append}\nsave \"\"\n\
                 maxmemory-policy noeviction\nlazyfree-lazy-expire yes\n",
                dir.display()
            ),
        )?;
        private(&config, account.as_ref())?;
        let mut process = Guarded::start(&[&program, &config_arg], "TERM", &log, wipe, account.as_ref())?;
        let url = format!("redis://:{password}@127.0.0.1:{port}/0");
        match wait_until_up(&url, &mut process).await {
            Ok(()) => return Ok(Server { url: url.into(), process }),
            // Somebody else was faster.
            Err(_) if process.last_words().contains("Address already in use") => {}
            Err(error) => return Err(error),
        }
    }
}

async fn wait_until_up(url: &str, process: &mut Guarded) -> anyhow::Result<()> {
    let client = redis::Client::open(url)?;
    let begun = Instant::now();
    loop {
        if process.ended().is_some() {
            bail!(
                "the private Redis did not start; if its data is damaged `saas dev --reset` starts over:\n{}",
                process.last_words()
            );
        }
        // While it reads its data it answers LOADING.
        let answer: Result<String, redis::RedisError> = async {
            let mut conn = client.get_multiplexed_async_connection().await?;
            redis::cmd("PING").query_async::<()>(&mut conn).await?;
            redis::cmd("INFO").arg("server").query_async(&mut conn).await
        }
        .await;
        match answer {
            Ok(info) => return check_version(&info),
            Err(error) if begun.elapsed() > PATIENCE => {
                bail!("the private Redis does not answer: {error}\n{}", process.last_words());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn check_version(info: &str) -> anyhow::Result<()> {
    let version =
        info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default().trim();
    match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
        Some(major) if major >= LEAST_VERSION => Ok(()),
        _ => bail!("Redis {version} is installed, and the job queue needs {LEAST_VERSION} or newer"),
    }
}
