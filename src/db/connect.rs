//! Making and cancelling connections to PostgreSQL.

use std::{str::FromStr, time::Duration};

use anyhow::Context;
use diesel::{ConnectionError, ConnectionResult};
use diesel_async::AsyncPgConnection;
use secrecy::ExposeSecret;
use tokio_postgres::{
    CancelToken, NoTls,
    config::{Host, SslMode},
    tls::{MakeTlsConnect, TlsConnect},
};

use super::tls;
use crate::{config::Database, error::BoxError};

/// Making a connection takes no longer, TLS and login included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle connection whose peer has vanished without closing it is closed after about half a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Where PostgreSQL is and how to connect, read from the settings once.
#[derive(Clone)]
pub(super) struct Target {
    config: tokio_postgres::Config,
    /// The ways to connect, tried in turn; `None` is plain text.
    attempts: Vec<Option<tls::Connector>>,
}

impl Target {
    /// # Errors
    /// When the settings name no database or cannot be read.
    pub(super) fn new(settings: &Database) -> anyhow::Result<Self> {
        let url = settings.url()?;
        let (url, tls) = tls::TlsOptions::split_from(url.expose_secret())?;
        // The parser's error names the part that is wrong and never repeats the URL, which has the password.
        let mut config = tokio_postgres::Config::from_str(&url)
            .context("DATABASE_URL cannot be read; write postgres://user:password@host:5432/name")?;
        config
            .application_name("saas")
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        // As libpq does, TLS is for TCP only.
        let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let attempts = if local { vec![None] } else { tls.attempts()? };
        config.ssl_mode(if tls.mode == tls::Mode::Prefer { SslMode::Prefer } else { SslMode::Require });
        Ok(Self { config, attempts })
    }

    /// # Errors
    /// When the server cannot be reached or refuses the login.
    pub(super) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let connecting = async {
            let mut result = Err("there is no way to connect".into());
            for tls in &self.attempts {
                result = match tls {
                    Some(tls) => self.connect_with(&self.config, tls.clone()).await,
                    None => self.connect_with(self.config.clone().ssl_mode(SslMode::Disable), NoTls).await,
                };
                if result.is_ok() {
                    break;
                }
            }
            result
        };
        // All of it: a server that is frozen accepts connections and does not answer.
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err("the server does not answer".into()));
        connected.map_err(|error: BoxError| ConnectionError::BadConnection(crate::error::chain(&*error)))
    }

    async fn connect_with<T>(
        &self,
        config: &tokio_postgres::Config,
        tls: T,
    ) -> Result<AsyncPgConnection, BoxError>
    where
        T: MakeTlsConnect<tokio_postgres::Socket>,
        T::Stream: Send + Unpin + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<tokio_postgres::Socket>>::Future: Send,
    {
        let (client, connection) = config.connect(tls).await?;
        Ok(AsyncPgConnection::try_from_client_and_connection(client, connection).await?)
    }

    /// Has the server stop what a connection is busy with. If this fails, the statement runs to its end.
    pub(super) async fn cancel(&self, token: CancelToken) {
        let cancelling = async {
            for tls in &self.attempts {
                let result = match tls {
                    Some(tls) => token.cancel_query(tls.clone()).await,
                    None => token.cancel_query(NoTls).await,
                };
                if result.is_ok() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, cancelling).await;
    }
}

/// One connection to PostgreSQL, outside the pool.
///
/// # Errors
/// When the settings cannot be read or the server cannot be reached.
pub async fn connect(settings: &Database) -> anyhow::Result<AsyncPgConnection> {
    Target::new(settings)?.connect().await.context("cannot connect to PostgreSQL")
}
