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
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn start(dir: &Path, purpose: Purpose) -> anyhow::Result<Server> {
    let program = find_program(&["redis-server", "valkey-server"], PLACES, "redis-server")?;
    let account = Account::unprivileged()?;
    let dir = server_dir(dir, "redis", account.as_ref())?;
    let (config, log, port, password) = (dir.join("conf"), dir.join("log"), free_port()?, password());
    // The password goes through a file: arguments are for everybody to see.
    let append = if purpose == Purpose::Development { "yes" } else { "no" };
    fs::write(
        &config,
        format!(
            "port {port}\nbind 127.0.0.1\nrequirepass {password}\ndir \"{}\"\nappendonly {append}\nsave \"\"\n\
             maxmemory-policy noeviction\nlazyfree-lazy-expire yes\n",
            dir.display()
        ),
    )?;
    private(&config, account.as_ref())?;
    let command = [&*program.to_string_lossy(), &*config.to_string_lossy()];
    let wipe = (purpose == Purpose::Test).then_some(dir.as_path());
    let mut process = Guarded::start(&command, "TERM", &log, wipe, account.as_ref())?;

    let url = format!("redis://:{password}@127.0.0.1:{port}/0");
    let client = redis::Client::open(url.as_str())?;
    let begun = Instant::now();
    loop {
        if process.ended().is_some() {
            bail!(
                "the private Redis did not start (`saas dev --reset` starts over):\n{}",
                process.last_words()
            );
        }
        // While it reads its data it answers LOADING.
        let answer: Result<String, redis::RedisError> = async {
            let mut conn = client.get_multiplexed_async_connection().await?;
            redis::cmd("PING").query_async(&mut conn).await
        }
        .await;
        match answer {
            Ok(_) => return Ok(Server { url: url.into(), process }),
            Err(error) if begun.elapsed() > PATIENCE => {
                bail!("the private Redis does not answer: {error}\n{}", process.last_words());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
