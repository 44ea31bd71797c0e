//! Opens connections to PostgreSQL, and cancels their statements.

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

/// Time limit for opening a connection, including TLS and login.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// TCP keepalive: the kernel closes an idle connection about 30 seconds after the server became unreachable.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// The address of PostgreSQL and how to connect, parsed from the settings.
#[derive(Clone)]
pub(super) struct Target {
    config: tokio_postgres::Config,
    /// The ways to connect, in the order in which they are tried; `None` is plain text.
    attempts: Vec<Option<tls::Connector>>,
}

impl Target {
    /// Parses the settings.
    ///
    /// # Errors
    /// If the settings name no database or are invalid.
    pub(super) fn new(settings: &Database) -> anyhow::Result<Self> {
        let url = settings.url()?;
        let (url, tls) = tls::TlsOptions::split_from(url.expose_secret())?;
        // The parser's error names the invalid part and does not contain the URL, which contains the password.
        let mut config = tokio_postgres::Config::from_str(&url)
            .context("DATABASE_URL cannot be read; write postgres://user:password@host:5432/name")?;
        config
            .application_name("saas")
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        // TLS is used for TCP only, as in libpq.
        let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let attempts = if local { vec![None] } else { tls.attempts()? };
        config.ssl_mode(if tls.mode == tls::Mode::Prefer { SslMode::Prefer } else { SslMode::Require });
        Ok(Self { config, attempts })
    }

    /// Opens a connection within [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// If the server cannot be reached or refuses the login.
    pub(super) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let connecting = async {
            let mut result = Err("no way to connect is configured".into());
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
        // The limit includes the login: a frozen server accepts TCP connections but does not answer.
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let connected = connected.unwrap_or_else(|_| {
            Err(format!("no answer within {} seconds", CONNECT_TIMEOUT.as_secs()).into())
        });
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

    /// Asks the server to cancel the current statement of a connection. If this fails, the statement runs to its end.
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

/// Opens a connection to PostgreSQL outside the pool.
///
/// # Errors
/// If the settings are invalid, or the server cannot be reached or refuses the login.
pub async fn connect(settings: &Database) -> anyhow::Result<AsyncPgConnection> {
    Target::new(settings)?.connect().await.context("cannot connect to PostgreSQL")
}
