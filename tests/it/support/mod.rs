//! Shared code of the tests.

pub mod account_scenario;
pub mod app;
pub mod authenticator;
pub mod mail;
pub mod migrations;
pub mod own_postgres;
pub mod own_redis;
pub mod pgbouncer;
pub mod postgres_pair;
pub mod process;
pub mod property;
pub mod proxy;
pub mod queue;
pub mod records;
pub mod redis_topology;
pub mod servers;
pub mod smtp;

pub use app::{TestApp, User};

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

/// Time limit of a wait in a test. It is long, so that tests do not fail on a loaded machine.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Awaits the futures, four at a time, and returns their outputs in order. With more concurrent requests, the server on a
/// slow machine could refuse some, because they wait too long for a password hash.
pub async fn four_at_a_time<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    stream::iter(futures).buffered(4).collect().await
}

/// Calls `ask` repeatedly until it returns a value, and returns this value.
///
/// # Panics
/// With `what`, the awaited condition, if `ask` returns no value within [`TEST_TIMEOUT`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(15));
    while begun.elapsed() < TEST_TIMEOUT {
        pause.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
    }
    panic!("timed out waiting until {what}");
}
