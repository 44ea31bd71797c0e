//! Connections: made, judged, cancelled.

use std::{
    future::poll_fn,
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
use tokio_postgres::{
    AsyncMessage,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_util::task::AbortOnDropHandle;

use super::tls;
use crate::{
    config::Database,
    error::{BoxError, Result},
    pool::TRUST_IDLE,
};

/// How long making a connection may take, TLS and login included; no request waits for it longer than for a
/// checkout.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The server ends a statement that runs longer, so that an abandoned one does not burden it.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Canceller {
    token: tokio_postgres::CancelToken,
    tls: Option<tls::Connector>,
}

impl Canceller {
    pub(super) async fn cancel(self) {
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
    pub(super) closed: Arc<AtomicBool>,
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

/// A connection that listens. What is heard before an answer of the server is handed on before that answer.
pub(super) struct Listening {
    pub(super) conn: AsyncPgConnection,
    _driver: AbortOnDropHandle<()>,
}

fn set_statement_timeout() -> String {
    format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis())
}

/// Makes connections for the pool and judges which are fit for use.
pub struct Manager {
    config: tokio_postgres::Config,
    tls: Option<tls::Connector>,
    /// How long an idle connection may take to say that it lives.
    ping_timeout: Duration,
}

impl Manager {
    pub(super) fn new(settings: &Database) -> anyhow::Result<Self> {
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

    pub(super) async fn establish(&self) -> Result<Connection, BoxError> {
        let connecting = async {
            match &self.tls {
                Some(tls) => self.establish_with(tls.clone()).await,
                None => self.establish_with(tokio_postgres::NoTls).await,
            }
        };
        // All of it: a server that is frozen takes connections and says nothing.
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| "the server does not answer")?
    }

    /// Listens on a channel (LISTEN) and hands on what is heard there, until what it returns is dropped.
    pub(super) async fn listen(
        &self,
        channel: &str,
        heard: impl FnMut(&str) + Send + 'static,
    ) -> Result<Listening, BoxError> {
        let connecting = async {
            match &self.tls {
                Some(tls) => self.listen_with(tls.clone(), heard).await,
                None => self.listen_with(tokio_postgres::NoTls, heard).await,
            }
        };
        let listening = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| "the server does not answer")??;
        (&listening.conn).batch_execute(&format!("{}; LISTEN {channel}", set_statement_timeout())).await?;
        Ok(listening)
    }

    async fn listen_with<T>(
        &self,
        tls: T,
        mut heard: impl FnMut(&str) + Send + 'static,
    ) -> Result<Listening, BoxError>
    where
        T: MakeTlsConnect<tokio_postgres::Socket>,
        T::Stream: Send + 'static,
    {
        let mut config = self.config.clone();
        config.application_name("saas listener");
        let (client, mut connection) = config.connect(tls).await?;
        let driver = async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    heard(notification.payload());
                }
            }
        };
        let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Listening { conn: AsyncPgConnection::try_from(client).await?, _driver })
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
        inner.batch_execute(&set_statement_timeout()).await?;
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
    pub(super) fn canceller(&self) -> Canceller {
        Canceller { token: self.inner.cancel_token(), tls: self.tls.clone() }
    }

    /// The connection alone.
    pub fn into_inner(self) -> AsyncPgConnection {
        self.inner
    }
}
