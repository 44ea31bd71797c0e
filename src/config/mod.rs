//! The settings in groups, each setting with its environment variable, flag, default and help.
//!
//! A command flattens the groups that it reads, so its `--help` lists only the settings of these groups. A value comes from
//! the flag, else the environment, else `.env`, else the default. A blank variable counts as not set.
//!
//! `cli::environment` finds the value and removes surrounding space. For a setting with the value name `PASSWORD`, it removes
//! only line ends at the end. A setting with `hide_env_values` is a secret, which may be in a file: `SECRET_KEY_FILE` is the
//! path of the file with `SECRET_KEY`.
//!
//! # Names
//!
//! The name of a setting for a time ends in its unit: `_MS`, `_SECONDS`, `_MINUTES` or `_DAYS`.
//!
//! Names of earlier releases keep working. To rename a setting, add its old environment variable to
//! [`RENAMED_VARIABLES`] and its old flag as `alias` of the new one. If both variables are set, the new one wins.
//!
//! # Types
//!
//! Most settings whose text has a syntax, such as `PUBLIC_URL`, are a [`Setting`] of the parsed type (see `value.rs` and
//! `site.rs`). [`Database::options`] and [`Redis::endpoints`] parse the URLs of PostgreSQL and Redis when they are needed.
//! Start-up reports the problems of these settings and unsafe settings together. Also use a [`Setting`] for a number that has
//! an effect only if another setting is absent, such as `REDIS_PORT`: an invalid number then is an error only if it has an
//! effect.

mod check;
mod database;
mod jobs;
mod key_strength;
mod logs;
mod organizations;
mod postgres;
mod postgres_parameters;
mod postgres_url;
mod rate_limits;
mod redis_options;
mod redis_server;
mod redis_url;
mod site;
mod smtp;
mod two_factor;
mod value;
mod warnings;

use std::{net::IpAddr, path::PathBuf};

use clap::{ArgAction, Args, builder::BoolishValueParser};
use lettre::message::Mailbox;
use secrecy::SecretString;
use url::Url;

pub use database::{Database, DatabasePool, DatabaseSettingNames};
pub use jobs::{UserJobs, Worker, WorkerHealth};
pub use logs::{LogFormat, Logs};
pub use organizations::{Organizations, PersonalOrganizations};
pub use postgres::{PostgresOptions, PostgresServer, SessionAttrs, SslMode, TlsOptions};
pub use rate_limits::RequestLimits;
pub use redis_options::RedisOptions;
pub use redis_server::Redis;
pub use redis_url::{RedisEndpoints, RedisTopology, hash_tag};
pub use site::{Hosts, Origins};
use site::{base_url, hosts, listen_address, origins, public_url};
use smtp::smtp_server;
pub use smtp::{SmtpCredentials, SmtpServer, SmtpTls};
pub use two_factor::{SecondFactor, SecondFactorFor};
pub use value::{Setting, secret};
use value::{mailbox, password, setting};

/// Environment variables of earlier releases, each with its present name.
pub const RENAMED_VARIABLES: &[(&str, &str)] = &[
    ("QUEUE_PREFIX", "REDIS_KEY_PREFIX"),
    ("SHUTDOWN_DELAY", "SHUTDOWN_DELAY_SECONDS"),
    ("SHUTDOWN_TIMEOUT", "SHUTDOWN_TIMEOUT_SECONDS"),
    ("WORKER_SHUTDOWN_GRACE", "WORKER_SHUTDOWN_GRACE_SECONDS"),
];

/// The default password of the first admin in the private database of `saas dev`. This password is public, so it is refused as a
/// new password. Without `DEBUG`, an admin cannot log in with it.
pub const DEFAULT_ADMIN_PASSWORD: &str = "changethis123";
/// Placeholders for a password in the documentation of earlier releases. Users may have copied them together with the commands,
/// so they may be real passwords.
const EXAMPLE_PASSWORDS: [&str; 3] = ["choose one", "and another", "one of your own"];

/// Returns whether a password is public: the default one of the first admin, or an example of the documentation.
pub fn is_published_password(password: &str) -> bool {
    EXAMPLE_PASSWORDS
        .iter()
        .chain([&DEFAULT_ADMIN_PASSWORD])
        .any(|published| password.eq_ignore_ascii_case(published))
}

/// General settings, which most commands share.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "General settings")]
pub struct Core {
    /// Name of the product, shown in health responses, the API document, mails, authenticator apps and JSON log lines.
    #[arg(long, env, default_value = "saas", value_name = "NAME")]
    pub project_name: String,
    /// Development mode: readable logs and relaxed checks. Never use it in production.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub debug: bool,
}

/// Tokens, passwords and the first admin.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Account settings")]
pub struct Auth {
    /// Key that signs access tokens, and from which other keys are derived: at least 32 random bytes. `saas doctor
    /// --generate-secret` prints a new key.
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    pub secret_key: Option<SecretString>,
    /// The previous SECRET_KEY. Access tokens signed with it stay valid, so a rotation logs no user out.
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    pub secret_key_previous: Option<SecretString>,
    /// Lifetime of an access token, in minutes.
    #[arg(long, env, default_value_t = 30, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=527_040))]
    pub access_token_expire_minutes: u32,
    /// Seconds for which an access token is still accepted after it has expired, because the clocks of replicas may differ.
    #[arg(long, env, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=300))]
    pub token_leeway_seconds: u64,
    /// Key that encrypts the secrets of two-factor authentication, at least 32 bytes and not SECRET_KEY. Without it,
    /// users cannot turn on two-factor authentication.
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    pub two_factor_key: Option<SecretString>,
    /// The previous TWO_FACTOR_KEY. Secrets encrypted with it stay readable.
    #[arg(long, env, hide_env_values = true, value_name = "KEY")]
    pub two_factor_key_previous: Option<SecretString>,
    #[command(flatten)]
    pub second_factor: SecondFactor,
    /// Require users to confirm their email address before they can sign in.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub require_verified_email: bool,
    /// Days between a request to delete an account or an organization and the erasure of its data. Until then, signing in
    /// cancels the deletion of the account, and the owner can restore the organization.
    #[arg(long, env, default_value_t = 14, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub account_deletion_grace_days: u32,
    /// Milliseconds for which a process caches users, sessions and API keys. So every replica knows of a change, such as a
    /// revocation, after this time at the latest. 0 turns the cache off.
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

/// The cost of password hashes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Account settings")]
pub struct Hashing {
    /// Work factor of password hashes. Each step doubles the time to hash. Production needs at least 10.
    #[arg(long, env, default_value_t = 12, value_name = "COST", value_parser = clap::value_parser!(u32).range(4..=20))]
    pub bcrypt_cost: u32,
    /// Allow a BCRYPT_COST below 10 without DEBUG. Only for tests of a release binary.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub allow_weak_hashes: bool,
}

/// The admin that start-up creates.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Account settings")]
pub struct FirstAdmin {
    /// Email address of the admin that is created if there is no admin.
    #[arg(long, env, default_value = "admin@example.com", value_name = "EMAIL")]
    pub first_superuser_email: String,
    /// Password of the admin with FIRST_SUPERUSER_EMAIL. Without it, `saas serve` creates no admin: use `saas create-admin`. Only
    /// in its private database, `saas dev` creates an admin with a default password, which is public.
    #[arg(long, env, hide_env_values = true, value_name = "PASSWORD")]
    pub first_superuser_password: Option<SecretString>,
}

impl FirstAdmin {
    /// Returns `FIRST_SUPERUSER_PASSWORD`, or `None` if it is not set or is the default password.
    pub fn chosen_password(&self) -> Option<&str> {
        password(&self.first_superuser_password).filter(|password| *password != DEFAULT_ADMIN_PASSWORD)
    }
}

/// How mails are sent, and the URLs of the links in mails.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mail settings")]
pub struct Mail {
    /// SMTP server: smtp://user:password@host:587?tls=required or smtps://user:password@host:465. Without it, mails wait in
    /// the outbox; with DEBUG on, they are captured as files in MAIL_DIR. `tls` is `none`, `opportunistic`, `required` or
    /// `wrapper`. By default, smtp:// uses STARTTLS if the server offers it, and sends a password to another machine only
    /// with STARTTLS.
    #[arg(long, env, hide_env_values = true, default_value = "", hide_default_value = true, value_name = "URL",
        value_parser = setting("SMTP_URL", smtp_server))]
    pub smtp_url: Setting<SmtpServer>,
    /// Sender of every mail: `Name <address>` or an address.
    #[arg(long, env, default_value = "saas <noreply@example.com>", value_name = "ADDRESS",
        value_parser = setting("MAIL_FROM", mailbox))]
    pub mail_from: Setting<Mailbox>,
    /// Directory of the mails that are captured with DEBUG on and without SMTP_URL. Only the user account that runs the process
    /// can read the mails. `saas dev` always uses the directory `mail` in its --state-dir.
    #[arg(long, env, default_value = ".saas/mail", value_name = "DIR")]
    pub mail_dir: PathBuf,
    /// URL at which clients reach the API, such as `https://api.example.com`, without a path. With https, responses have the
    /// header Strict-Transport-Security (HSTS). Without FRONTEND_URL, links in mails lead to the API's own pages at this URL.
    /// The default is `http://localhost:8000`; `saas dev` uses its own address.
    #[arg(long, env, default_value = "", hide_default_value = true, value_name = "URL",
        value_parser = setting("PUBLIC_URL", public_url))]
    pub public_url: Setting<Url>,
    /// URL of the front end, such as `https://app.example.com`. Links in mails lead to its pages verify-email,
    /// confirm-email, reset-password, accept-invite and invitation.
    #[arg(long, env, default_value = "", hide_default_value = true, value_name = "URL",
        value_parser = setting("FRONTEND_URL", base_url))]
    pub frontend_url: Setting<Url>,
}

/// The settings that `saas serve` and `saas worker` share.
#[derive(Args, Clone, Debug)]
pub struct Config {
    #[command(flatten)]
    pub core: Core,
    #[command(flatten)]
    pub logs: Logs,
    #[command(flatten)]
    pub database: Database,
    #[command(flatten)]
    pub database_pool: DatabasePool,
    #[command(flatten)]
    pub redis: Redis,
    #[command(flatten)]
    pub redis_options: RedisOptions,
    #[command(flatten)]
    pub auth: Auth,
    #[command(flatten)]
    pub organizations: Organizations,
    #[command(flatten)]
    pub mail: Mail,
    #[command(flatten)]
    pub user_jobs: UserJobs,
}

/// Where the API listens.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP settings")]
pub struct Listen {
    /// IP address to listen on. 0.0.0.0 and :: listen on every interface; localhost is 127.0.0.1.
    #[arg(long, env, default_value = "127.0.0.1", value_name = "ADDRESS", value_parser = listen_address)]
    pub host: IpAddr,
    /// Port to listen on. 0 chooses a free port.
    #[arg(long, env, default_value_t = 8000, value_name = "PORT")]
    pub port: u16,
}

/// How the API serves HTTP.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "HTTP settings")]
pub struct Http {
    /// Origins whose pages may call the API: a JSON list, or separated by commas. With DEBUG on, the default is
    /// `http://localhost:3000` and `http://localhost:5173`.
    #[arg(long, env, default_value = "", hide_default_value = true, value_name = "ORIGINS",
        value_parser = setting("BACKEND_CORS_ORIGINS", origins))]
    pub backend_cors_origins: Setting<Origins>,
    /// Hosts that clients may ask for, without port: a JSON list, or separated by commas. The host of PUBLIC_URL and the IP
    /// address that the client has connected to are allowed too; requests for other hosts get 421. By default, any host is
    /// allowed. `saas dev` always checks the host, and also allows localhost and the address that it listens on.
    #[arg(long, env, default_value = "", hide_default_value = true, value_name = "HOSTS",
        value_parser = setting("ALLOWED_HOSTS", hosts))]
    pub allowed_hosts: Setting<Hosts>,
    /// Number of proxies in front of this process that append to X-Forwarded-For. The client's address is the entry that
    /// the outermost of these proxies has appended. With 0, the header is ignored.
    #[arg(long, env, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=10))]
    pub trusted_proxies: u8,
    /// Require the header If-Match with all PATCH requests and with deletions of products, so that no request overwrites a change
    /// that its client has not seen. A request without the header gets 428.
    #[arg(long, env, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub require_if_match: bool,
    /// Whether captured mails are shown at /dev/mail, and a request is refused unless it names localhost, the address that the
    /// client has connected to, or a host of ALLOWED_HOSTS or PUBLIC_URL. `saas dev` sets this; there is no flag.
    #[arg(skip)]
    pub dev_pages: bool,
    /// Maximum number of simultaneous connections. More connections wait in the queue of the operating system. While connections
    /// wait, the server closes open connections that are idle or have a slow client, beginning with the client network that has
    /// the most connections.
    #[arg(long, env, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Minimum number of seconds for which the server still accepts connections after SIGTERM, while the readiness check answers
    /// 503. Set it to the time that the load balancer needs to notice the 503.
    #[arg(long, env, alias = "shutdown-delay", default_value_t = 0, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(0..=300))]
    pub shutdown_delay_seconds: u64,
    /// Seconds that running requests may take to finish after SIGTERM and SHUTDOWN_DELAY_SECONDS. Requests that still run then
    /// are dropped.
    #[arg(long, env, alias = "shutdown-timeout", default_value_t = 25, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub shutdown_timeout_seconds: u64,
    #[command(flatten)]
    pub request_limits: RequestLimits,
}
