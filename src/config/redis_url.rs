//! The value of `REDIS_URL`: one server, the Sentinels of a primary, or nodes of a cluster.

use anyhow::{anyhow, bail};
use percent_encoding::percent_decode_str;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use url::{Position, Url};

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const PASSWORD_ESCAPES: &str =
    "and in the password %40 for @, %3A for :, %2F for /, %3F for ?, %23 for # and %25 for %";

/// The Redis servers of the settings.
#[derive(Clone, Debug)]
pub struct RedisEndpoints {
    pub topology: RedisTopology,
    /// The servers that the URL lists: the single server, the Sentinels, or nodes of the cluster.
    pub seeds: Vec<ConnectionInfo>,
    /// How to log in to the server that has the keys, and whether to use TLS. Its address is valid only for a single server:
    /// Sentinels or nodes of the cluster tell the address of the primary.
    pub server: ConnectionInfo,
}

/// The kind of the servers in `REDIS_URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisTopology {
    /// A single server, which may be a node of a cluster.
    Single,
    /// Sentinels, which know the address of the primary that they monitor under the name `master`.
    Sentinel { master: String },
    /// Nodes of a cluster.
    Cluster,
}

impl RedisEndpoints {
    /// Returns the endpoints of one server.
    pub(super) fn single(server: ConnectionInfo) -> Self {
        Self { topology: RedisTopology::Single, seeds: vec![server.clone()], server }
    }

    /// Applies `change` to the connection settings of each server.
    pub fn map_connections(self, change: impl Fn(ConnectionInfo) -> ConnectionInfo) -> Self {
        Self {
            topology: self.topology,
            seeds: self.seeds.into_iter().map(&change).collect(),
            server: change(self.server),
        }
    }

    /// Returns the listed addresses without user and password, as in `redis.example.com:6379`.
    pub(super) fn location(&self) -> String {
        self.seeds.iter().map(|seed| address_text(seed.addr())).collect::<Vec<_>>().join(", ")
    }

    /// Returns the scheme of a `REDIS_URL` for these servers with TLS.
    pub(super) fn tls_scheme(&self) -> &'static str {
        match self.topology {
            RedisTopology::Single => "rediss://",
            RedisTopology::Sentinel { .. } => "rediss+sentinel://",
            RedisTopology::Cluster => "rediss-cluster://",
        }
    }
}

fn address_text(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } if host.contains(':') => {
            format!("[{host}]:{port}")
        }
        address => address.to_string(),
    }
}

/// Returns the part of a key that determines its slot in a cluster; `None` if the whole key determines the slot. All keys with
/// the same tag are in one slot (Redis Cluster specification, "Hash tags").
pub fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// Parses the value of `REDIS_URL`.
///
/// # Errors
/// If the URL is invalid. Of the URL, the message contains only the names of parameters.
pub(super) fn parse(url: &str) -> anyhow::Result<RedisEndpoints> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // `valkey` and `valkeys` are other names of `redis` and `rediss`.
    let scheme = scheme.to_ascii_lowercase().replace("valkey", "redis").replace('-', "+");
    let multi_server_url = match scheme.as_str() {
        "redis+sentinel" => MultiServerUrl { base: "redis", is_cluster: false, authority, tail },
        "rediss+sentinel" => MultiServerUrl { base: "rediss", is_cluster: false, authority, tail },
        "redis+cluster" => MultiServerUrl { base: "redis", is_cluster: true, authority, tail },
        "rediss+cluster" => MultiServerUrl { base: "rediss", is_cluster: true, authority, tail },
        _ => return parse_single(url, authority, tail),
    };
    // An unescaped special character of a password ends the list of hosts early. The rest of the URL may be a part of the
    // password.
    if tail.contains('@') {
        return Err(multi_server_url.unreadable());
    }
    multi_server_url.parse()
}

fn parse_single(url: &str, authority: &str, tail: &str) -> anyhow::Result<RedisEndpoints> {
    // Whether an unescaped special character of a password ends the host early. The rest of the URL may be a part of the
    // password.
    let is_cut = Url::parse(url)
        .is_ok_and(|url| !url.scheme().ends_with("unix") && url[Position::AfterPort..].contains('@'));
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    if !is_cut && !tail.contains('@') && hosts.contains(',') {
        bail!(
            "REDIS_URL has several hosts: write redis+sentinel://host:26379,host:26379/<master-name> for Redis Sentinel, or \
             redis-cluster://host:6379,host:6379 for Redis Cluster"
        );
    }
    if let Some(problem) = unknown_parameter(url).filter(|_| !is_cut) {
        bail!(problem);
    }
    // The message of the parser may repeat the URL with the password, so it is not shown.
    match url.into_connection_info() {
        Ok(connection) if !is_cut => Ok(RedisEndpoints::single(connection)),
        _ => bail!("REDIS_URL cannot be read; write redis://:password@host:6379/0, {PASSWORD_ESCAPES}"),
    }
}

/// Returns a message about the first unknown parameter of a URL, with the fix: the parser of the library would ignore the
/// parameter. `None` if all parameters are known or the URL cannot be parsed.
fn unknown_parameter(url: &str) -> Option<String> {
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
    Some(unsupported(&name, fix))
}

fn unsupported(name: &str, fix: &str) -> String {
    format!("REDIS_URL has the parameter {name:?}, which is not supported: {fix}")
}

/// A URL of Sentinels or of a cluster, which the crate `redis` cannot parse.
struct MultiServerUrl<'a> {
    /// The scheme of a URL for one of the servers: `redis` or `rediss`.
    base: &'static str,
    is_cluster: bool,
    /// The text between the scheme and the path: user, password and hosts.
    authority: &'a str,
    /// The rest: path, query and fragment.
    tail: &'a str,
}

impl MultiServerUrl<'_> {
    fn parse(&self) -> anyhow::Result<RedisEndpoints> {
        let tail =
            Url::parse(&format!("{}://host{}", self.base, self.tail)).map_err(|_| self.unreadable())?;
        let (sentinel, protocol) = self.parameters(tail.query().unwrap_or_default())?;
        let path = tail.path().trim_matches('/');
        let (topology, database) = if self.is_cluster {
            if !matches!(path, "" | "0") {
                bail!(
                    "REDIS_URL has a database number, but a cluster has only database 0: remove what follows the hosts"
                );
            }
            (RedisTopology::Cluster, 0)
        } else {
            // If the path is empty or only a number, the name of the master is missing: the number is a database.
            if path.bytes().all(|byte| byte.is_ascii_digit()) {
                bail!(
                    "REDIS_URL has no name of a master: write redis+sentinel://host:26379,host:26379/<master-name>/0, with a \
                     name that `SENTINEL MASTERS` lists"
                );
            }
            let (name, database) = path.split_once('/').unwrap_or((path, "0"));
            let Ok(database) = database.parse::<u8>() else {
                bail!(
                    "REDIS_URL has a database that is not a number from 0 to 255 after the name of the master"
                );
            };
            (RedisTopology::Sentinel { master: self.decode(name)? }, database)
        };
        let (user, hosts) = match self.authority.rfind('@') {
            Some(at) => self.authority.split_at(at + 1),
            None => ("", self.authority),
        };
        let node = |host: &str| -> anyhow::Result<ConnectionInfo> {
            let url = format!("{}://{user}{}", self.base, host.trim());
            let mut url = Url::parse(&url).map_err(|_| self.unreadable())?;
            let default_port = if self.is_cluster { REDIS_PORT } else { SENTINEL_PORT };
            let port = url.port().unwrap_or(default_port);
            url.set_port(Some(port)).map_err(|()| self.unreadable())?;
            url.set_path(&format!("/{database}"));
            url.set_query(protocol.as_deref());
            url.set_fragment(tail.fragment());
            url.as_str().into_connection_info().map_err(|_| self.unreadable())
        };
        let nodes = hosts.split(',').map(node).collect::<anyhow::Result<Vec<_>>>()?;
        let server = nodes.first().cloned().ok_or_else(|| self.unreadable())?;
        let seeds = match self.is_cluster {
            true => nodes,
            false => nodes.into_iter().map(|seed| seed.set_redis_settings(sentinel.clone())).collect(),
        };
        Ok(RedisEndpoints { topology, seeds, server })
    }

    /// Returns the user and password for the Sentinels, and the query for the URL of each server: the parameter `protocol`, if
    /// the URL has it.
    fn parameters(&self, query: &str) -> anyhow::Result<(RedisConnectionInfo, Option<String>)> {
        let (mut sentinel, mut protocol) = (RedisConnectionInfo::default(), None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "protocol" => protocol = Some(parameter.to_owned()),
                "sentinel_user" if !self.is_cluster => sentinel = sentinel.set_username(self.decode(value)?),
                "sentinel_password" if !self.is_cluster => {
                    sentinel = sentinel.set_password(self.decode(value)?);
                }
                "db" if self.is_cluster => bail!(unsupported(name, "a cluster has only database 0")),
                "db" => bail!(unsupported(
                    name,
                    "write the number of the database after the name of the master, as in /<master-name>/3"
                )),
                _ => bail!(unsupported(name, "remove it")),
            }
        }
        Ok((sentinel, protocol))
    }

    fn decode(&self, text: &str) -> anyhow::Result<String> {
        let decoded = percent_decode_str(text).decode_utf8().map_err(|_| self.unreadable())?;
        Ok(decoded.into_owned())
    }

    fn unreadable(&self) -> anyhow::Error {
        let form = match self.is_cluster {
            true => "redis-cluster://:password@host:6379,host:6379",
            false => "redis+sentinel://:password@host:26379,host:26379/<master-name>/0",
        };
        anyhow!("REDIS_URL cannot be read; write {form}, {PASSWORD_ESCAPES}")
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> RedisEndpoints {
        parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn sentinel(master: &str) -> RedisTopology {
        RedisTopology::Sentinel { master: master.into() }
    }

    #[test]
    fn urls_of_sentinels_and_clusters_are_parsed() {
        for (url, topology, location) in [
            ("redis+sentinel://a:1,b:2/main", sentinel("main"), "a:1, b:2"),
            ("redis-sentinel://a,b/main/3", sentinel("main"), "a:26379, b:26379"),
            ("REDISS+SENTINEL://[::1],b:2/my%20main", sentinel("my main"), "[::1]:26379, b:2"),
            ("valkey+sentinel://a/7/0", sentinel("7"), "a:26379"),
            ("redis-cluster://a:1,b:2", RedisTopology::Cluster, "a:1, b:2"),
            ("rediss-cluster://a,b:2/0?protocol=resp3", RedisTopology::Cluster, "a:6379, b:2"),
            ("redis+cluster://u:p,w@a/", RedisTopology::Cluster, "a:6379"),
            ("redis://a:1/2", RedisTopology::Single, "a:1"),
        ] {
            let found = parsed(url);
            assert_eq!((found.topology.clone(), found.location().as_str()), (topology, location), "{url}");
            let is_tls = url.to_ascii_lowercase().starts_with("rediss");
            for connection in found.seeds.iter().chain([&found.server]) {
                assert_eq!(matches!(connection.addr(), ConnectionAddr::TcpTls { .. }), is_tls, "{url}");
            }
        }
    }

    #[test]
    fn servers_and_sentinels_have_their_own_passwords() {
        let url = "redis+sentinel://me:p%40ss@a,b/main/3?sentinel_user=watch&sentinel_password=s%26+t";
        let found = parsed(url);
        let server = found.server.redis_settings();
        assert_eq!((server.username(), server.password(), server.db()), (Some("me"), Some("p@ss"), 3));
        for seed in &found.seeds {
            let seed = seed.redis_settings();
            assert_eq!((seed.username(), seed.password(), seed.db()), (Some("watch"), Some("s&+t"), 0));
        }
        let cluster = parsed("redis-cluster://:hunter2@a,b");
        assert!(cluster.seeds.iter().all(|seed| seed.redis_settings().password() == Some("hunter2")));
    }

    #[test]
    fn unusable_urls_are_refused_with_the_fix() {
        for (url, problem) in [
            ("redis+sentinel://hunter2:1", "REDIS_URL has no name of a master"),
            ("redis+sentinel://hunter2:1/0", "REDIS_URL has no name of a master"),
            ("redis+sentinel://hunter2/main/x", "not a number from 0 to 255"),
            ("redis+sentinel://hunter2/main/0/1", "not a number from 0 to 255"),
            ("redis+sentinel://hunter2/main?db=3", "as in /<master-name>/3"),
            (
                "redis+sentinel://hunter2/main?password=x",
                "the parameter \"password\", which is not supported",
            ),
            ("redis+sentinel://hunter2:1,,b/main", "REDIS_URL cannot be read; write redis+sentinel://"),
            ("redis+sentinel://hunter2:many/main", "REDIS_URL cannot be read; write redis+sentinel://"),
            ("redis+sentinel://:12/hunter2@h/main", "%2F for /"),
            ("redis+sentinel:///main", "REDIS_URL cannot be read"),
            ("redis-cluster://hunter2/3", "a cluster has only database 0"),
            ("redis-cluster://hunter2?db=0", "a cluster has only database 0"),
            ("redis-cluster://hunter2?sentinel_password=x", "the parameter \"sentinel_password\""),
            ("redis-cluster://:12#hunter2@h", "REDIS_URL cannot be read; write redis-cluster://"),
            ("redis-cluster://", "REDIS_URL cannot be read"),
            ("redis://hunter2:1,b:2", "REDIS_URL has several hosts: write redis+sentinel://"),
        ] {
            let found = parse(url).expect_err(url).to_string();
            assert!(found.contains(problem) && !found.contains("hunter2"), "{url}: {found}");
        }
    }

    #[test]
    fn hash_tags_are_found() {
        assert_eq!(hash_tag("{rq}:jobs"), Some("rq"));
        assert_eq!(hash_tag("app{rq}{x}"), Some("rq"));
        for key in ["rq", "{}rq", "}rq{", "{rq", "{}{rq}"] {
            assert_eq!(hash_tag(key), None, "{key}");
        }
    }
}
