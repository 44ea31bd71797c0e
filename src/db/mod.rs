//! The PostgreSQL pool.
//!
//! The pool is bb8 with our own connection manager (`manager`). Once a server is found frozen or accepts no writes, the
//! manager discards all connections that were opened before, without a test of each.
//!
//! No query of the pool relies on a session `SET`, so the pool works behind a transaction pooler such as PgBouncer. The
//! transactions of requests and jobs set their own isolation level and statement timeout. Migrations need a session of their
//! own, which `standalone::connect_directly` opens.

mod channel_binding;
mod committed;
mod connect;
mod connection_budget;
mod connector;
mod error;
mod in_use;
mod manager;
pub mod migrations;
mod org_conn;
mod org_scope;
mod pending;
mod recent;
mod session;
mod sqlstate;
mod standalone;
mod statement_log;
mod tenant_role;
mod tls;
mod tx;

use std::time::{Duration, Instant};

use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager};
use tokio::time::timeout_at;

pub use committed::{CommittedIds, Turn};
pub use connection_budget::ConnectionBudget;
pub use in_use::{KeyInUse, KeysInUse};
pub use org_conn::{OrgConn, OrgTx, enter_org, show_org};
pub use org_scope::{OrgScope, Via};
pub use pending::PendingUses;
pub use recent::RecentReads;
pub use session::accepts_writes;
pub use standalone::{ConnectFailure, connect, connect_directly, pooler_fix, try_connect};
pub use tenant_role::tenant_role_problems;
pub use tx::{Effects, Tx};

use crate::{
    config::{Database, DatabasePool},
    error::{Error, Result},
    pool::LastError,
};
use connect::Target;
use error::{Conflicts, ReadOnlyServer, ends_connection, is_read_only, is_stale_statement};
use manager::{Manager, ServerHealth};

/// Time after which the server cancels a statement of a transaction of [`Db`] or of [`transaction`]. The server then also ends a
/// statement that the process cannot cancel any more, for example because the process was killed.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Minimum idle time after which a connection is closed, so that the server has room for other processes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Age from which a connection is closed once it is idle.
const MAX_LIFETIME: Duration = Duration::from_secs(1_800);
/// A wait of at least this time for a connection is logged at `debug`, unless the wait fails.
const LOGGED_WAIT: Duration = Duration::from_millis(10);

/// A pool of connections to PostgreSQL; a clone shares it.
#[derive(Clone)]
pub struct Db {
    pool: bb8::Pool<Manager>,
    pool_size: u32,
    target: Target,
    health: ServerHealth,
    timeout: Duration,
    last_error: LastError,
}

/// A connection of the pool. When the guard is dropped, the connection returns to the pool, unless it is broken or older than
/// `MAX_LIFETIME`.
pub type Guard<'a> = bb8::PooledConnection<'a, Manager>;

impl Db {
    /// Creates the pool; the first query connects.
    ///
    /// # Errors
    /// If the settings name no database or are invalid, a file that they name cannot be read or is invalid, or a root certificate
    /// is needed and none is found.
    pub fn new(database: &Database, settings: &DatabasePool) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(settings.database_timeout_ms);
        let last_error = LastError::default();
        let (target, health) = (Target::new(database.options()?)?, ServerHealth::default());
        // A request must have time to test two connections in vain and then open a new one, all within `timeout`.
        let manager = Manager::new(target.clone(), health.clone(), timeout / 4);
        let pool = bb8::Pool::builder()
            .max_size(settings.database_pool_size)
            .connection_timeout(timeout)
            .idle_timeout(Some(IDLE_TIMEOUT))
            .max_lifetime(Some(MAX_LIFETIME))
            // Hands out the connection that was returned last, so that unneeded connections reach the idle timeout.
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .test_on_check_out(true)
            .error_sink(Box::new(last_error.clone()))
            .build_unchecked(manager);
        let pool_size = settings.database_pool_size;
        Ok(Self { pool, pool_size, target, health, timeout, last_error })
    }

    /// Returns `DATABASE_TIMEOUT_MS`: how long [`Db::run`] may wait for a connection, and then as long again for its work.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs `work` on a connection. The wait for the connection and `work` may each take [`Self::timeout`].
    ///
    /// If a prepared statement has become stale, as after `ALTER TABLE`, `work` runs again on another connection. After a
    /// deadlock or a serialization failure, `work` runs again too, at most three times. All attempts end within twice the
    /// timeout. So `work` must be one statement, or only read.
    ///
    /// If `work` does not finish in time, the connection is discarded, because it is still busy. The server is asked to cancel
    /// the statement, and rolls an open transaction back.
    ///
    /// # Errors
    /// Those of `work`; [`Error::Unavailable`] if no connection is free or can be opened in time, or `work` does not finish in
    /// time.
    pub async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T> + Clone,
    ) -> Result<T> {
        self.run_for(self.timeout, work).await
    }

    /// Like [`Db::run`], but in a transaction, so `work` may have several statements. `work` may run more than once, so it must
    /// not have an effect outside the transaction.
    ///
    /// # Errors
    /// As [`Db::run`]; [`Error::Unavailable`] or [`Error::Internal`] also if BEGIN or COMMIT fails. If the answer to COMMIT is
    /// lost, the transaction may be committed.
    pub async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T> + Clone,
    ) -> Result<T> {
        self.transaction_for(self.timeout, work).await
    }

    /// Like [`Db::transaction`], but with another timeout for `work`, as in [`Db::run_for`].
    ///
    /// # Errors
    /// As [`Db::transaction`].
    pub async fn transaction_for<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T> + Clone,
    ) -> Result<T> {
        self.run_for(timeout, async |conn| transaction_once(conn, work.clone()).await).await
    }

    /// Like [`Db::run`], but with another timeout for `work`: for jobs, whose queries can take longer than a client waits. The
    /// wait for the connection still takes at most [`Self::timeout`].
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn run_for<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T> + Clone,
    ) -> Result<T> {
        // Bounds all attempts together, of which each waits for a connection and then works.
        let deadline = Instant::now() + 2 * timeout;
        let mut conflicts = Conflicts::default();
        loop {
            let run = self.run_unless_stale(timeout, work.clone());
            let late = |_| Error::unavailable("Database", format!("no answer within {:?}", 2 * timeout));
            match timeout_at(deadline.into(), run).await.map_err(late).flatten() {
                Err(error) if conflicts.allow_retry(&error) => conflicts.pause().await,
                result => return result,
            }
        }
    }

    /// Runs `work`, and runs it again on another connection if its prepared statement is stale, at most `pool_size` times.
    async fn run_unless_stale<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T> + Clone,
    ) -> Result<T> {
        // Each of these attempts discards one stale connection. The last attempt then usually has a new connection.
        for _ in 0..self.pool_size {
            match self.attempt(timeout, work.clone()).await {
                Err(error) if is_stale_statement(&error) => {}
                result => return result,
            }
        }
        self.attempt(timeout, work).await
    }

    async fn attempt<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        // The guard also cancels the statement if this future is dropped, for example because the client disconnects.
        let conn = self.get().await?;
        let mut guard = CancelOnDrop { conn, db: self, started_at: Instant::now(), finished: false };
        match tokio::time::timeout(timeout, work(&mut guard.conn)).await {
            Ok(result) => {
                guard.finished = true;
                if result.as_ref().is_err_and(ends_connection) {
                    discard(&mut guard.conn);
                }
                if result.as_ref().is_err_and(is_read_only) {
                    self.health.discard_opened_until(guard.started_at);
                }
                result
            }
            Err(_) => {
                Err(Error::unavailable("Database", format!("no answer within {} ms", timeout.as_millis())))
            }
        }
    }

    /// Like [`Db::run`], but checks first that the server accepts writes.
    ///
    /// # Errors
    /// As [`Db::run`]; [`Error::Unavailable`] also if the server is a standby or read-only. The pool then discards all
    /// connections that were opened before this check.
    pub async fn run_on_primary<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T> + Clone,
    ) -> Result<T> {
        let checked = async |conn: &mut AsyncPgConnection| {
            if !accepts_writes(conn).await? {
                return Err(Error::unavailable("Database", ReadOnlyServer));
            }
            work.clone()(conn).await
        };
        self.run(checked).await
    }

    /// Takes a connection out of the pool.
    ///
    /// Handlers and jobs must use [`Self::run`] instead: their futures can be dropped during a statement, and the pool
    /// would then hand out a busy connection.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no connection is free or can be opened in time.
    pub async fn get(&self) -> Result<Guard<'_>> {
        let started_at = Instant::now();
        let guard = self.pool.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => Error::unavailable("Database", error),
            bb8::RunError::TimedOut => Error::unavailable("Database", self.last_error.explain()),
        })?;
        let waited = started_at.elapsed();
        if waited >= LOGGED_WAIT {
            tracing::debug!(waited_ms = waited.as_millis() as u64, "waited for a connection of the pool");
        }
        Ok(guard)
    }
}

/// Runs `work` in a transaction on a connection, and commits if it succeeds. For commands and for the start of a server. Runs
/// `work` again after a deadlock or a serialization failure, as [`Db::transaction`] does.
///
/// # Errors
/// Those of `work`, after a rollback; [`Error::Unavailable`] or [`Error::Internal`] if BEGIN or COMMIT fails.
pub async fn transaction<T>(
    conn: &mut AsyncPgConnection,
    work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T> + Clone,
) -> Result<T> {
    let mut conflicts = Conflicts::default();
    loop {
        match transaction_once(conn, work.clone()).await {
            Err(error) if conflicts.allow_retry(&error) => conflicts.pause().await,
            result => return result,
        }
    }
}

async fn transaction_once<T>(
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
            // If the rollback fails, the connection is broken. A pool then discards it.
            let _ = AnsiTransactionManager::rollback_transaction(conn).await;
            Err(error)
        }
    }
}

/// A guard of a connection in use. If it is dropped before `finished` is set, it discards the connection and asks the
/// server to cancel the statement.
struct CancelOnDrop<'a> {
    conn: Guard<'a>,
    db: &'a Db,
    started_at: Instant,
    finished: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        discard(&mut self.conn);
        self.db.health.test_if_silent_since(self.started_at);
        let (target, token) = (self.db.target.clone(), self.conn.cancel_token());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { target.cancel(token).await });
        }
    }
}

/// Marks a connection as broken, so that the pool discards it.
fn discard(conn: &mut AsyncPgConnection) {
    AnsiTransactionManager::transaction_manager_status_mut(conn).set_in_error();
}
