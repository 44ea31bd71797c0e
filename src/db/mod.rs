//! The PostgreSQL pool.
//!
//! The pool has its own manager rather than diesel-async's, for three reasons: it sees a connection that the
//! server has closed, it asks after a connection's health only when that has been idle (a round trip on every
//! checkout halves the throughput of small reads), and it speaks TLS.

pub mod migrations;
mod tls;

use std::{
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use diesel_async::{
    AsyncConnection, AsyncPgConnection, SimpleAsyncConnection, TransactionManager,
    pooled_connection::PoolableConnection,
};
use secrecy::ExposeSecret;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use crate::{
    config::Database,
    error::{BoxError, Error, Result},
    pool::{LastError, TRUST_IDLE},
};

/// How long making a connection may take, TLS and login included; no request waits for it longer than for a
/// checkout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server ends a statement that runs longer, so that an abandoned one does not burden it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool of connections to PostgreSQL; a clone shares it.
#[derive(Clone)]
pub struct Db {
    pool: bb8::Pool<Manager>,
    timeout: Duration,
    last_error: LastError,
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
        Ok(Self { pool, timeout, last_error })
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

    /// As [`Db::run`], all of it or nothing.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        self.run(async |conn| transaction(conn, work).await).await
    }

    /// As [`Db::run_for`], all of it or nothing.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn transaction_for<T>(
        &self,
        timeout: Duration,
        work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        self.run_for(timeout, async |conn| transaction(conn, work).await).await
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

struct Canceller {
    token: tokio_postgres::CancelToken,
    tls: Option<tls::Connector>,
}

impl Canceller {
    async fn cancel(self) {
        // Where this fails the statement's own time-out ends it.
        let _ = match self.tls {
            Some(tls) => self.token.cancel_query(tls).await,
            None => self.token.cancel_query(tokio_postgres::NoTls).await,
        };
    }
}

/// One connection to PostgreSQL, outside the pool.
///
/// # Errors
/// When the settings cannot be read or the server cannot be reached.
pub async fn connect(settings: &Database) -> anyhow::Result<Connection> {
    Manager::new(settings)?
        .establish()
        .await
        .map_err(|error| anyhow::anyhow!(error).context("cannot connect to PostgreSQL"))
}

/// A connection, when it was last used, and whether it is of no more use.
pub struct Connection {
    inner: AsyncPgConnection,
    closed: Arc<AtomicBool>,
    last_used: Instant,
    tls: Option<tls::Connector>,
}

impl Deref for Connection {
    type Target = AsyncPgConnection;
    fn deref(&self) -> &AsyncPgConnection {
        &self.inner
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.inner
    }
}

/// Makes connections for the pool and judges which are fit for use.
pub struct Manager {
    config: tokio_postgres::Config,
    tls: Option<tls::Connector>,
    /// How long an idle connection may take to say that it lives.
    ping_timeout: Duration,
}

impl Manager {
    fn new(settings: &Database) -> anyhow::Result<Self> {
        let url = settings.url()?;
        let (url, mode) = tls::split_mode(url.expose_secret())?;
        // The parser's error names the part that is wrong and never repeats the URL, which has the password.
        let mut config = tokio_postgres::Config::from_str(&url)
            .context("DATABASE_URL cannot be read; write postgres://user:password@host:5432/name")?;
        let timeout = Duration::from_millis(settings.database_timeout_ms);
        config.application_name("saas");
        let tls = mode.connector()?;
        config.ssl_mode(match tls {
            Some(_) => tokio_postgres::config::SslMode::Require,
            None => tokio_postgres::config::SslMode::Disable,
        });
        Ok(Self { config, tls, ping_timeout: timeout / 2 })
    }

    async fn establish(&self) -> Result<Connection, BoxError> {
        let connecting = async {
            match &self.tls {
                Some(tls) => self.establish_with(tls.clone()).await,
                None => self.establish_with(tokio_postgres::NoTls).await,
            }
        };
        // All of it: a server that is frozen takes connections and says nothing.
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| "the server does not answer")?
    }

    async fn establish_with<T>(&self, tls: T) -> Result<Connection, BoxError>
    where
        T: MakeTlsConnect<tokio_postgres::Socket>,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<tokio_postgres::Socket>>::Future: Send,
    {
        let (client, driver) = self.config.connect(tls).await?;
        let closed = Arc::new(AtomicBool::new(false));
        let flag = closed.clone();
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = crate::telemetry::chain(&error), "database connection lost");
            }
            flag.store(true, Ordering::Release);
        });
        let mut inner = AsyncPgConnection::try_from(client).await?;
        // Not as a start-up option, which PgBouncer refuses.
        inner.batch_execute(&format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis())).await?;
        Ok(Connection { inner, closed, last_used: Instant::now(), tls: self.tls.clone() })
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Connection;
    type Error = BoxError;

    async fn connect(&self) -> Result<Connection, BoxError> {
        self.establish().await
    }

    async fn is_valid(&self, conn: &mut Connection) -> Result<(), BoxError> {
        if conn.last_used.elapsed() < TRUST_IDLE {
            return Ok(());
        }
        let answer = tokio::time::timeout(self.ping_timeout, conn.inner.batch_execute("")).await;
        answer.map_err(|_| "the database does not answer")??;
        Ok(())
    }

    fn has_broken(&self, conn: &mut Connection) -> bool {
        conn.last_used = Instant::now();
        conn.closed.load(Ordering::Acquire) || std::thread::panicking() || conn.inner.is_broken()
    }
}

impl Connection {
    fn canceller(&self) -> Canceller {
        Canceller { token: self.inner.cancel_token(), tls: self.tls.clone() }
    }

    /// The connection alone.
    pub fn into_inner(self) -> AsyncPgConnection {
        self.inner
    }
}
