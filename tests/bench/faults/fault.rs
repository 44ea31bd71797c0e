//! The faults that the benchmark injects.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{redis_servers::Topology, stack::Stack};
use crate::bare::info_field;

/// How long a server is suspended or a network is cut.
const OUTAGE: Duration = Duration::from_secs(5);
/// The simulated time until an operator or a tool notices that the primary of PostgreSQL has failed.
const DETECTION_TIME: Duration = Duration::from_secs(2);
/// How long the queue is paused, so that its jobs fill Redis.
const QUEUE_PAUSE: Duration = Duration::from_secs(20);
/// The memory that Redis can still allocate before it is full.
const FREE_BYTES: u64 = 300_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    WorkerKilled,
    RedisKilled,
    RedisFrozen,
    RedisCut,
    RedisFull,
    SentinelKilled,
    SentinelPlanned,
    ClusterKilled,
    ClusterPlanned,
    PostgresKilled,
    PostgresFrozen,
    PostgresCut,
    PostgresPromoted,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::WorkerKilled,
        Self::RedisKilled,
        Self::RedisFrozen,
        Self::RedisCut,
        Self::RedisFull,
        Self::SentinelKilled,
        Self::SentinelPlanned,
        Self::ClusterKilled,
        Self::ClusterPlanned,
        Self::PostgresKilled,
        Self::PostgresFrozen,
        Self::PostgresCut,
        Self::PostgresPromoted,
    ];

    /// Returns the name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKilled => "worker killed, another one started",
            Self::RedisKilled => "Redis killed and restarted, `appendfsync everysec`",
            Self::RedisFrozen => "Redis frozen for 5 s",
            Self::RedisCut => "network to Redis cut for 5 s",
            Self::RedisFull => "Redis full of jobs while the queue is paused for 20 s, then drained",
            Self::SentinelKilled => "Redis Sentinel: primary killed, `down-after-milliseconds` 2,000",
            Self::SentinelPlanned => "Redis Sentinel: `SENTINEL FAILOVER`",
            Self::ClusterKilled => "Redis Cluster: primary killed, `cluster-node-timeout` 2,000",
            Self::ClusterPlanned => "Redis Cluster: `CLUSTER FAILOVER`",
            Self::PostgresKilled => "PostgreSQL killed and restarted",
            Self::PostgresFrozen => "PostgreSQL frozen for 5 s",
            Self::PostgresCut => "network to PostgreSQL cut for 5 s",
            Self::PostgresPromoted => "PostgreSQL primary killed, standby promoted 2 s later",
        }
    }

    /// Returns the Redis servers that the fault needs.
    pub fn topology(self) -> Topology {
        match self {
            Self::SentinelKilled | Self::SentinelPlanned => Topology::Sentinel,
            Self::ClusterKilled | Self::ClusterPlanned => Topology::Cluster,
            _ => Topology::Single,
        }
    }

    /// Injects the fault. Returns when the cause of the fault has ended: for example, when the killed server runs again, or
    /// another server has become the primary.
    pub async fn inject(self, stack: &mut Stack) -> Result<()> {
        match self {
            Self::WorkerKilled => stack.replace_worker().await,
            Self::RedisKilled => stack.redis.restart().await,
            Self::RedisFrozen => {
                let _frozen = stack.redis.primary().freeze()?;
                sleep(OUTAGE).await;
                Ok(())
            }
            Self::RedisCut | Self::PostgresCut => {
                let network = stack.network.as_ref().context("there is no proxy")?;
                network.set_cut(true);
                sleep(OUTAGE).await;
                network.set_cut(false);
                Ok(())
            }
            Self::RedisFull => fill_redis(stack).await,
            Self::SentinelKilled | Self::ClusterKilled => stack.redis.kill_primary().await,
            Self::SentinelPlanned | Self::ClusterPlanned => stack.redis.switch_primary().await,
            Self::PostgresKilled => {
                stack.postgres.kill().await?;
                stack.postgres.start_again().await
            }
            Self::PostgresFrozen => {
                let _frozen = stack.postgres.freeze().await?;
                sleep(OUTAGE).await;
                Ok(())
            }
            Self::PostgresPromoted => {
                stack.postgres.kill().await?;
                sleep(DETECTION_TIME).await;
                stack.standby.as_ref().context("there is no standby")?.promote().await
            }
        }
    }
}

/// Limits the memory of Redis, and pauses the queue for [`QUEUE_PAUSE`], in which its jobs fill Redis. The limit stays in
/// effect afterwards, so that only workers and the scheduler free memory.
async fn fill_redis(stack: &Stack) -> Result<()> {
    let redis = stack.redis.primary();
    stack.run(&["queue", "pause", "default"]).await?;
    let info: String = redis.command(&["INFO", "memory"]).await?;
    let used: u64 = info_field(&info, "used_memory").context("Redis does not report its memory")?.parse()?;
    let limit = (used + FREE_BYTES).to_string();
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", &limit]).await?;
    sleep(QUEUE_PAUSE).await;
    stack.run(&["queue", "resume", "default"]).await
}
