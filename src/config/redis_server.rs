//! Settings of Redis.

use anyhow::{anyhow, bail};
use clap::Args;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use secrecy::SecretString;
use url::{Host, Position, Url};

use super::{
    site::{host, is_local},
    value::{Setting, database_number, port, secret, setting},
};

const DEFAULT_PORT: u16 = 6379;
const URL_SETTING: &str = "REDIS_URL";

/// Where Redis is, and how long to wait for it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Redis settings")]
pub struct Redis {
    /// Redis connection URL: redis://user:password@host:6379/0, or rediss:// for TLS. Overrides the REDIS_* settings.
    #[arg(long, env, hide_env_values = true, value_name = "URL")]
    pub redis_url: Option<SecretString>,
    /// Redis host, if there is no REDIS_URL. The default is localhost.
    #[arg(long, env, default_value = "", hide_default_value = true, value_name = "HOST",
        value_parser = setting("REDIS_HOST", redis_host))]
    pub redis_host: Setting<Host>,
    /// Redis port, if there is no REDIS_URL.
    #[arg(long, env, default_value = "6379", value_name = "PORT", value_parser = setting("REDIS_PORT", port))]
    pub redis_port: Setting<u16>,
    /// Redis database number, if there is no REDIS_URL.
    #[arg(long, env, default_value = "0", value_name = "N", value_parser = setting("REDIS_DB", database_number))]
    pub redis_db: Setting<u8>,
    /// Prefix of all Redis keys: queues, cache and rate limits. Use `{rq}` with Redis Cluster.
    #[arg(long, env, alias = "queue-prefix", default_value = "rq", value_name = "PREFIX")]
    pub redis_key_prefix: String,
    /// Milliseconds that a request waits for a Redis connection, and again for each of two attempts, before it fails
    /// with 503.
    #[arg(long, env, default_value_t = 900, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub redis_timeout_ms: u64,
    /// The setting that `redis_url` comes from, for messages.
    #[arg(skip = URL_SETTING)]
    url_setting: &'static str,
}

impl Redis {
    /// Returns these settings for another server, whose URL comes from `setting`.
    pub fn at(&self, setting: &'static str, url: SecretString) -> Self {
        Self { redis_url: Some(url), url_setting: setting, ..self.clone() }
    }

    /// Returns how to connect, from `REDIS_URL` or the `REDIS_*` parts.
    ///
    /// # Errors
    /// If a setting is invalid; the message names it and has no part of the URL.
    pub fn connection(&self) -> anyhow::Result<ConnectionInfo> {
        let Some(url) = secret(&self.redis_url) else {
            let host = self.redis_host.get()?.map_or_else(|| "localhost".into(), ToString::to_string);
            let port = self.redis_port.get()?.copied().unwrap_or(DEFAULT_PORT);
            let database = self.redis_db.get()?.copied().unwrap_or_default();
            let connection = format!("redis://{host}:{port}/{database}").as_str().into_connection_info();
            return connection.map_err(|error| anyhow!("REDIS_HOST {host} cannot be used: {error}"));
        };
        // An unescaped special character of a password ends the host early. What follows may be a part of the password.
        let is_cut = Url::parse(url)
            .is_ok_and(|url| !url.scheme().ends_with("unix") && url[Position::AfterPort..].contains('@'));
        if let Some(problem) = unknown_parameter(self.url_setting, url).filter(|_| !is_cut) {
            bail!(problem);
        }
        // The parser's message may repeat the URL.
        match url.into_connection_info() {
            Ok(connection) if !is_cut => Ok(connection),
            _ => bail!(
                "{} cannot be read; write redis://:password@host:6379/0, and in the password %40 for @, %3A for :, \
                 %2F for /, %3F for ?, %23 for # and %25 for %",
                self.url_setting
            ),
        }
    }

    /// Returns whether a server is configured, by `REDIS_URL` or `REDIS_HOST`.
    pub fn is_set(&self) -> bool {
        secret(&self.redis_url).is_some() || self.redis_host.is_set()
    }

    /// Returns the setting that names the server, for messages.
    pub fn setting_name(&self) -> &'static str {
        match secret(&self.redis_url).is_none() && self.redis_host.is_set() {
            true => "REDIS_HOST",
            false => self.url_setting,
        }
    }

    /// Describes the server without user and password, as in `redis.example.com:6379`.
    pub fn location(&self) -> String {
        match self.connection() {
            Ok(connection) => place(connection.addr()),
            Err(_) => "the configured address".into(),
        }
    }

    /// Returns what is invalid in these settings, each problem with its fix.
    pub fn problems(&self) -> Vec<String> {
        self.connection().err().map(|error| error.to_string()).into_iter().collect()
    }

    /// Returns why connections may be read by others, with the fix.
    pub(super) fn weakness(&self) -> Option<String> {
        let (connection, setting) = (self.connection().ok()?, self.url_setting);
        match connection.addr() {
            ConnectionAddr::Tcp(host, _) if !is_local(host) => Some(format!(
                "connections to Redis at {host} are unencrypted, with the password and the data: use rediss:// in {setting}"
            )),
            ConnectionAddr::TcpTls { host, insecure: true, .. } if !is_local(host) => Some(format!(
                "the certificate of Redis at {host} is not verified: remove #insecure from {setting}"
            )),
            _ => None,
        }
    }
}

/// Returns what is wrong with the parameters of a URL, which the parser would ignore.
fn unknown_parameter(setting: &str, url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let known: &[&str] = match url.scheme() {
        scheme if scheme.ends_with("unix") => &["db", "user", "pass", "protocol"],
        _ => &["protocol"],
    };
    let (name, _) = url.query_pairs().find(|(name, _)| !known.contains(&&**name))?;
    let fix = match &*name {
        "db" => "write the number of the database after the host, as in redis://host:6379/3",
        _ => "remove it",
    };
    Some(format!("{setting} has the parameter {name:?}, which is not supported: {fix}"))
}

fn place(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } if host.contains(':') => {
            format!("[{host}]:{port}")
        }
        address => address.to_string(),
    }
}

fn redis_host(text: &str) -> Result<Host, String> {
    match text.starts_with('/') {
        true => {
            Err(format!("has {text:?}, which is not a host; for a socket, write REDIS_URL=unix://{text}"))
        }
        false => host(text),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        redis: Redis,
    }

    fn with(flags: &[&str]) -> Redis {
        Settings::parse_from(["test"].iter().chain(flags)).redis
    }

    #[test]
    fn servers_are_found_by_the_url_or_its_parts() {
        let cases: [(&[&str], &str); 9] = [
            (&[], "localhost:6379"),
            (&["--redis-host=Cache.example.com", "--redis-port=7"], "cache.example.com:7"),
            (&["--redis-host=::1"], "[::1]:6379"),
            (&["--redis-host=[::1]"], "[::1]:6379"),
            (&["--redis-host=my_cache"], "my_cache:6379"),
            (&["--redis-url=redis://u:p@h:7/1"], "h:7"),
            (&["--redis-url=rediss://[::1]"], "[::1]:6379"),
            (&["--redis-url=unix:///run/redis.sock"], "/run/redis.sock"),
            // The parts have no effect beside a URL.
            (&["--redis-url=redis://h", "--redis-port=tcp://10.0.0.1:6379", "--redis-db=x"], "h:6379"),
        ];
        for (flags, wanted) in cases {
            let redis = with(flags);
            assert_eq!(redis.location(), wanted, "{flags:?}: {:?}", redis.problems());
        }
    }

    #[test]
    fn the_invalid_setting_is_named_without_the_password() {
        for (flag, problem) in [
            (
                "--redis-port=tcp://10.0.0.1:6379",
                "REDIS_PORT is \"tcp://10.0.0.1:6379\", which Kubernetes sets",
            ),
            ("--redis-port=many", "REDIS_PORT has \"many\""),
            ("--redis-db=256", "REDIS_DB has \"256\""),
            ("--redis-host=redis://cache:6379", "REDIS_HOST has \"redis://cache:6379\""),
            ("--redis-host=/run/redis.sock", "write REDIS_URL=unix:///run/redis.sock"),
            ("--redis-url=redis://:hunter2@h:7?db=3", "as in redis://host:6379/3"),
            ("--redis-url=rediss://h/0?ssl_cert_reqs=none", "the parameter \"ssl_cert_reqs\", which is not"),
            ("--redis-url=http://:hunter2@h", "REDIS_URL cannot be read"),
            ("--redis-url=redis://:12/hunter2@h", "%2F for /"),
            ("--redis-url=redis://:12#hunter2@h", "%23 for #"),
            ("--redis-url=redis://u:12/hunter2@h", "%2F for /"),
            ("--redis-url=redis://u:12?hunter2@h", "%3F for ?"),
            ("--redis-url=redis://u:12#hunter2@h", "%23 for #"),
        ] {
            let redis = with(&[flag]);
            let found = redis.problems().concat();
            assert!(found.contains(problem) && !found.contains("hunter2"), "{flag}: {found}");
            assert!(!redis.location().contains("12"), "{flag}: {}", redis.location());
        }
    }
}
