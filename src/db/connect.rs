//! Opens connections to PostgreSQL, and cancels their statements.

use std::{path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, bail};
use diesel::{ConnectionError, ConnectionResult, QueryableByName, sql_types::Text};
use diesel_async::AsyncPgConnection;
use secrecy::ExposeSecret;
use tokio::net::UnixStream;
use tokio_postgres::{
    CancelToken, NoTls, SimpleQueryMessage,
    config::{Host, SslMode, SslNegotiation, TargetSessionAttrs},
    tls::ChannelBinding,
};

use super::{
    connector::{Annotated, PlainText},
    sqlstate::SqlStateStream,
    tls,
};
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
    /// The ways to connect, in the order in which they are tried.
    ways: Vec<Way>,
}

#[derive(Clone)]
enum Way {
    Unix(PathBuf),
    Plain,
    Tls(tls::Connector),
}

impl Target {
    /// Parses the settings.
    ///
    /// # Errors
    /// If the settings name no database or are invalid.
    pub(super) fn new(settings: &Database) -> anyhow::Result<Self> {
        let url = settings.url()?;
        let chooses_server = url.expose_secret().contains("target_session_attrs=");
        let (url, tls) = tls::TlsOptions::split_from(url.expose_secret())?;
        // The parser's error names the invalid part and does not contain the URL, which contains the password.
        let mut config = tokio_postgres::Config::from_str(&url)
            .context("DATABASE_URL cannot be read; write postgres://user:password@host:5432/name")?;
        config
            .application_name("saas")
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .ssl_mode(SslMode::Require);
        if !chooses_server {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let ways = match config.get_hosts() {
            // TLS is used for TCP only, as in libpq.
            [Host::Unix(directory)] => vec![Way::Unix(directory.join(format!(".s.PGSQL.{port}")))],
            _ => tls.attempts()?.into_iter().map(|tls| tls.map_or(Way::Plain, Way::Tls)).collect(),
        };
        Ok(Self { config, ways })
    }

    /// Opens a connection within [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// If the server cannot be reached or refuses the login.
    pub(super) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let connecting = async {
            let mut result = Err("no way to connect is configured".into());
            for way in &self.ways {
                result = self.connect_by(way).await;
                if !result.as_ref().is_err_and(is_about_encryption) {
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

    async fn connect_by(&self, way: &Way) -> Result<AsyncPgConnection, BoxError> {
        match way {
            Way::Tls(tls) => {
                let (client, connection) = self.config.connect(Annotated(tls.clone())).await?;
                Ok(AsyncPgConnection::try_from_client_and_connection(client, connection).await?)
            }
            Way::Plain => {
                let (client, connection) = self.plain_config().connect(Annotated(PlainText)).await?;
                Ok(AsyncPgConnection::try_from_client_and_connection(client, connection).await?)
            }
            Way::Unix(path) => {
                let stream =
                    SqlStateStream::new(UnixStream::connect(path).await?, |_| ChannelBinding::none());
                let (client, connection) =
                    self.config.clone().ssl_mode(SslMode::Disable).connect_raw(stream, NoTls).await?;
                // Ends with the client. Its error is the client's too.
                tokio::spawn(async move { connection.await.ok() });
                self.check_writable(&client).await?;
                Ok(AsyncPgConnection::try_from(client).await?)
            }
        }
    }

    /// Checks `target_session_attrs`, as tokio-postgres does for TCP.
    async fn check_writable(&self, client: &tokio_postgres::Client) -> Result<(), BoxError> {
        if self.config.get_target_session_attrs() != TargetSessionAttrs::ReadWrite {
            return Ok(());
        }
        let answer = client.simple_query("SHOW transaction_read_only").await?;
        let is_read_only = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("on"));
        if answer.iter().any(is_read_only) {
            return Err("the server does not accept writes".into());
        }
        Ok(())
    }

    /// Direct negotiation gives the TCP stream to the connector before a byte is sent, also if that encrypts nothing.
    fn plain_config(&self) -> tokio_postgres::Config {
        let mut config = self.config.clone();
        config.ssl_negotiation(SslNegotiation::Direct);
        config
    }

    /// Asks the server to cancel the current statement of a connection. If this fails, the statement runs to its end.
    pub(super) async fn cancel(&self, token: CancelToken) {
        let cancelling = async {
            // TLS first: the server drops a request in plain text for a connection that uses TLS.
            let (encrypted, plain) =
                self.ways.iter().partition::<Vec<_>, _>(|way| matches!(way, Way::Tls(_)));
            for way in encrypted.into_iter().chain(plain) {
                let result = match way {
                    Way::Tls(tls) => token.cancel_query(tls.clone()).await,
                    Way::Plain => token.cancel_query(Annotated(PlainText)).await,
                    Way::Unix(path) => match UnixStream::connect(path).await {
                        Ok(stream) => token.cancel_query_raw(stream, NoTls).await,
                        Err(_) => return,
                    },
                };
                if result.is_ok() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, cancelling).await;
    }
}

/// Returns whether a connection with or without TLS may work where the other failed: the handshake failed, or the server
/// refused the login (SQLSTATE class 28). A server that is restarting or full refuses both, for another reason.
fn is_about_encryption(error: &BoxError) -> bool {
    let code = error.downcast_ref::<tokio_postgres::Error>().map(|error| error.code());
    code.is_some_and(|code| code.is_none_or(|code| code.code().starts_with("28")))
}

/// Opens a connection to PostgreSQL outside the pool, for a command or the start of a server.
///
/// # Errors
/// If the settings are invalid, the server cannot be reached or refuses the login, or the database cannot store all text.
pub async fn connect(settings: &Database) -> anyhow::Result<AsyncPgConnection> {
    use diesel_async::RunQueryDsl;
    let mut conn = Target::new(settings)?.connect().await.context("cannot connect to PostgreSQL")?;
    let setting = diesel::sql_query("SELECT current_setting('server_encoding') AS value");
    let encoding = setting.get_result::<Setting>(&mut conn).await?.value;
    if encoding != "UTF8" {
        bail!(
            "the database has the encoding {encoding}, which cannot store all names and addresses; create one with \
             CREATE DATABASE name ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0, and name it in DATABASE_URL"
        );
    }
    Ok(conn)
}

#[derive(QueryableByName)]
struct Setting {
    #[diesel(sql_type = Text)]
    value: String,
}
