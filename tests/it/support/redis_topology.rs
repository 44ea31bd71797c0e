//! Redis servers with replicas: under Sentinels, and as a cluster.

use std::{collections::HashMap, net::TcpListener, process::Command};

use redis::FromRedisValue;

use super::{
    eventually,
    own_redis::redis_server,
    process::{Running, TempDir},
    queue::connect,
};

/// The name under which the Sentinels know the primary.
pub const MASTER_NAME: &str = "main";
/// A key prefix whose hash slot belongs to the first of the three primaries of a [`Cluster`].
pub const CLUSTER_PREFIX: &str = "{rq}";

/// A Redis server or a Sentinel at its own port. It is killed when this value is dropped.
pub struct Node {
    pub process: Running,
    pub port: u16,
    _dir: TempDir,
}

/// Returns free ports. All listeners stay open until the last port is known, so that the ports differ.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Node {
    fn start(port: u16, settings: &[&str]) -> Self {
        Self::start_in(TempDir::in_memory(), port, settings)
    }

    fn start_in(dir: TempDir, port: u16, settings: &[&str]) -> Self {
        let mut command = Command::new(redis_server());
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
        // By default, a primary waits five seconds for more replicas before it sends its data.
        command.arg(dir.path()).args(["--repl-diskless-sync-delay", "0"]).args(settings);
        Self { process: Running::start(command), port, _dir: dir }
    }

    fn sentinel(port: u16, master: u16, quorum: usize) -> Self {
        let dir = TempDir::in_memory();
        let config = dir.path().join("conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir \"{}\"\nsentinel monitor {MASTER_NAME} 127.0.0.1 {master} {quorum}\n\
             sentinel down-after-milliseconds {MASTER_NAME} 5000\nsentinel failover-timeout {MASTER_NAME} 5000\n",
            dir.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(redis_server());
        command.arg(config).arg("--sentinel");
        Self { process: Running::start(command), port, _dir: dir }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut conn = connect(&self.url()).await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut conn).await
    }

    async fn until_up(&self) {
        eventually("the server is up", || async { self.command::<String>(&["PING"]).await.ok() }).await;
    }

    async fn info(&self) -> String {
        self.command(&["INFO", "replication"]).await.unwrap_or_default()
    }

    pub async fn is_primary(&self) -> bool {
        self.info().await.contains("role:master")
    }

    async fn until_replicas_are_connected(&self, replicas: usize) {
        eventually("the replicas are connected", || async {
            (self.info().await.matches("state=online").count() == replicas).then_some(())
        })
        .await;
    }

    /// Waits until at least one replica has all earlier writes.
    pub async fn replicate(&self) {
        let mut conn = connect(&self.url()).await.unwrap();
        // WAIT waits only for the writes of its own connection, so this connection needs a write.
        redis::cmd("SET").arg("{rq}:replicated").arg(1).query_async::<()>(&mut conn).await.unwrap();
        let replicas: u32 = redis::cmd("WAIT").arg(1).arg(10_000).query_async(&mut conn).await.unwrap();
        assert!(replicas >= 1, "no replica has answered");
    }
}

/// A primary with replicas, and the Sentinels that watch them.
pub struct SentinelGroup {
    /// The first server is the primary until a failover.
    pub servers: Vec<Node>,
    pub sentinels: Vec<Node>,
}

impl SentinelGroup {
    pub async fn start(replicas: usize, sentinels: usize) -> Self {
        let ports = free_ports(1 + replicas + sentinels);
        let (first, primary) = (ports[0], ports[0].to_string());
        let mut servers = vec![Node::start(first, &[])];
        servers[0].until_up().await;
        let replica = |port: &u16| Node::start(*port, &["--replicaof", "127.0.0.1", &primary]);
        servers.extend(ports[1..=replicas].iter().map(replica));
        // The Sentinels learn of a replica at once only if it is already connected.
        servers[0].until_replicas_are_connected(replicas).await;
        let quorum = sentinels / 2 + 1;
        let sentinel = |port: &u16| Node::sentinel(*port, first, quorum);
        let sentinels: Vec<_> = ports[1 + replicas..].iter().map(sentinel).collect();
        let group = Self { servers, sentinels };
        for sentinel in &group.sentinels {
            eventually("the Sentinel knows all servers", || async {
                let others: Vec<redis::Value> =
                    sentinel.command(&["SENTINEL", "SENTINELS", MASTER_NAME]).await.ok()?;
                let replicas = group.replicas_of(sentinel).await?;
                // A Sentinel does not promote a replica before it has queried the replica and knows this status.
                let usable = replicas.iter().filter(|fields| fields["master-link-status"] == "ok");
                let is_complete =
                    others.len() + 1 == group.sentinels.len() && usable.count() + 1 == group.servers.len();
                is_complete.then_some(())
            })
            .await;
        }
        group
    }

    /// Makes the Sentinels replace a primary that has not answered for half a second. Until this call, the limit is five
    /// seconds, so that the Sentinels do not replace a server that only pauses.
    pub async fn fail_over_soon(&self) {
        for sentinel in &self.sentinels {
            let words = ["SENTINEL", "SET", MASTER_NAME, "down-after-milliseconds", "500"];
            sentinel.command::<()>(&words).await.unwrap();
        }
    }

    /// Returns the replicas that a Sentinel knows, or `None` if the Sentinel does not answer.
    pub async fn replicas_of(&self, sentinel: &Node) -> Option<Vec<HashMap<String, String>>> {
        sentinel.command(&["SENTINEL", "REPLICAS", MASTER_NAME]).await.ok()
    }

    pub fn url(&self) -> String {
        let sentinels: Vec<_> = self.sentinels.iter().map(Node::address).collect();
        format!("redis+sentinel://{}/{MASTER_NAME}", sentinels.join(","))
    }
}

/// A cluster of three primaries, each with a replica.
pub struct Cluster {
    /// Three primaries, then the replica of each. The first has the slot of [`CLUSTER_PREFIX`].
    pub nodes: Vec<Node>,
}

const PRIMARIES: usize = 3;

fn cluster_settings(bus: &str) -> [&str; 6] {
    ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-port", bus]
}

impl Cluster {
    pub async fn start() -> Self {
        let ports = free_ports(4 * PRIMARIES);
        let (ports, bus_ports) = ports.split_at(2 * PRIMARIES);
        let start = |(port, bus): (&u16, &u16)| Node::start(*port, &cluster_settings(&bus.to_string()));
        let cluster = Self { nodes: ports.iter().zip(bus_ports).map(start).collect() };
        for node in &cluster.nodes {
            node.until_up().await;
        }
        let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (at, (node, (first, last))) in cluster.nodes.iter().zip(slots).enumerate() {
            node.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", first, last]).await.unwrap();
            node.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await.unwrap();
        }
        for (port, bus) in ports.iter().zip(bus_ports).skip(1) {
            let (port, bus) = (port.to_string(), bus.to_string());
            cluster.nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await.unwrap();
        }
        for at in 0..PRIMARIES {
            let id: String = cluster.nodes[at].command(&["CLUSTER", "MYID"]).await.unwrap();
            let replica = &cluster.nodes[PRIMARIES + at];
            eventually("the replica knows its primary", || async {
                replica.command::<()>(&["CLUSTER", "REPLICATE", &id]).await.ok()
            })
            .await;
        }
        cluster.until_complete().await;
        cluster
    }

    /// Waits until the cluster accepts writes, and each node knows the replica of [`Self::owner`].
    async fn until_complete(&self) {
        for node in &self.nodes {
            eventually("the cluster is up", || async {
                let info: String = node.command(&["CLUSTER", "INFO"]).await.ok()?;
                info.contains("cluster_state:ok").then_some(())
            })
            .await;
        }
        self.owner().until_replicas_are_connected(1).await;
        // The cluster does not list a replica without data.
        self.owner().replicate().await;
        for node in &self.nodes {
            eventually("the node knows the replica", || async {
                let slots: Vec<Vec<redis::Value>> = node.command(&["CLUSTER", "SLOTS"]).await.ok()?;
                // A range of slots has four entries: its first slot, its last slot, the primary and the replica.
                (slots.len() == PRIMARIES && slots[0].len() == 4).then_some(())
            })
            .await;
        }
    }

    /// Makes the nodes replace a primary that has not answered for a second. Until this call, the limit is five seconds, so
    /// that the nodes do not replace a server that only pauses.
    pub async fn fail_over_soon(&self) {
        for node in &self.nodes {
            // A failed node does not answer, so the error is ignored.
            let _ = node.command::<()>(&["CONFIG", "SET", "cluster-node-timeout", "1000"]).await;
        }
    }

    /// Starts a server that considers itself the owner of the slot of [`CLUSTER_PREFIX`], like an owner that lost contact
    /// to the other primaries before they replaced it.
    pub async fn isolated_owner(&self) -> Node {
        let ports = free_ports(2);
        let (port, bus) = (ports[0], ports[1].to_string());
        let myself = "a".repeat(40);
        let mut known = format!("{myself} 127.0.0.1:{port}@{bus} myself,master - 0 0 1 connected 0-5460\n");
        for (node, slots) in self.nodes[1..].iter().zip(["5461-10922", "10923-16383"]) {
            let id: String = node.command(&["CLUSTER", "MYID"]).await.unwrap();
            // No server listens at this port of the cluster bus.
            let at = format!("127.0.0.1:{}@9", node.port);
            known += &format!("{id} {at} master,fail - 0 0 2 disconnected {slots}\n");
        }
        known += "vars currentEpoch 2 lastVoteEpoch 0\n";
        let dir = TempDir::in_memory();
        std::fs::write(dir.path().join("nodes.conf"), known).unwrap();
        let isolated = Node::start_in(dir, port, &cluster_settings(&bus));
        isolated.until_up().await;
        isolated
    }

    /// Returns the primary that owns the slot of [`CLUSTER_PREFIX`] until a failover.
    pub fn owner(&self) -> &Node {
        &self.nodes[0]
    }

    /// Returns the replica of [`Self::owner`].
    pub fn replica(&self) -> &Node {
        &self.nodes[PRIMARIES]
    }

    /// Returns a URL with two nodes that do not own the slot of [`CLUSTER_PREFIX`].
    pub fn url(&self) -> String {
        format!("redis-cluster://{},{}", self.nodes[1].address(), self.nodes[2].address())
    }
}
