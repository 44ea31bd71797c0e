//! Checks whether a Redis server is safe for jobs.

use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::client::Queue;

const MIN_REDIS_VERSION: (u32, u32) = (7, 0);

/// The properties of a Redis server that the queue depends on.
#[derive(Debug, Clone)]
pub struct Server {
    /// `Redis 7.0.15` or `Valkey 8.0.1`.
    pub name: String,
    /// Why the server cannot store jobs, each with the fix.
    pub problems: Vec<String>,
    /// What may lose jobs or results, each with the fix.
    pub warnings: Vec<String>,
}

impl Server {
    fn parse(info: &str, prefix: &str) -> Self {
        let field =
            |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        // Valkey also reports a compatible Redis version, for old clients.
        let version = field("redis_version").unwrap_or("of unknown version");
        let name = match field("valkey_version") {
            Some(own) => format!("Valkey {own}"),
            None => format!("Redis {version}"),
        };
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < MIN_REDIS_VERSION {
            problems.push(format!("{name} is too old: the job queue needs Redis 7.0 or newer, or Valkey"));
        }
        match field("maxmemory_policy") {
            Some("noeviction") => {}
            Some(policy) if policy.starts_with("allkeys") => problems.push(format!(
                "maxmemory-policy {policy} may drop jobs: run `redis-cli CONFIG SET maxmemory-policy noeviction`, and set it in redis.conf"
            )),
            Some(policy) => warnings.push(format!(
                "maxmemory-policy {policy} may drop results and the keys of unique jobs early: set maxmemory-policy noeviction"
            )),
            None => warnings.push("the eviction policy is unknown; it must be noeviction".into()),
        }
        if field("aof_enabled") != Some("1") {
            warnings.push("appendonly is off: a crash of Redis loses jobs; set `appendonly yes`".into());
        }
        if field("cluster_enabled") == Some("1") && !(prefix.contains('{') && prefix.contains('}')) {
            problems.push(format!(
                "the server is in cluster mode, where all keys of the queue must be in one slot: set REDIS_KEY_PREFIX={{{prefix}}}"
            ));
        }
        Self { name, problems, warnings }
    }
}

/// Returns whether an error is temporary, unlike a wrong password.
pub fn is_transient(error: &RedisError) -> bool {
    let busy = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain
        )
    );
    busy || error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
}

impl Queue {
    /// Reads the properties of the server.
    ///
    /// # Errors
    /// If the server does not answer, or refuses the connection.
    pub async fn server(&self) -> RedisResult<Server> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout()))
            .set_response_timeout(Some(self.timeout()));
        let mut conn = self.client().get_multiplexed_async_connection_with_config(&config).await?;
        let info: String = redis::cmd("INFO").query_async(&mut conn).await?;
        Ok(Server::parse(&info, self.prefix()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\ncluster_enabled:0\r\n";

    fn with(from: &str, to: &str, prefix: &str) -> (usize, usize) {
        let server = Server::parse(&GOOD.replace(from, to), prefix);
        (server.problems.len(), server.warnings.len())
    }

    #[test]
    fn unsafe_servers_are_detected() {
        assert_eq!(with("", "", "rq"), (0, 0));
        assert_eq!(with("7.0.15", "6.2.14", "rq"), (1, 0));
        assert_eq!(with("noeviction", "allkeys-lru", "rq"), (1, 0));
        assert_eq!(with("noeviction", "volatile-lru", "rq"), (0, 1));
        assert_eq!(with("aof_enabled:1", "aof_enabled:0", "rq"), (0, 1));
        assert_eq!(with("cluster_enabled:0", "cluster_enabled:1", "rq"), (1, 0));
        assert_eq!(with("cluster_enabled:0", "cluster_enabled:1", "{rq}"), (0, 0));
        let valkey = Server::parse(&GOOD.replace("7.0.15", "7.2.4\r\nvalkey_version:8.0.1"), "rq");
        assert_eq!((valkey.name.as_str(), valkey.problems.len()), ("Valkey 8.0.1", 0));
    }
}
