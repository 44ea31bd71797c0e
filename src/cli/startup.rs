//! What `saas serve` and `saas worker` check before they start.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::sleep;

use crate::{
    config::Config,
    queue::{Queue, Server, passes},
};

/// Time between two attempts to reach Redis.
const REDIS_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Refuses settings that are unsafe in production and reports all of them together.
///
/// # Errors
/// If a setting is unsafe; the message names each one with its fix.
pub(super) fn refuse_unsafe(config: &Config) -> anyhow::Result<()> {
    let problems = config.unsafe_settings();
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "refusing to start with unsafe settings (DEBUG=true allows them in development):\n  - {}",
        problems.join("\n  - ")
    )
}

/// Logs settings that work but are probably not what was meant.
pub(super) fn log_warnings(config: &Config) {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}

/// Waits until Redis answers, and checks that it does not lose jobs.
///
/// # Errors
/// If Redis refuses the connection for good, or is configured so that it may lose jobs.
pub(super) async fn wait_for_usable_redis(queue: &Queue) -> anyhow::Result<()> {
    let mut logged = false;
    loop {
        match queue.server().await {
            Ok(server) => return check_server(&server),
            Err(error) if !passes(&error) => {
                return Err(error).context("Redis cannot be used: check REDIS_URL, its user and password");
            }
            Err(error) if !logged => {
                tracing::warn!(error = %error, "Redis is away, waiting for it");
                logged = true;
            }
            Err(_) => {}
        }
        sleep(REDIS_RETRY_INTERVAL).await;
    }
}

fn check_server(server: &Server) -> anyhow::Result<()> {
    server.warnings.iter().for_each(|warning| tracing::warn!("Redis: {warning}"));
    if !server.problems.is_empty() {
        bail!("refusing to keep jobs in this Redis:\n  - {}", server.problems.join("\n  - "));
    }
    Ok(())
}
