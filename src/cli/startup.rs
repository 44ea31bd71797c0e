//! What `saas serve` and `saas worker` check before they start.

use std::time::Duration;

use anyhow::{Context, bail};
use secrecy::ExposeSecret;
use tokio::time::sleep;

use crate::{
    config::{Config, FirstAdmin, Http},
    queue::{Queue, Server, is_transient},
    services::users::{check_email, check_password},
};

/// Time between two attempts to reach Redis.
const REDIS_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Refuses invalid settings, and those that are unsafe in production. Reports all of them together.
///
/// # Errors
/// If there is any; the message names each one with its fix.
pub(super) fn check_settings(config: &Config, http: Option<&Http>) -> anyhow::Result<()> {
    let invalid = config.problems().into_iter().chain(http.map(Http::problems).unwrap_or_default());
    let unsafe_settings = config.unsafe_settings();
    let hint = match unsafe_settings.is_empty() {
        true => "",
        false => "\nIn development, DEBUG=true allows unsafe settings.",
    };
    refuse(invalid.chain(unsafe_settings).collect(), hint)
}

/// Refuses the settings of `saas dev` that are invalid. It starts servers for the databases that are not set.
///
/// # Errors
/// As [`check_settings`].
pub(super) fn check_dev_settings(config: &Config, http: &Http) -> anyhow::Result<()> {
    let mut problems = config.mail.problems();
    problems.extend(http.problems());
    problems.extend(check_admin(&config.auth.admin).err().map(|error| error.to_string()));
    refuse(problems, "")
}

fn refuse(problems: Vec<String>, hint: &str) -> anyhow::Result<()> {
    match problems.is_empty() {
        true => Ok(()),
        false => bail!("refusing to start with these settings:\n  - {}{hint}", problems.join("\n  - ")),
    }
}

/// Refuses a first admin with an invalid address or a password that is too weak.
///
/// # Errors
/// If one of the two is invalid; the message names the setting.
pub(super) fn check_admin(settings: &FirstAdmin) -> anyhow::Result<()> {
    let email = &settings.first_superuser_email;
    check_email(email).map_err(|problem| anyhow::anyhow!("FIRST_SUPERUSER_EMAIL {email:?}: {problem}"))?;
    check_password(settings.first_superuser_password.expose_secret())
        .map_err(|problem| anyhow::anyhow!("FIRST_SUPERUSER_PASSWORD: {problem}"))
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
            Err(error) if !is_transient(&error) => {
                return Err(error).context("cannot use Redis: check REDIS_URL, its user and password");
            }
            Err(error) if !logged => {
                tracing::warn!(error = %error, "cannot reach Redis, retrying");
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
