//! The checks whether a Redis server is safe for jobs, and whether the Redis user has the permissions that the product needs.

use redis::{ErrorKind, RedisError, RedisResult, RetryMethod, ServerErrorKind};

use super::{client::Queue, scripts};

const MIN_REDIS_VERSION: (u32, u32) = (7, 0);
/// Codes of errors that a server answers to writes until its disk or its replicas are usable again.
const REFUSES_WRITES_CODES: [&str; 2] = ["MISCONF", "NOREPLICAS"];
/// Part of error messages about missing permissions.
const PERMISSIONS_GUIDE: &str = "docs/databases.md lists all permissions";

/// The result of [`Queue::server`]: the name of a Redis server, and the problems and risks of using it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Such as `Redis 7.0.15` or `Valkey 8.0.1`.
    pub name: String,
    /// Reasons why the queue must not use the server, each with the fix.
    pub problems: Vec<String>,
    /// Risks, such as the loss of jobs or results, and properties that could not be checked.
    pub warnings: Vec<String>,
}

impl Server {
    fn parse(info: &str, prefix: &str) -> Self {
        let field = |name: &str| info_field(info, name);
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
        match field("aof_enabled") {
            Some("1") => {}
            Some(_) => {
                warnings.push("appendonly is off: a crash of Redis loses jobs; set `appendonly yes`".into())
            }
            None => warnings
                .push("whether appendonly is on is unknown; without it, a crash of Redis loses jobs".into()),
        }
        if field("cluster_enabled") == Some("1") && !has_hash_tag(prefix) {
            problems.push(format!(
                "the server is in cluster mode, where all keys of the queue must be in one slot: set REDIS_KEY_PREFIX={{{prefix}}}"
            ));
        }
        Self { name, problems, warnings }
    }

    /// Returns the result for a Redis user that may not run INFO.
    fn unknown() -> Self {
        let warning = "version, maxmemory-policy and appendonly cannot be checked, because the user may not run INFO: \
                       grant it with +info, or make sure of Redis 7.0 or newer, `noeviction` and `appendonly yes`";
        Self { name: "Redis".into(), problems: Vec::new(), warnings: vec![warning.into()] }
    }
}

/// Returns a warning if fewer replicas are connected than `wanted`, the setting `QUEUE_WAIT_REPLICAS`. `None` if there are
/// enough, or their number is unknown.
fn missing_replicas(info: &str, wanted: u32) -> Option<String> {
    let count = info_field(info, "connected_slaves")?;
    let connected: u32 = count.parse().ok()?;
    (connected < wanted).then(|| {
        format!(
            "QUEUE_WAIT_REPLICAS is {wanted}, and Redis has {connected} replicas: enqueuing fails with 503 until more are \
             connected"
        )
    })
}

/// Returns a field of the answer to INFO.
fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
}

/// Returns an error for a replica. The error is temporary, because the replica may become the primary.
fn refuse_replica(info: &str) -> RedisResult<()> {
    let field = |name: &str| info_field(info, name);
    if field("role") != Some("slave") {
        return Ok(());
    }
    let primary = match (field("master_host"), field("master_port")) {
        (Some(host), Some(port)) => format!(" {host}:{port}"),
        _ => String::new(),
    };
    let fix = format!(
        "set REDIS_URL to its primary{primary}, or to the Sentinels or the cluster that it belongs to; docs/scaling.md has the \
         forms"
    );
    let read_only = ErrorKind::Server(ServerErrorKind::ReadOnly);
    Err((read_only, "the Redis server is a replica, which accepts no writes", fix).into())
}

/// Returns whether all keys with this prefix are in one slot of a cluster (Redis Cluster specification, "Hash tags").
fn has_hash_tag(prefix: &str) -> bool {
    let tag = prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.is_some_and(|(tag, _)| !tag.is_empty())
}

/// Returns whether an error is temporary, unlike a wrong password.
pub fn is_transient(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    // A retry does not resolve some errors, such as a certificate with an invalid name.
    if error.is_io_error() && matches!(error.retry_method(), RetryMethod::NoRetry) {
        return false;
    }
    // After a failover, the address may lead to a server that accepts writes.
    let is_unusable = matches!(
        error.kind(),
        ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
    );
    let refuses_writes = error.code().is_some_and(|code| REFUSES_WRITES_CODES.contains(&code));
    is_unusable
        || refuses_writes
        || error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
}

fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

/// Describes the ACL permission that the Redis user lacks.
fn describe_denial(error: &RedisError, prefix: &str) -> String {
    // Redis quotes the name of a refused command. If nothing is quoted, a key was refused.
    match error.detail().and_then(|text| text.split('\'').nth(1)) {
        Some(command) => describe_missing_commands(&[command.to_owned()]),
        None => describe_missing_keys(prefix),
    }
}

fn describe_missing_commands(commands: &[String]) -> String {
    let permission = |command: &String| match command.to_ascii_lowercase() {
        name if name.starts_with("eval") || name.starts_with("script") => "+@scripting".to_owned(),
        name => format!("+{name}"),
    };
    let mut permissions: Vec<_> = commands.iter().map(permission).collect();
    permissions.dedup();
    let (commands, permissions) = (commands.join(", ").to_ascii_uppercase(), permissions.join(" "));
    format!(
        "the Redis user may not run {commands}: grant it with `ACL SETUSER <name> {permissions}`; {PERMISSIONS_GUIDE}"
    )
}

fn describe_missing_keys(prefix: &str) -> String {
    format!(
        "the Redis user may not use all keys of the product: grant them with `ACL SETUSER <name> ~{prefix} ~{prefix}:*`; \
         {PERMISSIONS_GUIDE}"
    )
}

impl Queue {
    /// Reads the properties of the server, and checks the permissions of the Redis user. A missing permission is one of the
    /// problems in the result. A missing permission to run INFO is one of the warnings.
    ///
    /// # Errors
    /// If the server does not answer in time, is a replica, or returns an error other than a missing permission, for example
    /// because it refuses all writes.
    pub async fn server(&self) -> RedisResult<Server> {
        match self.examine().await {
            Err(error) if is_denied(&error) => Ok(Server {
                name: "Redis".into(),
                problems: vec![describe_denial(&error, self.prefix())],
                warnings: Vec::new(),
            }),
            result => result,
        }
    }

    async fn examine(&self) -> RedisResult<Server> {
        let (mut conn, _) = self.connector().connect(self.timeout(), self.timeout()).await?;
        let mut server = match redis::cmd("INFO").query_async::<String>(&mut conn).await {
            Ok(info) => {
                refuse_replica(&info)?;
                let mut server = Server::parse(&info, self.prefix());
                server.warnings.extend(missing_replicas(&info, self.pushes().replicas()));
                server
            }
            Err(error) if is_denied(&error) => Server::unknown(),
            Err(error) => return Err(error),
        };
        // A server with a problem, such as one that is too old, may not be able to run scripts.
        if server.problems.is_empty() {
            let waits: &[&str] = if self.pushes().replicas() > 0 { &["WAIT"] } else { &[] };
            let (missing, keys_refused): (Vec<String>, bool) =
                scripts::PROBE.key(self.prefix()).arg(waits).invoke_async(&mut conn).await?;
            if !missing.is_empty() {
                server.problems.push(describe_missing_commands(&missing));
            }
            if keys_refused {
                server.problems.push(describe_missing_keys(self.prefix()));
            }
        }
        Ok(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\ncluster_enabled:0\r\n";

    /// Replaces `from` by `to` in [`GOOD`], and returns the numbers of problems and of warnings.
    fn findings(from: &str, to: &str, prefix: &str) -> (usize, usize) {
        let server = Server::parse(&GOOD.replace(from, to), prefix);
        (server.problems.len(), server.warnings.len())
    }

    #[test]
    fn missing_replicas_are_detected() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n";
        assert!([0, 1].into_iter().all(|wanted| missing_replicas(info, wanted).is_none()));
        assert!(missing_replicas(info, 2).unwrap().contains("is 2, and Redis has 1 replicas"));
        assert_eq!(missing_replicas("", 2), None);
    }

    #[test]
    fn unsafe_servers_are_detected() {
        assert_eq!(findings("", "", "rq"), (0, 0));
        assert_eq!(findings("7.0.15", "6.2.14", "rq"), (1, 0));
        assert_eq!(findings("noeviction", "allkeys-lru", "rq"), (1, 0));
        assert_eq!(findings("noeviction", "volatile-lru", "rq"), (0, 1));
        assert_eq!(findings("aof_enabled:1", "aof_enabled:0", "rq"), (0, 1));
        for prefix in ["rq", "{}rq", "}rq{"] {
            assert_eq!(findings("cluster_enabled:0", "cluster_enabled:1", prefix), (1, 0), "{prefix}");
        }
        assert_eq!(findings("cluster_enabled:0", "cluster_enabled:1", "{rq}"), (0, 0));
        let valkey = Server::parse(&GOOD.replace("7.0.15", "7.2.4\r\nvalkey_version:8.0.1"), "rq");
        assert_eq!((valkey.name.as_str(), valkey.problems.len()), ("Valkey 8.0.1", 0));
    }
}
