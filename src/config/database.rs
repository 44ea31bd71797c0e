//! Settings of PostgreSQL.

use anyhow::{anyhow, bail};
use clap::Args;
use secrecy::SecretString;

use super::{
    postgres::PostgresOptions,
    postgres_url::{decode, parameters},
    value::{given, secret},
};

/// Where PostgreSQL is, and how long to wait for it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL settings")]
pub struct Database {
    /// PostgreSQL connection URL, with the parameters of libpq. Overrides the POSTGRES_* settings. `sslmode` is prefer by
    /// default; production should have verify-full. `target_session_attrs` is read-write by default: only a server that
    /// accepts writes is used, also if the URL lists several.
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    pub database_url: Option<SecretString>,
    /// PostgreSQL host, if there is no DATABASE_URL. A path is the directory of its socket.
    #[arg(long, env, value_name = "HOST")]
    pub postgres_server: Option<String>,
    /// PostgreSQL port.
    #[arg(long, env, default_value_t = 5432, value_name = "PORT")]
    pub postgres_port: u16,
    /// PostgreSQL user.
    #[arg(long, env, default_value = "postgres", value_name = "USER")]
    pub postgres_user: String,
    /// Password of the PostgreSQL user.
    #[arg(long, env, hide_env_values = true, value_name = "PASSWORD")]
    pub postgres_password: Option<SecretString>,
    /// Name of the PostgreSQL database.
    #[arg(long, env, default_value = "app", value_name = "NAME")]
    pub postgres_db: String,
    /// Encryption of the connection, as `sslmode` of libpq: disable, allow, prefer (the default), require, verify-ca or
    /// verify-full.
    #[arg(long, env, value_name = "MODE")]
    pub postgres_sslmode: Option<String>,
    /// PEM file with the certificates that verify-ca and verify-full trust, or `system`. The default is those of the
    /// operating system.
    #[arg(long, env, value_name = "FILE")]
    pub postgres_sslrootcert: Option<String>,
    /// Maximum number of PostgreSQL connections of this process.
    #[arg(long, env, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_pool_size: u32,
    /// Milliseconds that a request waits for a PostgreSQL connection, and again for the result, before it fails with
    /// 503.
    #[arg(long, env, default_value_t = 1_400, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub database_timeout_ms: u64,
}

impl Database {
    /// Returns the settings for one connection to a private server.
    pub fn at(url: SecretString) -> Self {
        Self {
            database_url: Some(url),
            postgres_server: None,
            postgres_port: 5432,
            postgres_user: String::new(),
            postgres_password: None,
            postgres_db: String::new(),
            postgres_sslmode: None,
            postgres_sslrootcert: None,
            database_pool_size: 1,
            database_timeout_ms: 1_400,
        }
    }

    /// Returns whether a server is configured, by `DATABASE_URL` or `POSTGRES_SERVER`.
    pub fn is_set(&self) -> bool {
        secret(&self.database_url).is_some() || given(self.postgres_server.as_deref()).is_some()
    }

    /// Describes the database without user and password, as in `app on db.example.com:5432`.
    pub fn location(&self) -> String {
        let Ok(options) = self.options() else { return "the configured database".into() };
        let servers: Vec<_> = options.servers.iter().map(ToString::to_string).collect();
        let connection = &options.connection;
        let name = connection.get_dbname().or(connection.get_user()).unwrap_or("the default database");
        format!("{name} on {}", servers.join(", "))
    }

    /// Returns how to connect, from `DATABASE_URL` or the `POSTGRES_*` parts.
    ///
    /// SQLAlchemy's `postgresql+driver://` is accepted, since environments of FastAPI projects use it.
    ///
    /// # Errors
    /// If no database is configured, or the settings are invalid. The message has no user and no password.
    pub fn options(&self) -> anyhow::Result<PostgresOptions> {
        if let Some(url) = secret(&self.database_url) {
            let Some((scheme, rest)) = url.split_once("://") else {
                bail!("DATABASE_URL is not a URL; write postgres://user:password@host:5432/name");
            };
            if !matches!(scheme.split('+').next(), Some("postgres" | "postgresql")) {
                bail!("DATABASE_URL must begin with postgres://, not {scheme}://");
            }
            let options = parameters(rest).and_then(|parameters| PostgresOptions::parse(&parameters));
            return options.map_err(|problem| anyhow!("DATABASE_URL cannot be read: {problem}"));
        }
        let Some(host) = given(self.postgres_server.as_deref()) else {
            bail!(
                "no database is configured: set DATABASE_URL (postgres://user:password@host:5432/name) or \
                 POSTGRES_SERVER, or run `saas dev`, which starts one"
            );
        };
        // Earlier releases made a URL of the parts, so the host could be encoded and in brackets.
        let host = decode(host).map(|host| host.trim_matches(['[', ']']).to_owned());
        let parts = [
            ("host", host.unwrap_or_default()),
            ("port", self.postgres_port.to_string()),
            ("user", self.postgres_user.clone()),
            ("password", secret(&self.postgres_password).unwrap_or_default().to_owned()),
            ("dbname", self.postgres_db.clone()),
            ("sslmode", given(self.postgres_sslmode.as_deref()).unwrap_or_default().to_owned()),
            ("sslrootcert", given(self.postgres_sslrootcert.as_deref()).unwrap_or_default().to_owned()),
        ];
        PostgresOptions::parse(&parts.map(|(name, value)| (name.to_owned(), value)))
            .map_err(|problem| anyhow!("the POSTGRES_* settings are invalid: {problem}"))
    }
}
