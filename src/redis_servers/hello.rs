//! What a server says about itself when a client connects.

use std::{collections::HashMap, io};

use redis::{ConnectionAddr, RedisResult, Value, aio::MultiplexedConnection, from_redis_value_ref};

use super::misconfigured;

/// The kind and the role of a server. All are false if it does not tell them, such as a proxy.
#[derive(Default)]
pub(super) struct Hello {
    is_sentinel: bool,
    pub(super) is_cluster: bool,
    pub(super) is_replica: bool,
}

impl Hello {
    /// Asks a server. HELLO needs no permission, unlike ROLE and INFO, and is answered while data is loaded.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(super) async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Self> {
        let answer: RedisResult<HashMap<String, Value>> = redis::cmd("HELLO").query_async(connection).await;
        match answer {
            Ok(fields) => {
                let is = |name: &str, wanted: &str| {
                    let value = fields.get(name).map(from_redis_value_ref::<String>);
                    matches!(value, Some(Ok(value)) if value == wanted)
                };
                Ok(Self {
                    is_sentinel: is("mode", "sentinel"),
                    is_cluster: is("mode", "cluster"),
                    is_replica: is("role", "replica"),
                })
            }
            Err(error) if error.is_io_error() => Err(error),
            Err(_) => Ok(Self::default()),
        }
    }

    /// Refuses a server that cannot store anything.
    ///
    /// # Errors
    /// If it is a Sentinel or a replica; the message has the fix.
    pub(super) fn check_single(&self, address: &ConnectionAddr) -> RedisResult<()> {
        if self.is_sentinel {
            return Err(misconfigured(format!(
                "the server at {address} is a Redis Sentinel, which stores no data: set \
                 REDIS_URL=redis+sentinel://{address}/<master-name>"
            )));
        }
        if self.is_replica {
            // After a failover, the same address may lead to the new primary.
            return Err(io::Error::other(format!(
                "the server at {address} is a replica, which accepts no writes: set REDIS_URL to its primary, or to the \
                 Sentinels that know it, as in redis+sentinel://host:26379/<master-name>"
            ))
            .into());
        }
        Ok(())
    }
}
