//! The connections of the pool: how they are opened, and which of them may be handed out again.
//!
//! A checkout usually costs no round trip: it skips connections that are known to be closed, and TCP keepalive closes those
//! whose server is unreachable. After work that was interrupted or timed out, a checkout tests a connection that has not
//! answered since this work began: it sends `SELECT 1` and waits for the answer.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection, pooled_connection::PoolableConnection};
use tokio::time::timeout;

use super::connect::Target;
use crate::error::BoxError;

/// The times of failures of connections. A failure of one connection shows which others are useless or have to be tested,
/// because usually all connections lead to the same server.
#[derive(Clone, Default)]
pub(super) struct ServerHealth(Arc<Mutex<HealthTimes>>);

#[derive(Clone, Copy, Default)]
struct HealthTimes {
    /// Connections that were opened at this time or earlier are useless.
    useless_until: Option<Instant>,
    /// Connections whose last answer was at this time or earlier may be useless, so they are tested before they are used.
    doubtful_until: Option<Instant>,
    /// When a tested connection did not answer. Reset to `None` when another connection answers a test, when work that began
    /// later does not finish, and when a connection does not answer a test that began later.
    silent_at: Option<Instant>,
}

impl ServerHealth {
    /// Records that the server accepts no writes: connections that were opened at `at` or earlier are discarded.
    pub(super) fn discard_opened_until(&self, at: Instant) {
        self.update(|times| times.useless_until = times.useless_until.max(Some(at)));
    }

    /// Records that work which began on a connection at `at` did not finish, so that the server may be frozen. Connections that
    /// have not answered since then are tested before they are used.
    pub(super) fn test_if_silent_since(&self, at: Instant) {
        self.update(|times| {
            times.doubtful_until = times.doubtful_until.max(Some(at));
            // Forgets a silence before `at`: the connection of this work counted as usable after that silence.
            times.silent_at = times.silent_at.filter(|found_at| *found_at >= at);
        });
    }

    /// Records that a connection which was tested at `tested_at` does not answer. A single connection may be silent because
    /// this process was too busy to read the answer. If the silence of another connection before this test is recorded, the
    /// server counts as frozen. Connections that were opened before this test then become useless, so that no request has to
    /// test them.
    fn record_silence(&self, tested_at: Instant) {
        self.update(|times| match times.silent_at {
            None => times.silent_at = Some(Instant::now()),
            // This test began before the other silence was found, so one pause of this process may explain both.
            Some(found_at) if tested_at < found_at => {}
            Some(_) => {
                times.useless_until = times.useless_until.max(Some(tested_at));
                times.silent_at = None;
            }
        });
    }

    /// Records that a tested connection has answered, so an earlier silence no longer counts.
    fn record_answer(&self) {
        self.update(|times| times.silent_at = None);
    }

    fn update(&self, change: impl FnOnce(&mut HealthTimes)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn times(&self) -> HealthTimes {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the connections of the pool, and decides which may be used again.
pub struct Manager {
    target: Target,
    health: ServerHealth,
    /// Time limit for the answer to a test.
    answer_timeout: Duration,
}

pub struct PooledPgConnection {
    conn: AsyncPgConnection,
    opened_at: Instant,
    /// When the connection was opened, last returned to the pool, or last answered a test.
    answered_at: Instant,
    /// Whether the connection is being tested, or its test has failed or was interrupted.
    in_test: bool,
}

impl Deref for PooledPgConnection {
    type Target = AsyncPgConnection;
    fn deref(&self) -> &AsyncPgConnection {
        &self.conn
    }
}

impl DerefMut for PooledPgConnection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.conn
    }
}

impl Manager {
    pub(super) fn new(target: Target, health: ServerHealth, answer_timeout: Duration) -> Self {
        Self { target, health, answer_timeout }
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = PooledPgConnection;
    type Error = BoxError;

    async fn connect(&self) -> Result<PooledPgConnection, BoxError> {
        let opened_at = Instant::now();
        let conn = self.target.connect().await?;
        Ok(PooledPgConnection { conn, opened_at, answered_at: Instant::now(), in_test: false })
    }

    async fn is_valid(&self, pooled: &mut PooledPgConnection) -> Result<(), BoxError> {
        let HealthTimes { useless_until, doubtful_until, .. } = self.health.times();
        if pooled.conn.is_broken() {
            return Err("the server has closed the connection".into());
        }
        if useless_until.is_some_and(|at| pooled.opened_at <= at) {
            return Err("the server of this connection cannot be used any more".into());
        }
        if doubtful_until.is_none_or(|at| pooled.answered_at > at) {
            return Ok(());
        }
        let tested_at = Instant::now();
        // A checkout that times out drops this future. The flag then stays set, and the pool discards the connection.
        pooled.in_test = true;
        match timeout(self.answer_timeout, pooled.conn.batch_execute("SELECT 1")).await {
            Ok(answer) => answer?,
            Err(_) => {
                self.health.record_silence(tested_at);
                return Err("the server of this connection does not answer".into());
            }
        }
        pooled.in_test = false;
        self.health.record_answer();
        pooled.answered_at = Instant::now();
        Ok(())
    }

    fn has_broken(&self, pooled: &mut PooledPgConnection) -> bool {
        pooled.answered_at = Instant::now();
        pooled.in_test || std::thread::panicking() || pooled.conn.is_broken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_useless_only_after_a_second_one_is_silent() {
        let health = ServerHealth::default();
        let later = || Instant::now() + Duration::from_secs(60);
        let begun = Instant::now();
        while Instant::now() == begun {}
        health.record_silence(begun);
        health.record_silence(begun);
        assert_eq!(health.times().useless_until, None, "tested at the same time");
        health.record_answer();
        health.record_silence(later());
        assert_eq!(health.times().useless_until, None, "another one has answered");
        health.test_if_silent_since(later());
        health.record_silence(later());
        assert_eq!(health.times().useless_until, None, "another one was used");
        let second = later();
        health.record_silence(second);
        assert_eq!(health.times().useless_until, Some(second));
        health.record_silence(later());
        assert_eq!(health.times().useless_until, Some(second), "the first one of another server");
    }
}
