//! Every setting, once: its environment name, flag, default and help.
//!
//! A command flattens the groups it reads, so its `--help` lists exactly those. Values come from a flag, else
//! the environment, else `.env`, else the default. An empty value counts as not set.

mod check;
mod value;

use std::{net::IpAddr, path::PathBuf};

use clap::{ArgAction, Args, ValueEnum, builder::BoolishValueParser};
use secrecy::SecretString;

pub use value::secret;

/// The password that the development admin gets; refused in production.
pub const DEFAULT_ADMIN_PASSWORD: &str = "changethis123";
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Human,
}

/// What every command reads.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "General settings")]
pub struct Core {
    /// Name of the product, in health answers, the API document and mails.
    #[arg(long, env, default_value = "saas", value_name = "NAME")]
    pub project_name: String,
    /// Development mode: readable logs, relaxed checks. Never in production.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub debug: bool,
    /// What to log: error, warn, info, debug, trace, or filters such as info,saas::queue=debug.
    #[arg(long, env, default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// Shape of log lines; json unless DEBUG is on.
    #[arg(long, env, value_enum)]
    pub log_format: Option<LogFormat>,
}

/// Where PostgreSQL is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL settings")]
pub struct Database {
    /// Connection URL; wins over the POSTGRES_* parts. `?sslmode=` takes disable, require (encrypted) and
    /// verify-full (the certificate is checked).
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    pub database_url: Option<SecretString>,
    /// Host, where no DATABASE_URL is given.
    #[arg(long, env, value_name = "HOST")]
    pub postgres_server: Option<String>,
    #[arg(long, env, default_value_t = 5432, value_name = "PORT", help = "Port")]
    pub postgres_port: u16,
    #[arg(long, env, default_value = "postgres", value_name = "USER", help = "User")]
    pub postgres_user: String,
    #[arg(long, env, hide_env_values = true, value_name = "PASSWORD", help = "Password")]
    pub postgres_password: Option<SecretString>,
    #[arg(long, env, default_value = "app", value_name = "NAME", help = "Database name")]
    pub postgres_db: String,
    /// Connections kept by this process.
    #[arg(long, env, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub database_pool_size: u32,
    /// Milliseconds that a request waits for a connection, and again for its answer, before it is refused with
    /// 503.
    #[arg(long, env, default_value_t = 1_400, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub database_timeout_ms: u64,
}

/// Where Redis is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Redis settings")]
pub struct Redis {
    /// Connection URL (redis:// or, with TLS, rediss://); wins over the REDIS_* parts.
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<SecretString>,
    /// Host, where no REDIS_URL is given; localhost unless said.
    #[arg(long, env, value_name = "HOST")]
    pub redis_host: Option<String>,
    #[arg(long, env, default_value_t = 6379, value_name = "PORT", help = "Port")]
    pub redis_port: u16,
    #[arg(long, env, default_value_t = 0, value_name = "N", help = "Database number")]
    pub redis_db: u8,
    /// Prefix of every key; `{rq}` with Redis Cluster.
    #[arg(long, env, default_value = "rq", value_name = "PREFIX")]
    pub queue_prefix: String,
    /// Milliseconds that a request waits for a connection, and again for each of two tries, before it is refused
    /// with 503.
    #[arg(long, env, default_value_t = 900, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub redis_timeout_ms: u64,
}

/// Tokens, passwords and the first admin.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Account settings")]
pub struct Auth {
    /// Signs access tokens; at least 32 bytes. Make one with `saas doctor --generate-secret`.
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    pub secret_key: Option<SecretString>,
    /// The key before the last change: still accepted for tokens, so that a rotation logs nobody out.
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    pub secret_key_previous: Option<SecretString>,
    /// Life of an access token, in minutes.
    #[arg(long, env, default_value_t = 30, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=527_040))]
    pub access_token_expire_minutes: u32,
    /// Encrypts the secrets of two-factor authentication; at least 32 bytes, and not SECRET_KEY. Without it nobody
    /// can turn a second factor on.
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    pub two_factor_key: Option<SecretString>,
    /// The key before the last change: what it has encrypted can still be read.
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    pub two_factor_key_previous: Option<SecretString>,
    /// Admins may use what is for admins only after signing in with a second factor.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub require_admin_two_factor: bool,
    /// Users can sign in only once they have confirmed their address.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub require_verified_email: bool,
    /// Days between somebody deleting their account and its being erased; signing in keeps it.
    #[arg(long, env, default_value_t = 14, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub account_deletion_grace_days: u32,
    /// Milliseconds after which a change of a user or a session is known to every replica, at the latest: so long a
    /// process answers from what it has read. 0 reads for each request.
    #[arg(long, env, default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub identity_cache_ms: u64,
    /// Days that the audit trail is kept.
    #[arg(long, env, default_value_t = 365, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub audit_retention_days: u32,
    #[command(flatten)]
    pub hashing: Hashing,
    #[command(flatten)]
    pub admin: FirstAdmin,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Account settings")]
pub struct Hashing {
    /// Work factor of password hashes; each step doubles the time.
    #[arg(long, env, default_value_t = 12, value_name = "COST", value_parser = clap::value_parser!(u32).range(4..=20))]
    pub bcrypt_cost: u32,
    /// Allow a BCRYPT_COST below 10 without DEBUG; for tests of a release binary only.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub allow_weak_hashes: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Account settings")]
pub struct FirstAdmin {
    /// Address of the admin that is made where there is none yet.
    #[arg(long, env, default_value = "admin@example.com", value_name = "EMAIL")]
    pub first_superuser_email: String,
    /// Password of that admin. The default is for development; production refuses it.
    #[arg(long, env, hide_env_values = true, hide_default_value = true,
        default_value = DEFAULT_ADMIN_PASSWORD, value_name = "PASSWORD")]
    pub first_superuser_password: SecretString,
}

/// How mail leaves.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mail settings")]
pub struct Mail {
    /// SMTP server, as smtp://user:password@host:587?tls=required or smtps://user:password@host:465. Without
    /// it mails are logged as one line and, with DEBUG on, kept as .eml files under `.saas/mail`.
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<SecretString>,
    /// Sender of every mail, as `Name <address>` or an address.
    #[arg(long, env, default_value = "saas <noreply@example.com>", value_name = "ADDRESS")]
    pub mail_from: String,
    /// Where mails are kept while there is no SMTP_URL and DEBUG is on.
    #[arg(long, env, default_value = ".saas/mail", value_name = "DIR")]
    pub mail_dir: PathBuf,
    /// The address at which clients reach the API, such as https://api.example.com. Links in mails lead to its own
    /// pages, where no FRONTEND_URL is given.
    #[arg(long, env, value_name = "URL")]
    pub public_url: Option<String>,
    /// The front end whose pages verify-email, confirm-email, reset-password and accept-invite the links in mails
    /// lead to, such as https://app.example.com.
    #[arg(long, env, value_name = "URL")]
    pub frontend_url: Option<String>,
}

/// What the API and the worker have in common.
#[derive(Args, Clone, Debug)]
pub struct Config {
    #[command(flatten)]
    pub core: Core,
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub redis: Redis,
    #[command(flatten)]
    pub auth: Auth,
    #[command(flatten)]
    pub mail: Mail,
}

/// Where the API listens.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP settings")]
pub struct Listen {
    /// Address to listen on; 0.0.0.0 for every interface.
    #[arg(long, env, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env, default_value_t = 8000, value_name = "PORT")]
    pub port: u16,
}

/// How the API presents itself to browsers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP settings")]
pub struct Http {
    /// Origins whose pages may call the API: a JSON list or commas. With DEBUG on and none given,
    /// http://localhost:3000 and http://localhost:5173.
    #[arg(long, env, value_name = "ORIGINS")]
    pub backend_cors_origins: Option<String>,
    /// Proxies in front of this process that add to X-Forwarded-For, each what it sees: the address of the client
    /// is then the one that the outermost of them has added. With 0 the header is not believed.
    #[arg(long, env, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=10))]
    pub trusted_proxies: u8,
    /// Shows captured mails at /dev/mail; what `saas dev` sets.
    #[arg(skip)]
    pub dev_pages: bool,
    /// Connections at once; more wait in the system's queue.
    #[arg(long, env, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Seconds between readiness turning 503 and the last connection being taken, for a load balancer to
    /// notice.
    #[arg(long, env, default_value_t = 0, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=300))]
    pub shutdown_delay: u64,
    /// Seconds that requests under way may take to finish after SIGTERM.
    #[arg(long, env, default_value_t = 25, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub shutdown_timeout: u64,
}

/// How jobs are run.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Worker settings")]
pub struct Worker {
    /// Jobs run at once by this process.
    #[arg(long = "concurrency", env = "WORKER_CONCURRENCY", default_value_t = 10, value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub concurrency: u16,
    /// Seconds without a sign of life after which a worker's jobs go to another one.
    #[arg(long = "lease-seconds", env = "WORKER_LEASE_SECONDS", default_value_t = 30, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease_seconds: u64,
    /// Seconds that running jobs may take to finish after SIGTERM; the rest go back to the queue.
    #[arg(long = "shutdown-grace", env = "WORKER_SHUTDOWN_GRACE", default_value_t = 25, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub shutdown_grace: u64,
}
