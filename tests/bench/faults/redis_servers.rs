//! The Redis servers of a benchmark of a fault: one server, a primary with replicas and Sentinels, or a cluster.

use std::{collections::HashMap, path::Path};

use anyhow::Result;

use super::{
    poll::eventually,
    redis_node::{Node, free_ports},
};

/// The name under which the Sentinels know the primary.
const MASTER_NAME: &str = "main";
const REPLICAS: usize = 2;
const SENTINELS: usize = 3;
/// The number of Sentinels that have to agree that the primary is down.
const QUORUM: usize = 2;
/// The number of primaries of a cluster. Each has a replica.
const CLUSTER_PRIMARIES: usize = 3;
/// The slots of each primary. The first primary has the keys with the prefix `{rq}`.
const CLUSTER_SLOTS: [[&str; 2]; CLUSTER_PRIMARIES] = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]];
/// The time without a response after which the other servers consider a server down, in milliseconds.
const DOWN_AFTER_MS: &str = "2000";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One server with an append-only file.
    Single,
    Sentinel,
    Cluster,
}

pub struct RedisServers {
    topology: Topology,
    /// The first node is the primary of the queue until a failover.
    nodes: Vec<Node>,
    sentinels: Vec<Node>,
}

impl RedisServers {
    /// Starts the servers with their data below `dir`.
    pub async fn start(topology: Topology, dir: &Path) -> Result<Self> {
        match topology {
            Topology::Single => {
                let settings = ["--appendonly", "yes", "--appendfsync", "everysec"];
                let nodes = vec![Node::server(dir, free_ports(1)?[0], &settings).await?];
                Ok(Self { topology, nodes, sentinels: Vec::new() })
            }
            Topology::Sentinel => Self::start_sentinels(dir).await,
            Topology::Cluster => Self::start_cluster(dir).await,
        }
    }

    async fn start_sentinels(dir: &Path) -> Result<Self> {
        let ports = free_ports(1 + REPLICAS + SENTINELS)?;
        let (first, primary) = (ports[0], ports[0].to_string());
        let mut nodes = vec![Node::server(dir, first, &[]).await?];
        for port in &ports[1..=REPLICAS] {
            nodes.push(Node::server(dir, *port, &["--replicaof", "127.0.0.1", &primary]).await?);
        }
        // A Sentinel finds the replicas at its start only if they are connected to the primary.
        nodes[0].wait_for_replicas(REPLICAS).await?;
        let config = format!(
            "sentinel monitor {MASTER_NAME} 127.0.0.1 {primary} {QUORUM}\n\
             sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MS}\n"
        );
        let mut sentinels = Vec::new();
        for port in &ports[1 + REPLICAS..] {
            sentinels.push(Node::sentinel(dir, *port, &config).await?);
        }
        for sentinel in &sentinels {
            eventually("the Sentinels know all servers", async || knows_all(sentinel).await.then_some(()))
                .await?;
        }
        Ok(Self { topology: Topology::Sentinel, nodes, sentinels })
    }

    async fn start_cluster(dir: &Path) -> Result<Self> {
        let ports = free_ports(4 * CLUSTER_PRIMARIES)?;
        let (ports, bus_ports) = ports.split_at(2 * CLUSTER_PRIMARIES);
        let mut nodes = Vec::new();
        for (port, bus) in ports.iter().zip(bus_ports) {
            let bus = bus.to_string();
            let settings =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", DOWN_AFTER_MS, "--cluster-port", &bus];
            nodes.push(Node::server(dir, *port, &settings).await?);
        }
        for (at, (node, [first, last])) in nodes.iter().zip(CLUSTER_SLOTS).enumerate() {
            node.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", first, last]).await?;
            node.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await?;
        }
        for (port, bus) in ports.iter().zip(bus_ports).skip(1) {
            let (port, bus) = (port.to_string(), bus.to_string());
            nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await?;
        }
        let (primaries, replicas) = nodes.split_at(CLUSTER_PRIMARIES);
        for (primary, replica) in primaries.iter().zip(replicas) {
            let id: String = primary.command(&["CLUSTER", "MYID"]).await?;
            eventually("the replica knows its primary", async || {
                replica.command::<()>(&["CLUSTER", "REPLICATE", &id]).await.ok()
            })
            .await?;
        }
        for primary in primaries {
            primary.wait_for_replicas(1).await?;
        }
        for node in &nodes {
            eventually("the cluster is complete", async || is_complete(node).await.then_some(())).await?;
        }
        Ok(Self { topology: Topology::Cluster, nodes, sentinels: Vec::new() })
    }

    /// Returns the `REDIS_URL` of these servers.
    pub fn url(&self) -> String {
        let list = |nodes: &[Node]| nodes.iter().map(Node::address).collect::<Vec<_>>().join(",");
        match self.topology {
            Topology::Single => self.primary().url(),
            Topology::Sentinel => format!("redis+sentinel://{}/{MASTER_NAME}", list(&self.sentinels)),
            // The URL lists only nodes that do not own the slot of the queue, so `saas` has to find the owner.
            Topology::Cluster => format!("redis-cluster://{}", list(&self.nodes[1..CLUSTER_PRIMARIES])),
        }
    }

    /// Returns the `REDIS_KEY_PREFIX` of these servers.
    pub fn prefix(&self) -> &'static str {
        if self.topology == Topology::Cluster { "{rq}" } else { "rq" }
    }

    /// Returns the node that is the primary of the queue until a failover.
    pub fn primary(&self) -> &Node {
        &self.nodes[0]
    }

    /// Kills the first node and starts it again with its data.
    pub async fn restart(&mut self) -> Result<()> {
        self.nodes[0].kill().await?;
        self.nodes[0].start().await
    }

    /// Kills the first node, and waits until a replica of it has become the primary.
    pub async fn kill_primary(&mut self) -> Result<()> {
        self.nodes[0].kill().await?;
        self.wait_for_promotion().await
    }

    /// Requests a planned failover, and waits until a replica is the primary.
    pub async fn switch_primary(&self) -> Result<()> {
        match self.sentinels.first() {
            Some(sentinel) => sentinel.command::<()>(&["SENTINEL", "FAILOVER", MASTER_NAME]).await?,
            None => self.nodes[CLUSTER_PRIMARIES].command::<()>(&["CLUSTER", "FAILOVER"]).await?,
        }
        self.wait_for_promotion().await
    }

    async fn wait_for_promotion(&self) -> Result<()> {
        let replicas = match self.topology {
            // The replica of the first node. The other nodes are primaries and replicas of other slots.
            Topology::Cluster => &self.nodes[CLUSTER_PRIMARIES..=CLUSTER_PRIMARIES],
            Topology::Single | Topology::Sentinel => &self.nodes[1..],
        };
        eventually("a replica is promoted", async || {
            for replica in replicas {
                if replica.is_primary().await {
                    return Some(());
                }
            }
            None
        })
        .await
    }
}

/// Returns whether a Sentinel knows all other Sentinels and all replicas, and all replicas are connected to the primary.
async fn knows_all(sentinel: &Node) -> bool {
    let others = sentinel.command::<Vec<redis::Value>>(&["SENTINEL", "SENTINELS", MASTER_NAME]).await;
    let replicas =
        sentinel.command::<Vec<HashMap<String, String>>>(&["SENTINEL", "REPLICAS", MASTER_NAME]).await;
    let is_usable = |fields: &HashMap<String, String>| {
        fields.get("master-link-status").is_some_and(|status| status == "ok")
    };
    others.is_ok_and(|others| others.len() + 1 == SENTINELS)
        && replicas.is_ok_and(|all| all.iter().filter(|fields| is_usable(fields)).count() == REPLICAS)
}

/// Returns whether a node of a cluster accepts commands, and knows a replica of each primary.
async fn is_complete(node: &Node) -> bool {
    let info = node.command::<String>(&["CLUSTER", "INFO"]).await;
    let slots = node.command::<Vec<Vec<redis::Value>>>(&["CLUSTER", "SLOTS"]).await;
    // Each range of slots has four entries: its first slot, its last slot, the primary and the replica.
    info.is_ok_and(|info| info.contains("cluster_state:ok"))
        && slots
            .is_ok_and(|slots| slots.len() == CLUSTER_PRIMARIES && slots.iter().all(|range| range.len() == 4))
}
