//! The connections of the pool: how they are opened, and which of them may be handed out again.
//!
//! A checkout costs no round trip: it skips connections that are known to be closed, and TCP keepalive closes those whose
//! server is unreachable. After a statement has had no answer, a checkout tests the other connections: it sends `SELECT 1`
//! and waits for the answer.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection, pooled_connection::PoolableConnection};
use tokio::time::timeout;

use super::connect::Target;
use crate::error::BoxError;

/// What one connection has shown about the server, and therefore about the other connections.
#[derive(Clone, Default)]
pub(super) struct Doubts(Arc<Mutex<DoubtTimes>>);

#[derive(Clone, Copy, Default)]
struct DoubtTimes {
    /// Connections that were opened at this time or earlier are useless.
    useless: Option<Instant>,
    /// Connections whose last answer was at this time or earlier may be useless, so they are tested.
    doubtful: Option<Instant>,
    /// When a tested connection was found silent. `None` if a connection has answered or was used since.
    silent: Option<Instant>,
}

impl Doubts {
    /// Records that the server refuses all statements: connections that were opened at `at` or earlier are discarded.
    pub(super) fn discard_opened_until(&self, at: Instant) {
        self.update(|times| times.useless = times.useless.max(Some(at)));
    }

    /// Records that a statement which was sent at `at` has no answer, so that the server may be frozen. Connections that have
    /// not answered since then are tested before they are used.
    pub(super) fn ask_if_silent_since(&self, at: Instant) {
        self.update(|times| {
            times.doubtful = times.doubtful.max(Some(at));
            // The connection of this statement was usable after an earlier silence.
            times.silent = times.silent.filter(|found_at| *found_at >= at);
        });
    }

    /// Records that a connection which was tested at `asked_at` does not answer. A single connection may be silent because
    /// this process was too busy to read the answer. If another connection was found silent before, the server is frozen.
    /// Then all connections become useless, because testing each would cost a request the same wait.
    fn record_silence(&self, asked_at: Instant) {
        self.update(|times| match times.silent {
            None => times.silent = Some(Instant::now()),
            // Both connections were tested during the same pause of this process or the server.
            Some(found_at) if asked_at < found_at => {}
            Some(_) => {
                times.useless = times.useless.max(Some(asked_at));
                times.silent = None;
            }
        });
    }

    /// Records that a tested connection has answered. So the server was not the reason for earlier silence.
    fn record_answer(&self) {
        self.update(|times| times.silent = None);
    }

    fn update(&self, change: impl FnOnce(&mut DoubtTimes)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn times(&self) -> DoubtTimes {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the connections of the pool, and decides which may be used again.
pub struct Manager {
    target: Target,
    doubts: Doubts,
    /// Time limit for the answer of a connection that is tested.
    answer_timeout: Duration,
}

/// A connection of the pool.
pub struct PooledPgConnection {
    conn: AsyncPgConnection,
    opened_at: Instant,
    /// When the connection was returned to the pool, or last answered a test.
    answered_at: Instant,
    /// Whether the connection is being tested, or a test was interrupted.
    is_asked: bool,
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
    pub(super) fn new(target: Target, doubts: Doubts, answer_timeout: Duration) -> Self {
        Self { target, doubts, answer_timeout }
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = PooledPgConnection;
    type Error = BoxError;

    async fn connect(&self) -> Result<PooledPgConnection, BoxError> {
        let opened_at = Instant::now();
        let conn = self.target.connect().await?;
        Ok(PooledPgConnection { conn, opened_at, answered_at: Instant::now(), is_asked: false })
    }

    async fn is_valid(&self, pooled: &mut PooledPgConnection) -> Result<(), BoxError> {
        let DoubtTimes { useless, doubtful, .. } = self.doubts.times();
        if pooled.conn.is_broken() {
            return Err("the server has closed the connection".into());
        }
        if useless.is_some_and(|at| pooled.opened_at <= at) {
            return Err("the server of this connection cannot be used any more".into());
        }
        if doubtful.is_none_or(|at| pooled.answered_at > at) {
            return Ok(());
        }
        let asked_at = Instant::now();
        // A checkout that times out drops this future. The flag then stays set, and the pool discards the connection.
        pooled.is_asked = true;
        match timeout(self.answer_timeout, pooled.conn.batch_execute("SELECT 1")).await {
            Ok(answer) => answer?,
            Err(_) => {
                self.doubts.record_silence(asked_at);
                return Err("the server of this connection does not answer".into());
            }
        }
        pooled.is_asked = false;
        self.doubts.record_answer();
        pooled.answered_at = Instant::now();
        Ok(())
    }

    fn has_broken(&self, pooled: &mut PooledPgConnection) -> bool {
        pooled.answered_at = Instant::now();
        pooled.is_asked || std::thread::panicking() || pooled.conn.is_broken()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_useless_only_after_a_second_one_is_silent() {
        let doubts = Doubts::default();
        let later = || Instant::now() + Duration::from_secs(60);
        let begun = Instant::now();
        while Instant::now() == begun {}
        doubts.record_silence(begun);
        doubts.record_silence(begun);
        assert_eq!(doubts.times().useless, None, "asked at the same time");
        doubts.record_answer();
        doubts.record_silence(later());
        assert_eq!(doubts.times().useless, None, "another one has answered");
        doubts.ask_if_silent_since(later());
        doubts.record_silence(later());
        assert_eq!(doubts.times().useless, None, "another one was used");
        let second = later();
        doubts.record_silence(second);
        assert_eq!(doubts.times().useless, Some(second));
        doubts.record_silence(later());
        assert_eq!(doubts.times().useless, Some(second), "the first one of another server");
    }
}
