//! Opens connections to PostgreSQL, and cancels their statements.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::AsyncPgConnection;
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::{net::UnixStream, time::timeout};
use tokio_postgres::{
    CancelToken, Config, NoTls, Socket,
    config::{ChannelBinding as BindingMode, SslMode, SslNegotiation},
    tls::{ChannelBinding, MakeTlsConnect},
};

use super::{
    connector::{Encrypted, PlainText},
    session::{check_session, kinds_in_order},
    sqlstate::SqlStateStream,
    statement_log::log_statements,
    tls,
};
use crate::{
    config::{PostgresOptions, PostgresServer, SessionAttrs},
    error::BoxError,
    lookups::Lookups,
};

/// Time limit for one attempt to connect to an address: for TCP, TLS, the login and the check of the server together. The
/// parameter `connect_timeout` replaces this limit. The requests that cancel a statement always share this limit.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without an answer after which the next address is tried at the same time (RFC 8305 section 5). It is short, so that with
/// the default of `DATABASE_TIMEOUT_MS`, a request has time for the third server if two do not answer.
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(300);
/// Time limit for looking up the host name if there is only one server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for looking up each host name if there are several servers: a name that cannot be looked up must not hold up the
/// other servers for long.
const SHARED_LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// The address of PostgreSQL and how to connect, parsed from the settings.
#[derive(Clone)]
pub(super) struct Target {
    options: Arc<PostgresOptions>,
    /// The ways to connect over TCP, in the order in which they are tried. `None` is plain text.
    ways: Vec<Option<Encrypted>>,
    /// The address of the newest connection. It is tried first, because a server earlier in the list may be frozen. With
    /// `load_balance_hosts=random`, it is not used.
    last_used: Arc<Mutex<Option<String>>>,
    lookups: Lookups,
}

enum Address {
    Unix(PathBuf),
    Tcp { name: String, address: SocketAddr },
}

impl Target {
    /// Creates the target. Reads the certificates and keys that the connections need: none for Unix sockets or without TLS.
    ///
    /// # Errors
    /// If a needed file cannot be read or is invalid, the certificate and the key of the client do not belong together, or a root
    /// certificate is needed and none is found.
    pub(super) fn new(options: PostgresOptions) -> anyhow::Result<Self> {
        // TLS is used for TCP only, as in libpq.
        let uses_tcp = options.servers.iter().any(|server| matches!(server, PostgresServer::Tcp { .. }));
        let ways = match uses_tcp {
            true => tls::attempts(&options.tls, requires_binding(&options))?,
            false => Vec::new(),
        };
        let (last_used, lookups) = (Arc::default(), Lookups::default());
        Ok(Self { options: options.into(), ways, last_used, lookups })
    }

    /// Opens a connection to the first server that accepts it and is of the kind that `target_session_attrs` asks for. If an
    /// address does not answer within [`NEXT_ADDRESS_DELAY`], the next address is tried at the same time.
    ///
    /// # Errors
    /// If no server can be reached in time, accepts the login and is of the wanted kind. The message has a reason for each
    /// failed attempt.
    pub(super) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let (addresses, mut failures) = self.addresses().await;
        let mut waiting = VecDeque::new();
        for session in kinds_in_order(self.options.session) {
            waiting.extend(addresses.iter().map(|address| (address, session)));
        }
        let mut attempts = FuturesUnordered::new();
        loop {
            if let Some((address, session)) = waiting.pop_front() {
                attempts.push(self.attempt(address, session));
            }
            let ended = match waiting.is_empty() {
                true => attempts.next().await,
                false => match timeout(NEXT_ADDRESS_DELAY, attempts.next()).await {
                    Ok(ended) => ended,
                    Err(_) => continue,
                },
            };
            match ended {
                Some(Ok(conn)) => return Ok(conn),
                Some(Err(failure)) => failures.push(failure),
                None => break,
            }
        }
        Err(ConnectionError::BadConnection(format!(
            "cannot reach PostgreSQL at {} (database {}): {}",
            self.options.server_list(),
            self.options.database_name(),
            self.explain(&failures)
        )))
    }

    /// Opens a connection to one address. The error is the address and the reason.
    async fn attempt(
        &self,
        address: &Address,
        session: SessionAttrs,
    ) -> Result<AsyncPgConnection, (String, String)> {
        // The limit includes the login: a frozen server accepts TCP connections but does not answer.
        let limit = self.options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let failure = match timeout(limit, self.connect_to(address, session)).await {
            Ok(Ok(mut conn)) => {
                log_statements(&mut conn);
                *self.last_used() = Some(address.to_string());
                return Ok(conn);
            }
            Ok(Err(error)) => crate::error::chain(&*error),
            Err(_) => format!("no answer within {:.1} seconds", limit.as_secs_f64()),
        };
        Err((address.to_string(), failure))
    }

    fn last_used(&self) -> MutexGuard<'_, Option<String>> {
        self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the addresses of all servers in the order in which they are tried, and the names that cannot be looked up,
    /// each with the reason.
    async fn addresses(&self) -> (Vec<Address>, Vec<(String, String)>) {
        let servers = &self.options.servers;
        let limit = if servers.len() > 1 { SHARED_LOOKUP_TIMEOUT } else { LOOKUP_TIMEOUT };
        let lookups = servers.iter().map(|server| timeout(limit, look_up(&self.lookups, server)));
        let (mut addresses, mut failures) = (Vec::new(), Vec::new());
        for (server, found) in servers.iter().zip(join_all(lookups).await) {
            match found {
                Ok(Ok(found)) => addresses.extend(found),
                Ok(Err(error)) => failures.push((server.to_string(), error.to_string())),
                Err(_) => failures.push((server.to_string(), "the look-up of the name timed out".into())),
            }
        }
        if self.options.random_order {
            addresses.sort_by_cached_key(|_| uuid::Uuid::new_v4());
        } else {
            let first = self.last_used().clone();
            addresses.sort_by_cached_key(|address| first.as_ref() != Some(&address.to_string()));
        }
        (addresses, failures)
    }

    fn explain(&self, failures: &[(String, String)]) -> String {
        let text = match failures {
            [(_, failure)] => failure.clone(),
            _ => failures.iter().map(|(place, why)| format!("{place}: {why}")).collect::<Vec<_>>().join("; "),
        };
        match requires_binding(&self.options) && (text.contains("TLS") || text.contains("channel binding")) {
            true => format!("{text} (channel_binding=require needs TLS and a SCRAM password)"),
            false => text,
        }
    }

    async fn connect_to(
        &self,
        address: &Address,
        session: SessionAttrs,
    ) -> Result<AsyncPgConnection, BoxError> {
        let mut config = self.options.connection.clone();
        match address {
            Address::Unix(path) => {
                let stream =
                    SqlStateStream::new(UnixStream::connect(path).await?, |_| ChannelBinding::none());
                config.ssl_mode(SslMode::Disable);
                let (client, mut connection) = config.connect_raw(stream, NoTls).await?;
                check_session(&client, &mut connection, session).await?;
                // The task ends when the client is dropped or the connection fails. The requests of the client then fail.
                tokio::spawn(async move { connection.await.ok() });
                Ok(AsyncPgConnection::try_from(client).await?)
            }
            Address::Tcp { name, address } => {
                config.host(name).hostaddr(address.ip()).port(address.port());
                config.ssl_mode(SslMode::Require);
                let mut result = Err("no way to connect is configured".into());
                for way in &self.ways {
                    result = self.connect_by(way.as_ref(), config.clone(), session).await;
                    if !result.as_ref().is_err_and(is_about_encryption) {
                        break;
                    }
                }
                result
            }
        }
    }

    async fn connect_by(
        &self,
        way: Option<&Encrypted>,
        mut config: Config,
        session: SessionAttrs,
    ) -> Result<AsyncPgConnection, BoxError> {
        // With direct negotiation, the connector gets the TCP stream before a byte is sent. `PlainText` needs that too.
        if way.is_none() || self.options.tls.direct {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        match way {
            Some(tls) => open(&config, tls.clone(), session).await,
            None => open(&config, PlainText, session).await,
        }
    }

    /// Asks the server to cancel the current statement of a connection. If this fails, the statement continues.
    pub(super) async fn cancel(&self, token: CancelToken) {
        let cancelling = async {
            // TLS first: a proxy or pooler that requires TLS drops a request in plain text, without an error.
            for tls in self.ways.iter().flatten() {
                if token.cancel_query(tls.clone()).await.is_ok() {
                    return;
                }
            }
            if self.ways.iter().any(Option::is_none) && token.cancel_query(PlainText).await.is_ok() {
                return;
            }
            // The token does not contain the path of its Unix socket, so the request goes to all Unix sockets. A server ignores
            // the token of another server.
            for server in &self.options.servers {
                if let PostgresServer::Unix(path) = server
                    && let Ok(stream) = UnixStream::connect(path).await
                {
                    let _ = token.cancel_query_raw(stream, NoTls).await;
                }
            }
        };
        let _ = timeout(CONNECT_TIMEOUT, cancelling).await;
    }
}

/// Connects over TCP.
async fn open<T>(config: &Config, connector: T, session: SessionAttrs) -> Result<AsyncPgConnection, BoxError>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection) = config.connect(connector).await?;
    check_session(&client, &mut connection, session).await?;
    Ok(AsyncPgConnection::try_from_client_and_connection(client, connection).await?)
}

async fn look_up(lookups: &Lookups, server: &PostgresServer) -> io::Result<Vec<Address>> {
    let (name, port) = match server {
        PostgresServer::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
        PostgresServer::Tcp { name, address: Some(ip), port } => {
            return Ok(vec![Address::Tcp { name: name.clone(), address: SocketAddr::new(*ip, *port) }]);
        }
        PostgresServer::Tcp { name, address: None, port } => (name, *port),
    };
    let found = lookups.look_up(name, port).await?.into_iter();
    let list: Vec<_> = found.map(|address| Address::Tcp { name: name.clone(), address }).collect();
    if list.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(list) }
}

/// Returns whether connections without channel binding are refused (`channel_binding=require`). This includes connections in
/// plain text, which have no channel binding.
fn requires_binding(options: &PostgresOptions) -> bool {
    options.connection.get_channel_binding() == BindingMode::Require
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "{address}"),
        }
    }
}

/// Returns whether the next way to connect, with TLS instead of plain text or the reverse, may work after this error: it is an
/// error of tokio-postgres without a SQLSTATE, as after a failed handshake, or the server refused the login (SQLSTATE class
/// 28). Other errors with a SQLSTATE, such as those of a server that is restarting or full, usually occur with both ways.
fn is_about_encryption(error: &BoxError) -> bool {
    let code = error.downcast_ref::<tokio_postgres::Error>().map(|error| error.code());
    code.is_some_and(|code| code.is_none_or(|code| code.code().starts_with("28")))
}
