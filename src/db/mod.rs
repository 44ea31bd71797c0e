//! The PostgreSQL pool.
//!
//! The pool has its own manager rather than diesel-async's, for three reasons: it sees a connection that the
//! server has closed, it asks after a connection's health only when that has been idle (a round trip on every
//! checkout halves the throughput of small reads), and it speaks TLS.

mod changes;
mod connection;
mod listener;
pub mod migrations;
mod snapshot;
mod tls;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use diesel_async::{AsyncConnection, AsyncPgConnection, TransactionManager};

pub use changes::{Changes, Row};
pub use connection::{Connection, connect};
pub use listener::check as check_listening;
pub use snapshot::Snapshot;

use crate::{
    config::Database,
    error::{Error, Result},
    pool::LastError,
};
use connection::{CONNECT_TIMEOUT, Canceller, Manager};

/// A pool of connections to PostgreSQL; a clone shares it.
#[derive(Clone)]
pub struct Db {
    pool: bb8::Pool<Manager>,
    timeout: Duration,
    last_error: LastError,
    changes: Changes,
}

pub type Guard<'a> = bb8::PooledConnection<'a, Manager>;

impl Db {
    /// A pool that connects when it is first used.
    ///
    /// # Errors
    /// When the settings name no database or cannot be read; never because the server is away.
    pub fn new(settings: &Database) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(settings.database_timeout_ms);
        let last_error = LastError::default();
        let pool = bb8::Pool::builder()
            .max_size(settings.database_pool_size)
            .connection_timeout(timeout)
            .idle_timeout(Some(Duration::from_secs(600)))
            .max_lifetime(Some(Duration::from_secs(1_800)))
            .test_on_check_out(true)
            .error_sink(Box::new(last_error.clone()))
            .build_unchecked(Manager::new(settings)?);
        Ok(Self { pool, timeout, last_error, changes: Changes::new(Manager::new(settings)?) })
    }

    /// What is heard of rows that change.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Does something with a connection, for a client that waits.
    ///
    /// # Errors
    /// What `work` answers; [`Error::Unavailable`] when no connection is free or can be made in time, or when the
    /// database falls silent. The connection is then thrown away, since it is still busy; a transaction on it is
    /// rolled back.
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>) -> Result<T> {
        self.run_for(self.timeout, work).await
    }

    /// As [`Db::run`], all of it or nothing. Once it has answered, this process caches nothing that it has changed.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        self.transaction_for(self.timeout, work).await
    }

    /// As [`Db::transaction`], with a time of its own.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn transaction_for<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        let done = self.run_for(timeout, async |conn| transaction(conn, work).await).await?;
        self.changes.catch_up().await;
        Ok(done)
    }

    /// As [`Db::run`], with a time of its own: what a job wants, whose statements may take longer than a client
    /// waits.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn run_for<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        let mut conn = self.get().await?;
        // Also when the caller hangs up in the middle, and this future is dropped.
        let abandon = Abandon { closed: conn.closed.clone(), cancel: Some(conn.canceller()) };
        match tokio::time::timeout(timeout, work(&mut conn)).await {
            Ok(result) => {
                abandon.not();
                result
            }
            Err(_) => Err(Error::unavailable("Database", "it does not answer in time")),
        }
    }

    /// A connection to keep. Not for handlers and jobs, which may be dropped in the middle of a statement: the pool
    /// would hand the connection on while it is busy.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when none is free or can be made in time.
    pub async fn get(&self) -> Result<Guard<'_>> {
        self.pool.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => Error::unavailable("Database", error),
            bb8::RunError::TimedOut => Error::unavailable("Database", self.last_error.explain()),
        })
    }
}

/// Does all of it or nothing.
///
/// # Errors
/// What `work` answers, and everything is as before; or when it cannot be committed.
pub async fn transaction<T>(
    conn: &mut AsyncPgConnection,
    work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
) -> Result<T> {
    type Manager = <AsyncPgConnection as AsyncConnection>::TransactionManager;
    Manager::begin_transaction(conn).await?;
    match work(conn).await {
        Ok(done) => {
            Manager::commit_transaction(conn).await?;
            Ok(done)
        }
        Err(error) => {
            // Where this fails the connection is broken, and the pool throws it away.
            let _ = Manager::rollback_transaction(conn).await;
            Err(error)
        }
    }
}

/// Throws a connection away that is still busy, and has the server stop what it is busy with.
struct Abandon {
    closed: Arc<AtomicBool>,
    cancel: Option<Canceller>,
}

impl Abandon {
    fn not(mut self) {
        self.cancel = None;
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            self.closed.store(true, Ordering::Release);
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { tokio::time::timeout(CONNECT_TIMEOUT, cancel.cancel()).await });
            }
        }
    }
}
