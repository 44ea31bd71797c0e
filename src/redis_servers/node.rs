//! Asks a Sentinel or a node of a cluster which server is the primary.

use std::{io, time::Duration};

use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, RedisError, RedisResult, Value,
    aio::MultiplexedConnection, from_redis_value_ref,
};
use tokio::time::timeout;

use super::{misconfigured, timed_out};
use crate::{config::hash_tag, lookups::Lookups};

/// A question to a Sentinel or a node of a cluster.
pub(super) enum Question {
    /// Which server is the primary with this name? Sentinels call it a master.
    Sentinel { master: String },
    /// Which node owns this slot?
    Cluster { slot: u16 },
}

/// The primary, and the address at which the product reaches it.
#[derive(Clone, PartialEq)]
pub(super) struct Primary {
    /// The id of a node, or the address that a Sentinel names.
    pub(super) id: String,
    /// The address of the primary in the answers of Sentinels or nodes.
    pub(super) announced: ConnectionAddr,
    /// The address to connect to.
    pub(super) address: ConnectionAddr,
}

/// The answer of one Sentinel or node.
pub(super) struct Answer {
    /// The id of the asked node, or the address at which it was asked if the id is not known.
    pub(super) voter: String,
    /// Whether the asked server takes part in elections: a Sentinel, or a primary of the cluster.
    pub(super) elects: bool,
    /// As [`Primary::id`].
    pub(super) id: String,
    /// As [`Primary::announced`].
    pub(super) announced: ConnectionAddr,
    /// The address at which the asked node was reached, if it is the primary itself.
    pub(super) reached: Option<ConnectionAddr>,
    /// In a cluster, the primary, the replicas that can replace the primary, and the other primaries, which elect one of the
    /// replicas. Empty in the answer of a Sentinel.
    pub(super) nodes: Vec<ConnectionAddr>,
}

/// A Sentinel or a node that is asked, and the connection to it.
pub(super) struct Node {
    info: ConnectionInfo,
    lookups: Lookups,
    connection: Option<MultiplexedConnection>,
}

impl Node {
    pub(super) fn new(info: ConnectionInfo, lookups: Lookups) -> Self {
        Self { info, lookups, connection: None }
    }

    pub(super) fn address(&self) -> &ConnectionAddr {
        self.info.addr()
    }

    /// Asks over the connection of the last question, or over a new one.
    ///
    /// # Errors
    /// If the server cannot be connected to, does not answer within `limit` or answers with an error. Also if a Sentinel
    /// monitors no primary with the name, or no node of the cluster owns the slot. If `REDIS_URL` is the cause, the message
    /// says how to correct it.
    pub(super) async fn ask(&mut self, question: &Question, limit: Duration) -> RedisResult<Answer> {
        // If the exchange fails or is late, no connection is kept, and the next question opens a new one.
        let kept = self.connection.take();
        let late = |_| timed_out(format!("no answer from {} in time", self.info.addr()));
        let (connection, answer) = timeout(limit, self.exchange(kept, question)).await.map_err(late)??;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn exchange(
        &self,
        kept: Option<MultiplexedConnection>,
        question: &Question,
    ) -> RedisResult<(MultiplexedConnection, Answer)> {
        if let Some(mut connection) = kept
            && let Ok(answer) = question.ask(&mut connection, self.info.addr()).await
        {
            return Ok((connection, answer));
        }
        // No timeouts here: the caller limits the time of the whole exchange.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_dns_resolver(self.lookups.clone());
        let client = redis::Client::open(self.info.clone())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let answer = question.ask(&mut connection, self.info.addr()).await?;
        Ok((connection, answer))
    }
}

impl Question {
    async fn ask(
        &self,
        connection: &mut MultiplexedConnection,
        asked: &ConnectionAddr,
    ) -> RedisResult<Answer> {
        match self {
            Self::Sentinel { master } => ask_sentinel(connection, asked, master).await,
            Self::Cluster { slot } => ask_cluster(connection, asked, *slot).await,
        }
    }
}

async fn ask_sentinel(
    connection: &mut MultiplexedConnection,
    asked: &ConnectionAddr,
    master: &str,
) -> RedisResult<Answer> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let found: Option<(String, u16)> = command.query_async(connection).await.map_err(|error| {
        if is_unknown_command(&error) {
            return misconfigured(format!(
                "REDIS_URL names Sentinels, but the server at {asked} is none: write the port of the Sentinels, which is \
                 26379 by default, or redis:// for a server without Sentinels"
            ));
        }
        match error.code() {
            Some("NOAUTH") => misconfigured(format!(
                "the Sentinel at {asked} requires a password: add ?sentinel_password=<password> to REDIS_URL"
            )),
            _ => error,
        }
    })?;
    let (host, port) = found.ok_or_else(|| {
        misconfigured(format!(
            "the Sentinel at {asked} monitors no master with the name {master:?}: write one that `redis-cli -p 26379 \
             SENTINEL MASTERS` lists in REDIS_URL"
        ))
    })?;
    let announced = address(asked, Some(host), port);
    Ok(Answer {
        voter: asked.to_string(),
        elects: true,
        id: announced.to_string(),
        announced,
        reached: None,
        nodes: Vec::new(),
    })
}

async fn ask_cluster(
    connection: &mut MultiplexedConnection,
    asked: &ConnectionAddr,
    slot: u16,
) -> RedisResult<Answer> {
    let slots = redis::cmd("CLUSTER").arg("SLOTS").query_async(connection).await;
    let slots: Vec<Vec<Value>> = slots.map_err(|error: RedisError| {
        let is_disabled = error.detail().is_some_and(|text| text.contains("cluster support disabled"));
        match is_disabled || is_unknown_command(&error) {
            true => misconfigured(format!(
                "REDIS_URL names a cluster, but the server at {asked} is not in cluster mode: write redis:// for one server, \
                 or redis+sentinel:// for Sentinels"
            )),
            false => error,
        }
    })?;
    // The id shows whether the asked node is the primary. The Redis user may lack the permission for the command.
    let myself: Option<String> = redis::cmd("CLUSTER").arg("MYID").query_async(connection).await.ok();
    let is_owned = |row: &[Value]| {
        let bound = |at: usize| row.get(at).and_then(|value| from_redis_value_ref::<u16>(value).ok());
        matches!((bound(0), bound(1)), (Some(first), Some(last)) if (first..=last).contains(&slot))
    };
    let (mut owner, mut nodes, mut elects) = (None, Vec::new(), false);
    for row in &slots {
        let mut shard = row.iter().skip(2).filter_map(|node| parse_node(node, asked));
        let Some((id, address)) = shard.next() else { continue };
        elects |= myself.as_ref() == Some(&id);
        let mut members = vec![address.clone()];
        if is_owned(row) {
            members.extend(shard.map(|(_, address)| address));
            owner = Some((id, address));
        }
        for address in members {
            if !nodes.contains(&address) {
                nodes.push(address);
            }
        }
    }
    let (id, announced) = owner.ok_or_else(|| {
        io::Error::other(format!(
            "no node of the cluster has slot {slot} with the keys, says the one at {asked}"
        ))
    })?;
    let reached = (myself.as_deref() == Some(id.as_str())).then(|| asked.clone());
    let voter = myself.unwrap_or_else(|| asked.to_string());
    Ok(Answer { voter, elects, id, announced, reached, nodes })
}

/// Parses the id and the address of a node in an answer to CLUSTER SLOTS. Returns `None` if the entry has another form.
fn parse_node(node: &Value, asked: &ConnectionAddr) -> Option<(String, ConnectionAddr)> {
    let Value::Array(fields) = node else { return None };
    let host: Option<String> = from_redis_value_ref(fields.first()?).ok()?;
    let port = from_redis_value_ref(fields.get(1)?).ok()?;
    let id = from_redis_value_ref(fields.get(2)?).ok()?;
    Some((id, address(asked, host, port)))
}

/// Returns an address with the TLS settings of the asked server. A node that does not know its own host leaves the host
/// out. Then the address has the host of the asked server, or `localhost` if this server was asked over a Unix domain socket.
fn address(asked: &ConnectionAddr, host: Option<String>, port: u16) -> ConnectionAddr {
    let host = host.filter(|host| !host.is_empty() && host != "?");
    match asked {
        ConnectionAddr::Tcp(own, _) => ConnectionAddr::Tcp(host.unwrap_or_else(|| own.clone()), port),
        ConnectionAddr::TcpTls { host: own, insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host: host.unwrap_or_else(|| own.clone()),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.unwrap_or_else(|| "localhost".into()), port),
    }
}

fn is_unknown_command(error: &RedisError) -> bool {
    error.detail().is_some_and(|text| text.contains("unknown command"))
}

/// Returns the slot of a key: CRC16 (XMODEM) of its hash tag, or of the whole key without a hash tag, modulo 16384 (Redis
/// Cluster specification, "Key distribution model").
pub(super) fn key_slot(key: &str) -> u16 {
    let crc = hash_tag(key).unwrap_or(key).bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // 0x31C3 is the check value of CRC16/XMODEM. The other slots are the answers of CLUSTER KEYSLOT.
        assert_eq!(key_slot("123456789"), 0x31C3);
        assert_eq!((key_slot("{rq}"), key_slot("{rq}:jobs"), key_slot("rq")), (141, 141, 141));
    }
}
