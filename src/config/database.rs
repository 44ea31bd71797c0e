//! Settings of PostgreSQL.

use anyhow::{anyhow, bail};
use clap::Args;
use secrecy::SecretString;

use super::{
    postgres::PostgresOptions,
    postgres_url::{decode, parameters},
    value::{Setting, given, password, port, secret, setting},
};

const DEFAULT_PORT: u16 = 5432;

/// The address of PostgreSQL, and how to connect.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL settings")]
pub struct Database {
    /// PostgreSQL connection URL, with the parameters of libpq. Overrides the POSTGRES_* settings. `sslmode` is prefer by
    /// default; production should have verify-full. `target_session_attrs` is read-write by default: if the URL lists several
    /// servers, only a server that accepts writes is used.
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    pub database_url: Option<SecretString>,
    /// PostgreSQL connection URL for migrations, if DATABASE_URL leads to a pooler such as PgBouncer: the URL of the same
    /// database without the pooler.
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    pub database_direct_url: Option<SecretString>,
    /// PostgreSQL host, if there is no DATABASE_URL. A path is the directory of its socket.
    #[arg(long, env, value_name = "HOST")]
    pub postgres_server: Option<String>,
    /// PostgreSQL port, if there is no DATABASE_URL.
    #[arg(long, env, default_value = "5432", value_name = "PORT", value_parser = setting("POSTGRES_PORT", port))]
    pub postgres_port: Setting<u16>,
    /// PostgreSQL user.
    #[arg(long, env, default_value = "postgres", value_name = "USER")]
    pub postgres_user: String,
    /// Password of the PostgreSQL user.
    #[arg(long, env, hide_env_values = true, value_name = "PASSWORD")]
    pub postgres_password: Option<SecretString>,
    /// Name of the PostgreSQL database.
    #[arg(long, env, default_value = "app", value_name = "NAME")]
    pub postgres_db: String,
    /// Encryption of the connection, with the values of libpq's `sslmode`: disable, allow, prefer (the default), require,
    /// verify-ca or verify-full.
    #[arg(long, env, value_name = "MODE")]
    pub postgres_sslmode: Option<String>,
    /// PEM file with the certificates that verify-ca and verify-full trust, or `system`. By default, they trust the certificates
    /// of the operating system.
    #[arg(long, env, value_name = "FILE")]
    pub postgres_sslrootcert: Option<String>,
}

/// The number of connections of a process to PostgreSQL, and time limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL settings")]
pub struct DatabasePool {
    /// Maximum number of PostgreSQL connections in the pool of this process. At start and for migrations, a process has one
    /// more.
    #[arg(long, env, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_pool_size: u32,
    /// Milliseconds that a query or a transaction of a request waits for a PostgreSQL connection, and again for the result,
    /// before the request fails with 503.
    #[arg(long, env, default_value_t = 1_400, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub database_timeout_ms: u64,
    /// Seconds that `saas serve` and `saas worker` wait at start while PostgreSQL cannot be reached, accepts no writes or has no
    /// free connection. Then they exit.
    #[arg(long, env, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub database_wait_seconds: u64,
}

impl Database {
    /// Returns the settings for the server with this URL.
    pub fn at(url: SecretString) -> Self {
        Self {
            database_url: Some(url),
            database_direct_url: None,
            postgres_server: None,
            postgres_port: DEFAULT_PORT.into(),
            postgres_user: String::new(),
            postgres_password: None,
            postgres_db: String::new(),
            postgres_sslmode: None,
            postgres_sslrootcert: None,
        }
    }

    /// Returns whether a server is configured, by `DATABASE_URL` or `POSTGRES_SERVER`.
    pub fn is_set(&self) -> bool {
        secret(&self.database_url).is_some() || given(self.postgres_server.as_deref()).is_some()
    }

    /// Returns the first problem of these settings; `None` if they are valid.
    pub fn problem(&self) -> Option<String> {
        self.options().and_then(|_| self.direct_options()).err().map(|error| error.to_string())
    }

    /// Returns the first weakness, with its fix: a connection to another machine that may be unencrypted, or does not verify the
    /// certificate. `None` if there is none. Skips invalid settings.
    pub fn weakness(&self) -> Option<String> {
        let weakness = self.options().ok().and_then(|options| options.weakness("DATABASE_URL"));
        let direct =
            || self.direct_options().ok().and_then(|options| options.weakness("DATABASE_DIRECT_URL"));
        weakness.or_else(direct)
    }

    /// Returns whether migrations have a URL of their own.
    pub fn has_direct_url(&self) -> bool {
        secret(&self.database_direct_url).is_some()
    }

    /// Returns the settings that name the server, the database and the login, for messages.
    pub fn setting_names(&self) -> DatabaseSettingNames {
        match secret(&self.database_url) {
            None if self.is_set() => DatabaseSettingNames {
                server: "POSTGRES_SERVER and POSTGRES_PORT",
                database: "POSTGRES_DB",
                login: "POSTGRES_USER and POSTGRES_PASSWORD",
            },
            _ => DatabaseSettingNames {
                server: "DATABASE_URL",
                database: "DATABASE_URL",
                login: "DATABASE_URL, where a password has %40 for @, %3A for :, %2F for /, %3F for ? and %25 for %",
            },
        }
    }

    /// Same as [`Self::setting_names`], but for the connection of migrations.
    pub fn direct_setting_names(&self) -> DatabaseSettingNames {
        const DIRECT: &str = "DATABASE_DIRECT_URL";
        match self.has_direct_url() {
            true => DatabaseSettingNames { server: DIRECT, database: DIRECT, login: DIRECT },
            false => self.setting_names(),
        }
    }

    /// Describes the database and its servers, as in `app on db.example.com:5432`. Contains no password, and contains the user
    /// only if the database has the name of the user.
    pub fn location(&self) -> String {
        match self.options() {
            Ok(options) => format!("{} on {}", options.database_name(), options.server_list()),
            Err(_) => "the configured database".into(),
        }
    }

    /// Returns how to connect, from `DATABASE_URL` or the `POSTGRES_*` settings.
    ///
    /// A URL may begin with SQLAlchemy's `postgresql+driver://`, because the environments of FastAPI projects contain such URLs.
    ///
    /// # Errors
    /// If no database is configured, or the settings are invalid. The message has no user and no password.
    pub fn options(&self) -> anyhow::Result<PostgresOptions> {
        if let Some(url) = secret(&self.database_url) {
            return url_options("DATABASE_URL", url);
        }
        let Some(host) = given(self.postgres_server.as_deref()) else {
            bail!(
                "no database is configured: set DATABASE_URL (postgres://user:password@host:5432/name) or \
                 POSTGRES_SERVER, or run `saas dev`, which starts one"
            );
        };
        let parts = [
            ("host", server(host)?),
            ("port", self.postgres_port.get()?.copied().unwrap_or(DEFAULT_PORT).to_string()),
            ("user", self.postgres_user.clone()),
            ("password", password(&self.postgres_password).unwrap_or_default().to_owned()),
            ("dbname", self.postgres_db.clone()),
            ("sslmode", given(self.postgres_sslmode.as_deref()).unwrap_or_default().to_owned()),
            ("sslrootcert", given(self.postgres_sslrootcert.as_deref()).unwrap_or_default().to_owned()),
        ];
        PostgresOptions::parse(&parts.map(|(name, value)| (name.to_owned(), value))).map_err(|problem| {
            let setting = match problem.split(['=', ' ']).next() {
                Some("sslmode") => "POSTGRES_SSLMODE cannot be used",
                Some("sslrootcert") => "POSTGRES_SSLROOTCERT cannot be used",
                _ => "the POSTGRES_* settings are invalid",
            };
            anyhow!("{setting}: {problem}")
        })
    }

    /// Returns how migrations connect: from `DATABASE_DIRECT_URL` or, if it is not set, [`Self::options`].
    ///
    /// # Errors
    /// As [`Self::options`].
    pub fn direct_options(&self) -> anyhow::Result<PostgresOptions> {
        match secret(&self.database_direct_url) {
            Some(url) => url_options("DATABASE_DIRECT_URL", url),
            None => self.options(),
        }
    }
}

/// Parses the URL that the setting `name` has.
///
/// # Errors
/// If the URL is invalid. The message has no user and no password.
fn url_options(name: &str, url: &str) -> anyhow::Result<PostgresOptions> {
    let Some((scheme, rest)) = url.split_once("://") else {
        bail!("{name} is not a URL; write postgres://user:password@host:5432/name");
    };
    if !matches!(scheme.split('+').next(), Some("postgres" | "postgresql")) {
        // A text with other characters may be a part of a password.
        let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let given = if is_scheme { format!(", not {scheme}://") } else { String::new() };
        bail!("{name} must begin with postgres://{given}");
    }
    let options = parameters(rest).and_then(|parameters| PostgresOptions::parse(&parameters));
    options.map_err(|problem| anyhow!("{name} cannot be read: {problem}"))
}

impl PostgresOptions {
    /// Returns the name of the database. If the options name none, PostgreSQL uses the database with the name of the user.
    pub fn database_name(&self) -> &str {
        let connection = &self.connection;
        connection.get_dbname().or(connection.get_user()).unwrap_or("the default database")
    }

    /// Returns the servers, separated by commas.
    pub fn server_list(&self) -> String {
        self.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Names of settings, for a message about a connection.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseSettingNames {
    pub server: &'static str,
    pub database: &'static str,
    pub login: &'static str,
}

/// Parses `POSTGRES_SERVER`: hosts separated by commas, or the directory of a socket. A host may be percent-encoded or in
/// brackets, because earlier releases built a URL from these settings. Returns the value of the parameter `host` of libpq.
fn server(text: &str) -> anyhow::Result<String> {
    if text.contains("://") || text.contains('@') {
        bail!("POSTGRES_SERVER is not the name of a host: write a URL into DATABASE_URL");
    }
    let hosts = decode(text).map_err(|problem| anyhow!("POSTGRES_SERVER cannot be read: {problem}"))?;
    let host = |host: &str| {
        let host = host.trim().trim_matches(['[', ']']);
        // An IPv6 address has more than one colon.
        match host.split_once(':') {
            Some((name, port)) if !host.starts_with('/') && !port.contains(':') => {
                bail!("POSTGRES_SERVER has the port of a server: write {name}, and {port} into POSTGRES_PORT")
            }
            _ => Ok(host.to_owned()),
        }
    };
    Ok(hosts.split(',').map(host).collect::<anyhow::Result<Vec<_>>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        database: Database,
    }

    fn with(flags: &[&str]) -> Database {
        Settings::parse_from(["test"].iter().chain(flags)).database
    }

    #[test]
    fn the_postgres_settings_name_the_server() {
        let cases: [(&[&str], &str); 7] = [
            (&["--postgres-server=db"], "app on db:5432"),
            (&["--postgres-server=::1", "--postgres-port=7"], "app on [::1]:7"),
            (&["--postgres-server=[::1]"], "app on [::1]:5432"),
            (&["--postgres-server=/run/postgresql"], "app on /run/postgresql/.s.PGSQL.5432"),
            (&["--postgres-server=%2Frun%2Fpostgresql"], "app on /run/postgresql/.s.PGSQL.5432"),
            (&["--postgres-server=a,::1", "--postgres-db=x"], "x on a:5432, [::1]:5432"),
            // The `POSTGRES_*` settings have no effect beside `DATABASE_URL`.
            (&["--database-url=postgres://u@h/d", "--postgres-port=tcp://10.0.0.1:5432"], "d on h:5432"),
        ];
        for (flags, wanted) in cases {
            let database = with(flags);
            assert_eq!(database.location(), wanted, "{flags:?}: {:?}", database.options().err());
        }
    }

    #[test]
    fn the_invalid_setting_is_named_without_the_password() {
        let cases: [(&[&str], &str); 11] = [
            (
                &[
                    "--database-url=postgres://h/d",
                    "--database-direct-url=postgres://u:hunter2@h/d?pgbouncer=true",
                ],
                "DATABASE_DIRECT_URL cannot be read: the parameter pgbouncer",
            ),
            (&["--postgres-server=db", "--postgres-port=tcp://10.0.0.1:5432"], "POSTGRES_PORT is \"tcp://"),
            (&["--postgres-server=db:5433"], "write db, and 5433 into POSTGRES_PORT"),
            (&["--postgres-server=postgres://u:hunter2@db"], "write a URL into DATABASE_URL"),
            (
                &["--postgres-server=db", "--postgres-sslmode=maybe"],
                "POSTGRES_SSLMODE cannot be used: sslmode has an unknown value",
            ),
            (&["--database-url=postgres://u:p@hunter2@h/d"], "write @ as %40"),
            (&["--database-url=postgres://u:p@hunter2/x@h/d"], "write @ as %40"),
            (&["--database-url=postgres://u:p?hunter2@h/d"], "? as %3F"),
            (&["--database-url=postgres://h:hunter2/d"], "/ as %2F"),
            (&["--database-url=u:hunter2://x@h/d"], "must begin with postgres://"),
            (&["--database-url=mysql://u:hunter2@h/d"], "must begin with postgres://, not mysql://"),
        ];
        for (flags, problem) in cases {
            let found = with(flags).problem().unwrap();
            assert!(found.contains(problem) && !found.contains("hunter2"), "{flags:?}: {found}");
        }
    }
}
