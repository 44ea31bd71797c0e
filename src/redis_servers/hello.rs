//! The answer of a server to HELLO when a client connects.

use std::collections::HashMap;

use redis::{ConnectionAddr, RedisResult, Value, aio::MultiplexedConnection, from_redis_value_ref};

use super::misconfigured;

/// The kind and the role of a server. All fields are false if the server does not report them, as a proxy may do.
#[derive(Default)]
pub(super) struct Hello {
    is_sentinel: bool,
    pub(super) is_cluster: bool,
    pub(super) is_replica: bool,
}

impl Hello {
    /// Sends HELLO to a server. Unlike ROLE and INFO, HELLO needs no permission, and servers answer it while they load data.
    ///
    /// # Errors
    /// If the connection fails, or the server does not answer in time. An error that the server sends is no error here: all
    /// fields are false then.
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

    /// Returns an error if the server at `address` is a Sentinel, which has no keys. The message says how to correct
    /// `REDIS_URL`.
    pub(super) fn refuse_sentinel(&self, address: &ConnectionAddr) -> RedisResult<()> {
        match self.is_sentinel {
            true => Err(misconfigured(format!(
                "the server at {address} is a Redis Sentinel, which stores no data: set \
                 REDIS_URL=redis+sentinel://{address}/<master-name>"
            ))),
            false => Ok(()),
        }
    }
}
