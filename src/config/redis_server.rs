//! Settings of Redis.

use anyhow::{anyhow, bail};
use clap::Args;
use redis::{ConnectionAddr, IntoConnectionInfo};
use secrecy::SecretString;
use url::Host;

use super::{
    redis_url::{self, RedisEndpoints, RedisTopology, hash_tag},
    site::{host, is_local},
    value::{Setting, database_number, port, secret, setting},
};

const DEFAULT_PORT: u16 = 6379;
const URL_SETTING: &str = "REDIS_URL";

/// The address of Redis, the prefix of keys, and the time limit of commands.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Redis settings")]
pub struct Redis {
    /// Redis connection URL: redis://user:password@host:6379/0, or rediss:// for TLS. Overrides REDIS_HOST, REDIS_PORT and
    /// REDIS_DB. For high availability, redis+sentinel://host:26379,host:26379/master-name or
    /// redis-cluster://host:6379,host:6379; see docs/scaling.md.
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
    /// Prefix of all Redis keys. With Redis Cluster, it must have a part in braces, as in `{rq}`.
    #[arg(long, env, alias = "queue-prefix", default_value = "rq", value_name = "PREFIX")]
    pub redis_key_prefix: String,
    /// Milliseconds to wait for a Redis connection, and for the answer to one attempt of a command. All attempts together have
    /// twice this time, or three times this time if they enqueue a job. Then a request that needs Redis fails with 503.
    #[arg(long, env, default_value_t = 900, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub redis_timeout_ms: u64,
    /// The name of the setting that `redis_url` comes from, for messages.
    #[arg(skip = URL_SETTING)]
    url_setting: &'static str,
}

impl Redis {
    /// Returns these settings with the URL of another server. `setting` is the name of the setting with this URL, for messages.
    pub fn at(&self, setting: &'static str, url: SecretString) -> Self {
        Self { redis_url: Some(url), url_setting: setting, ..self.clone() }
    }

    /// Returns the servers and how to connect to them, from `REDIS_URL`, or from `REDIS_HOST`, `REDIS_PORT` and `REDIS_DB`.
    ///
    /// # Errors
    /// If a setting is invalid; the message names it. Of the URL, the message contains only the names of parameters.
    pub fn endpoints(&self) -> anyhow::Result<RedisEndpoints> {
        let endpoints = self.servers()?;
        let prefix = &self.redis_key_prefix;
        if endpoints.topology == RedisTopology::Cluster && hash_tag(prefix).is_none() {
            bail!(
                "REDIS_KEY_PREFIX is {prefix:?}, but all keys must be in one slot of the cluster: set \
                 REDIS_KEY_PREFIX={{{prefix}}}"
            );
        }
        Ok(endpoints)
    }

    fn servers(&self) -> anyhow::Result<RedisEndpoints> {
        if let Some(url) = secret(&self.redis_url) {
            return redis_url::parse(url)
                .map_err(|error| anyhow!(error.to_string().replace("REDIS_URL", self.url_setting)));
        }
        let host = self.redis_host.get()?.map_or_else(|| "localhost".into(), ToString::to_string);
        let port = self.redis_port.get()?.copied().unwrap_or(DEFAULT_PORT);
        let database = self.redis_db.get()?.copied().unwrap_or_default();
        let connection = format!("redis://{host}:{port}/{database}").as_str().into_connection_info();
        let connection = connection.map_err(|error| anyhow!("REDIS_HOST {host} cannot be used: {error}"))?;
        Ok(RedisEndpoints::single(connection))
    }

    /// Returns whether a server is configured, by `REDIS_URL` or `REDIS_HOST`.
    pub fn is_set(&self) -> bool {
        secret(&self.redis_url).is_some() || self.redis_host.is_set()
    }

    /// Returns the name of the setting that names the server, for messages.
    pub fn setting_name(&self) -> &'static str {
        match secret(&self.redis_url).is_none() && self.redis_host.is_set() {
            true => "REDIS_HOST",
            false => self.url_setting,
        }
    }

    /// Returns the addresses of the servers without user and password, as in `redis.example.com:6379`.
    pub fn location(&self) -> String {
        self.servers().map_or_else(|_| "the configured address".into(), |servers| servers.location())
    }

    /// Returns the first problem of these settings, or an empty list if they are valid.
    pub fn problems(&self) -> Vec<String> {
        self.endpoints().err().map(|error| error.to_string()).into_iter().collect()
    }

    /// Returns the first weakness, with its fix: a connection to another machine that is unencrypted, or does not verify the
    /// certificate. `None` if there is no such connection, or the address is invalid.
    pub(super) fn weakness(&self) -> Option<String> {
        let (servers, setting) = (self.servers().ok()?, self.url_setting);
        let scheme = servers.tls_scheme();
        servers.seeds.iter().find_map(|seed| match seed.addr() {
            ConnectionAddr::Tcp(host, _) if !is_local(host) => Some(format!(
                "connections to Redis at {host} are unencrypted, with the password and the data: use {scheme} in {setting}"
            )),
            ConnectionAddr::TcpTls { host, insecure: true, .. } if !is_local(host) => Some(format!(
                "the certificate of Redis at {host} is not verified: remove #insecure from {setting}"
            )),
            _ => None,
        })
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
    fn redis_url_overrides_the_other_redis_settings() {
        let cases: [(&[&str], &str); 9] = [
            (&[], "localhost:6379"),
            (&["--redis-host=Cache.example.com", "--redis-port=7"], "cache.example.com:7"),
            (&["--redis-host=::1"], "[::1]:6379"),
            (&["--redis-host=[::1]"], "[::1]:6379"),
            (&["--redis-host=my_cache"], "my_cache:6379"),
            (&["--redis-url=redis://u:p@h:7/1"], "h:7"),
            (&["--redis-url=rediss://[::1]"], "[::1]:6379"),
            (&["--redis-url=unix:///run/redis.sock"], "/run/redis.sock"),
            // REDIS_PORT and REDIS_DB have no effect beside REDIS_URL.
            (&["--redis-url=redis://h", "--redis-port=tcp://10.0.0.1:6379", "--redis-db=x"], "h:6379"),
        ];
        for (flags, wanted) in cases {
            let redis = with(flags);
            assert_eq!(redis.location(), wanted, "{flags:?}: {:?}", redis.problems());
        }
    }

    #[test]
    fn a_cluster_needs_a_prefix_with_a_hash_tag() {
        for (prefix, is_usable) in [("rq", false), ("rq{}", false), ("{rq}", true), ("app:{rq}", true)] {
            let prefix = format!("--redis-key-prefix={prefix}");
            let problems = with(&["--redis-url=redis-cluster://h:7", &prefix]).problems();
            assert_eq!(problems.is_empty(), is_usable, "{prefix}: {problems:?}");
            assert!(
                problems.iter().all(|problem| problem.contains("set REDIS_KEY_PREFIX={")),
                "{problems:?}"
            );
            assert_eq!(with(&["--redis-url=redis://h:7", &prefix]).problems(), [""; 0]);
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
