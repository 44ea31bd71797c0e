//! What the tests share.

pub mod app;
pub mod authenticator;
pub mod mail;
pub mod process;
pub mod proxy;
pub mod queue;
pub mod records;
pub mod servers;
pub mod smtp;
pub mod story;

pub use app::{TestApp, User};

use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine; only a test that fails waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is there.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(15));
    while begun.elapsed() < PATIENCE {
        pause.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
    }
    panic!("never came: {what}");
}
