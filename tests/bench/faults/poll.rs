//! Polls until a condition holds.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::time::sleep;

/// Longer than any step takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(15);

/// Polls `ask` until it returns a value, and returns the value. `what` describes the awaited condition in the error.
///
/// # Errors
/// If `ask` returns `None` for longer than a minute.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if begun.elapsed() > TIMEOUT {
            bail!("timed out waiting until {what}");
        }
        sleep(POLL_INTERVAL).await;
    }
}
