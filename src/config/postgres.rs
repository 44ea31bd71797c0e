//! How to connect to PostgreSQL, in the parameters of libpq (PostgreSQL documentation, "Parameter Key Words").
//!
//! The parameters of libpq have the same meaning here. An unsupported parameter is refused: ignoring it could disable a
//! protection. Some defaults differ: for example, the root certificates are those of the operating system, not
//! `~/.postgresql/root.crt`; `target_session_attrs` is `read-write`; `connect_timeout` and the TCP keepalive are shorter. The
//! files of libpq in the home directory and the `PG*` variables are not read.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use tokio_postgres::{Config, config::ChannelBinding};

use super::site::is_local;

/// TCP keepalive: the kernel closes an idle connection about 30 seconds (15 + 3 * 5) after the server became unreachable.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
const DEFAULT_PORT: &str = "5432";
const INVALID_PORT_PROBLEM: &str =
    "a port is not a number from 1 to 65535. In a password, write / as %2F, ? as %3F and @ as %40";

/// The address of PostgreSQL and how to connect.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// At least one server, in the order of the settings.
    pub servers: Vec<PostgresServer>,
    /// Whether to try the servers and their addresses in random order (`load_balance_hosts`).
    pub random_order: bool,
    /// Time limit for connecting to each address. `None` means the default, `CONNECT_TIMEOUT` in `db::connect`.
    pub connect_timeout: Option<Duration>,
    pub session: SessionAttrs,
    pub tls: TlsOptions,
    /// User, password, database, and the parameters without a field here, such as `application_name`. Contains no servers.
    pub connection: Config,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresServer {
    /// The path of a Unix domain socket.
    Unix(PathBuf),
    Tcp {
        /// The host name, which the certificate must contain with `VerifyFull`. If the settings have only an address, that
        /// address.
        name: String,
        /// The value of `hostaddr`. `None` if `name` is looked up.
        address: Option<IpAddr>,
        port: u16,
    },
}

/// A value of `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// A value of `sslmode`, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// Plain text; TLS if the server refuses plain text.
    Allow,
    /// TLS with any certificate; plain text if TLS fails.
    Prefer,
    /// TLS with any certificate.
    Require,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// Same as `VerifyCa`, and the certificate must contain the host name.
    VerifyFull,
}

/// How connections are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    pub mode: SslMode,
    /// PEM file with the trusted authorities; `None` for those of the operating system.
    pub root_certificates: Option<PathBuf>,
    /// PEM files with the certificate of the client and its key. `None` if the client sends no certificate.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Whether TLS begins without a request that the server must accept first (`sslnegotiation=direct`). PostgreSQL 17 or later
    /// supports this.
    pub direct: bool,
    /// Whether the host name is sent unencrypted (`sslsni`).
    pub send_name: bool,
    pub allow_tls12: bool,
    pub allow_tls13: bool,
}

/// The values of the parameters, before [`ParsedParameters::finish`] checks those that depend on each other. `hosts`,
/// `addresses` and `ports` are lists separated by commas, empty if the parameter is missing.
pub(super) struct ParsedParameters {
    pub(super) hosts: String,
    pub(super) addresses: String,
    pub(super) ports: String,
    pub(super) mode: Option<SslMode>,
    /// Whether `sslrootcert` is `system`.
    pub(super) system_roots: bool,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    /// The values of all other parameters. `servers` is empty.
    pub(super) options: PostgresOptions,
}

impl PostgresOptions {
    /// Returns the weakness, with its fix, if a connection to another machine may be unencrypted or does not verify the
    /// certificate. `None` if all servers are local, the certificate is verified, or channel binding is required. `setting` is
    /// the name of the setting with the URL.
    pub(super) fn weakness(&self, setting: &str) -> Option<String> {
        let fix = format!(
            "set sslmode=verify-full in {setting}, or POSTGRES_SSLMODE=verify-full if there is no URL"
        );
        let is_remote = |server: &PostgresServer| match server {
            PostgresServer::Unix(_) => false,
            PostgresServer::Tcp { name, address, .. } => {
                !address.map_or_else(|| is_local(name), |address| address.to_canonical().is_loopback())
            }
        };
        let server = self.servers.iter().find(|server| is_remote(server))?;
        // If channel binding is required, the login fails unless TLS ends at a server that knows the password (RFC 5802
        // section 6).
        let is_bound = self.connection.get_channel_binding() == ChannelBinding::Require;
        match self.tls.mode {
            SslMode::Disable | SslMode::Allow | SslMode::Prefer if !is_bound => {
                Some(format!("connections to PostgreSQL at {server} may be unencrypted: {fix}"))
            }
            SslMode::Require if !is_bound => {
                Some(format!("the certificate of PostgreSQL at {server} is not verified: {fix}"))
            }
            _ => None,
        }
    }
}

impl ParsedParameters {
    /// Returns the default values of all parameters.
    pub(super) fn new() -> Self {
        let mut connection = Config::new();
        connection
            .application_name("saas")
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        let tls = TlsOptions {
            mode: SslMode::Prefer,
            root_certificates: None,
            client_certificate: None,
            direct: false,
            send_name: true,
            allow_tls12: true,
            allow_tls13: true,
        };
        let options = PostgresOptions {
            servers: Vec::new(),
            random_order: false,
            connect_timeout: None,
            session: SessionAttrs::ReadWrite,
            tls,
            connection,
        };
        Self {
            hosts: String::new(),
            addresses: String::new(),
            ports: String::new(),
            mode: None,
            system_roots: false,
            certificate: None,
            key: None,
            options,
        }
    }

    /// Checks the parameters that depend on each other, and returns the options.
    ///
    /// # Errors
    /// If parameters contradict each other, one lacks another that it needs, or the host, the address or the port is not valid.
    pub(super) fn finish(self) -> Result<PostgresOptions, String> {
        let servers = self.servers()?;
        let mut options = PostgresOptions { servers, ..self.options };
        let tls = &mut options.tls;
        if self.system_roots && self.mode.is_some_and(|mode| mode != SslMode::VerifyFull) {
            return Err("sslrootcert=system needs sslmode=verify-full: anyone can get a certificate".into());
        }
        tls.mode = self.mode.unwrap_or(if self.system_roots { SslMode::VerifyFull } else { SslMode::Prefer });
        if tls.root_certificates.is_some() && tls.mode == SslMode::Require {
            tls.mode = SslMode::VerifyCa;
        }
        tls.client_certificate = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("sslcert and sslkey need each other: name both files".into()),
        };
        if tls.direct && tls.mode < SslMode::Require {
            return Err("sslnegotiation=direct needs sslmode=require or stronger".into());
        }
        if !tls.allow_tls12 && !tls.allow_tls13 {
            return Err("ssl_min_protocol_version and ssl_max_protocol_version allow no version".into());
        }
        if tls.mode == SslMode::Disable && options.connection.get_channel_binding() == ChannelBinding::Require
        {
            return Err("channel_binding=require needs TLS, which sslmode=disable turns off".into());
        }
        Ok(options)
    }

    fn servers(&self) -> Result<Vec<PostgresServer>, String> {
        let list = |text: &str| text.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>();
        let (hosts, addresses, ports) = (list(&self.hosts), list(&self.addresses), list(&self.ports));
        let count = match (self.hosts.is_empty(), self.addresses.is_empty()) {
            (true, true) => {
                return Err("there is no host; write postgres://user:password@host:5432/name".into());
            }
            (false, false) if hosts.len() != addresses.len() => {
                return Err("host and hostaddr have different numbers of entries".into());
            }
            (false, _) => hosts.len(),
            (true, false) => addresses.len(),
        };
        if ports.len() > 1 && ports.len() != count {
            return Err("port needs one entry, or as many as there are hosts".into());
        }
        let given = |list: &[String], at: usize| list.get(at).filter(|item| !item.is_empty()).cloned();
        let server = |at: usize| -> Result<PostgresServer, &'static str> {
            let port = given(&ports, if ports.len() == 1 { 0 } else { at });
            let port = port.as_deref().unwrap_or(DEFAULT_PORT).parse::<u16>().ok().filter(|port| *port > 0);
            let port = port.ok_or(INVALID_PORT_PROBLEM)?;
            let address = given(&addresses, at).map(|address| address.parse::<IpAddr>());
            let address =
                address.transpose().map_err(|_| "hostaddr has an entry that is not an IP address")?;
            match (given(&hosts, at), address) {
                (None, None) => Err("a host is empty"),
                (Some(directory), None) if directory.starts_with('/') => {
                    Ok(PostgresServer::Unix(PathBuf::from(directory).join(format!(".s.PGSQL.{port}"))))
                }
                (host, address) => {
                    let name = host.filter(|host| !host.starts_with('/'));
                    let name =
                        name.or_else(|| address.map(|address| address.to_string())).unwrap_or_default();
                    Ok(PostgresServer::Tcp { name, address, port })
                }
            }
        };
        (0..count).map(|at| server(at).map_err(str::to_owned)).collect()
    }
}

impl std::fmt::Display for PostgresServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { name, port, .. } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp { name, port, .. } => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::postgres_url;

    fn parse(url: &str) -> PostgresOptions {
        PostgresOptions::parse(&postgres_url::parameters(url).unwrap()).unwrap()
    }

    #[test]
    fn servers_are_listed_as_libpq_lists_them() {
        let tcp = |name: &str, address: Option<&str>, port| PostgresServer::Tcp {
            name: name.into(),
            address: address.map(|address| address.parse().unwrap()),
            port,
        };
        let unix = |path: &str| PostgresServer::Unix(path.into());
        for (url, expected) in [
            ("h/db", vec![tcp("h", None, 5432)]),
            ("h1,h2:7/db", vec![tcp("h1", None, 5432), tcp("h2", None, 7)]),
            ("[::1]:7/db", vec![tcp("::1", None, 7)]),
            ("/db?hostaddr=::1", vec![tcp("::1", Some("::1"), 5432)]),
            ("h/db?hostaddr=10.0.0.1&port=7", vec![tcp("h", Some("10.0.0.1"), 7)]),
            ("a,b/db?hostaddr=10.0.0.1,", vec![tcp("a", Some("10.0.0.1"), 5432), tcp("b", None, 5432)]),
            ("/db?host=/a,/b&port=1,2", vec![unix("/a/.s.PGSQL.1"), unix("/b/.s.PGSQL.2")]),
            ("%2Fa,h:7/db", vec![unix("/a/.s.PGSQL.5432"), tcp("h", None, 7)]),
            ("h1/db?host=h2", vec![tcp("h2", None, 5432)]),
        ] {
            assert_eq!(parse(url).servers, expected, "{url}");
        }
    }

    #[test]
    fn weak_connections_beyond_this_machine_are_found() {
        let is_weak = |url: &str| parse(url).weakness("DATABASE_URL").is_some();
        for url in [
            "h",
            "db.example.com?sslmode=require",
            "10.0.0.1?sslmode=disable",
            "localhost,h",
            "localhost?hostaddr=10.0.0.1",
        ] {
            assert!(is_weak(url), "{url}");
        }
        for url in [
            "localhost",
            "127.0.0.1?sslmode=disable",
            "[::1]",
            "/db?host=/run/postgresql",
            "h?sslmode=verify-full",
            "h?sslmode=verify-ca",
            "h?sslmode=require&channel_binding=require",
        ] {
            assert!(!is_weak(url), "{url}");
        }
    }
}
