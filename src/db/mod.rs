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
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection, pooled_connection::PoolableConnection};
use secrecy::ExposeSecret;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use crate::{
    config::Database,
    error::{BoxError, Error, Result},
};

/// A connection idle for longer is asked whether it still lives before it is handed out.
const TRUST_IDLE: Duration = Duration::from_secs(1);
/// How long making a connection may take; nobody waits for it longer than for a checkout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server ends a statement that runs longer, so that an abandoned one does not burden it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool of connections to PostgreSQL; a clone shares it.
#[derive(Clone)]
pub struct Db {
    pool: bb8::Pool<Manager>,
    timeout: Duration,
}

pub type Guard<'a> = bb8::PooledConnection<'a, Manager>;

impl Db {
    /// A pool that connects when it is first used.
    ///
    /// # Errors
    /// When the settings name no database or cannot be read; never because the server is away.
    pub fn new(settings: &Database) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(settings.database_timeout_ms);
        let pool = bb8::Pool::builder()
            .max_size(settings.database_pool_size)
            .connection_timeout(timeout)
            .idle_timeout(Some(Duration::from_secs(600)))
            .max_lifetime(Some(Duration::from_secs(1_800)))
            .test_on_check_out(true)
            .error_sink(Box::new(LogErrors))
            .build_unchecked(Manager::new(settings)?);
        Ok(Self { pool, timeout })
    }

    /// Does something with a connection, for a client that waits.
    ///
    /// # Errors
    /// What `work` answers; [`Error::Unavailable`] when no connection is free or can be made in time, or when the
    /// database falls silent. The connection is then thrown away, since it is still busy; a transaction on it is
    /// rolled back.
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>) -> Result<T> {
        let mut conn = self.get().await?;
        match tokio::time::timeout(self.timeout, work(&mut conn)).await {
            Ok(result) => result,
            Err(_) => {
                conn.closed.store(true, Ordering::Release);
                Err(Error::unavailable("Database", "it does not answer in time"))
            }
        }
    }

    /// A connection to keep for longer, as jobs do.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when none is free or can be made in time.
    pub async fn get(&self) -> Result<Guard<'_>> {
        self.pool.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => Error::unavailable("Database", error),
            bb8::RunError::TimedOut => Error::unavailable(
                "Database",
                "no connection could be had in time: it is away or the pool is exhausted",
            ),
        })
    }
}

/// The pool retries by itself; why it has to is worth one line, not one per attempt.
#[derive(Debug, Clone)]
struct LogErrors;

impl bb8::ErrorSink<BoxError> for LogErrors {
    fn sink(&self, error: BoxError) {
        tracing::debug!(error = crate::telemetry::chain(&*error), "database connection failed");
    }
    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<BoxError>> {
        Box::new(self.clone())
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
        config.connect_timeout(timeout.max(CONNECT_TIMEOUT));
        config.application_name("saas");
        let options = config.get_options().unwrap_or_default();
        // A value that the user set in the URL comes later and so wins.
        config.options(format!("-c statement_timeout={} {options}", STATEMENT_TIMEOUT.as_millis()));
        let tls = mode.connector()?;
        config.ssl_mode(match tls {
            Some(_) => tokio_postgres::config::SslMode::Require,
            None => tokio_postgres::config::SslMode::Disable,
        });
        Ok(Self { config, tls, ping_timeout: timeout / 2 })
    }

    async fn establish(&self) -> Result<Connection, BoxError> {
        match &self.tls {
            Some(tls) => self.establish_with(tls.clone()).await,
            None => self.establish_with(tokio_postgres::NoTls).await,
        }
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
        let inner = AsyncPgConnection::try_from(client).await?;
        Ok(Connection { inner, closed, last_used: Instant::now() })
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
    /// The connection alone.
    pub fn into_inner(self) -> AsyncPgConnection {
        self.inner
    }
}
