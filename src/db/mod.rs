//! The PostgreSQL pool.
//!
//! diesel-async's manager keeps the connections. A checkout costs no round trip: it skips connections that are known to be
//! closed, and TCP keepalive finds those whose peer has vanished. Nothing relies on a session `SET`, so transaction
//! poolers work: each transaction asks for its isolation level and its statement time-out itself.

mod connect;
pub mod migrations;
mod recent;
mod tls;

use std::time::Duration;

use diesel_async::{
    AnsiTransactionManager, AsyncPgConnection, TransactionManager,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, PoolableConnection, RecyclingMethod,
        bb8::{Pool, PooledConnection},
    },
};
use futures_util::FutureExt;

pub use connect::connect;
pub use recent::RecentReads;

use crate::{
    config::Database,
    error::{Error, Result},
    pool::LastError,
};
use connect::Target;

/// The server ends a statement of a transaction that runs longer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_LIFETIME: Duration = Duration::from_secs(1_800);

/// A pool of connections to PostgreSQL; a clone shares it.
#[derive(Clone)]
pub struct Db {
    pool: Pool<AsyncPgConnection>,
    target: Target,
    timeout: Duration,
    last_error: LastError,
}

pub type Guard<'a> = PooledConnection<'a, AsyncPgConnection>;

impl Db {
    /// A pool that connects when it is first used.
    ///
    /// # Errors
    /// When the settings name no database or cannot be read; never because the server is unreachable.
    pub fn new(settings: &Database) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(settings.database_timeout_ms);
        let last_error = LastError::default();
        let target = Target::new(settings)?;
        let pool = bb8::Pool::builder()
            .max_size(settings.database_pool_size)
            .connection_timeout(timeout)
            .idle_timeout(Some(IDLE_TIMEOUT))
            .max_lifetime(Some(MAX_LIFETIME))
            .test_on_check_out(true)
            .error_sink(Box::new(last_error.clone()))
            .build_unchecked(manager(target.clone()));
        Ok(Self { pool, target, timeout, last_error })
    }

    /// How long a client waits for a connection, and again for the answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs `work` on a connection, for a client that waits.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Unavailable`] when no connection is free or can be made in time, or when the database
    /// does not answer in time. The connection is then discarded, since it is still busy, and its statement is
    /// cancelled; a transaction on it is rolled back.
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>) -> Result<T> {
        self.run_for(self.timeout, work).await
    }

    /// As [`Db::run`], in one transaction.
    ///
    /// # Errors
    /// As [`Db::run`]. When the answer to COMMIT is lost, the change may have been made.
    pub async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        self.transaction_for(self.timeout, work).await
    }

    /// As [`Db::transaction`], with a time limit of its own.
    ///
    /// # Errors
    /// As [`Db::transaction`].
    pub async fn transaction_for<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        self.run_for(timeout, async |conn| transaction(conn, work).await).await
    }

    /// As [`Db::run`], with a time limit of its own: for jobs, whose statements may take longer than a client waits.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn run_for<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        let mut lease = Lease { conn: self.get().await?, target: &self.target, finished: false };
        // The lease is also dropped when the client hangs up in the middle, and this future with it.
        match tokio::time::timeout(timeout, work(&mut lease.conn)).await {
            Ok(result) => {
                lease.finished = true;
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

fn manager(target: Target) -> AsyncDieselConnectionManager<AsyncPgConnection> {
    let mut config = ManagerConfig::default();
    config.custom_setup = Box::new(move |_| {
        let target = target.clone();
        async move { target.connect().await }.boxed()
    });
    // A closed connection is known to be closed without a round trip.
    config.recycling_method = RecyclingMethod::CustomFunction(Box::new(|conn: &mut AsyncPgConnection| {
        let usable =
            if conn.is_broken() { Err(diesel::result::Error::BrokenTransactionManager) } else { Ok(()) };
        std::future::ready(usable).boxed()
    }));
    // The URL is the target's, which has parsed it.
    AsyncDieselConnectionManager::new_with_config(String::new(), config)
}

/// Runs `work` in a transaction and commits it if it succeeds.
///
/// # Errors
/// Those of `work`, after a rollback; or when COMMIT fails.
pub async fn transaction<T>(
    conn: &mut AsyncPgConnection,
    work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
) -> Result<T> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {}",
        STATEMENT_TIMEOUT.as_millis()
    );
    AnsiTransactionManager::begin_transaction_sql(conn, &begin).await?;
    match work(conn).await {
        Ok(done) => {
            AnsiTransactionManager::commit_transaction(conn).await?;
            Ok(done)
        }
        Err(error) => {
            // If this fails the connection is broken, and the pool discards it.
            let _ = AnsiTransactionManager::rollback_transaction(conn).await;
            Err(error)
        }
    }
}

/// A connection at work. Dropped before that is finished, it is discarded, and the server cancels its statement.
struct Lease<'a> {
    conn: Guard<'a>,
    target: &'a Target,
    finished: bool,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The pool keeps no broken connection.
        AnsiTransactionManager::transaction_manager_status_mut(&mut *self.conn).set_in_error();
        let (target, token) = (self.target.clone(), self.conn.cancel_token());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { target.cancel(token).await });
        }
    }
}
