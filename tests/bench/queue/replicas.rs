//! Measures the cost of `QUEUE_WAIT_REPLICAS`.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use saas::{
    dev::{self, Purpose, Server},
    queue::{Origin, Queue},
};
use secrecy::ExposeSecret;
use url::Url;

use super::Bench;
use crate::{
    bare::{self, CALLERS},
    table::{PER_SECOND, Rounds, Table, number},
};

/// Maximum number of writes before the replica has to confirm one. The wait for each confirmation takes up to 100 ms.
const MAX_PROBE_WRITES: usize = 300;

impl Bench {
    /// Measures callers that enqueue one job at a time, with and without a wait for a replica on the same machine. The
    /// replica is connected in both cases.
    pub(super) async fn measure_replica_wait(&self) -> Result<Table<4>> {
        let replica = Server::redis(&dev::test_dir()?, Purpose::Test).await?;
        let table = self.compare_with_replica(replica.url.expose_secret()).await;
        replica.stop().await;
        table
    }

    async fn compare_with_replica(&self, replica: &str) -> Result<Table<4>> {
        self.connect_replica(replica).await?;
        let (plain, _) = self.engine_and_baseline("replicas").await?;
        let waiting = plain.clone().wait_for_replicas(1);
        let head = ["enqueue, one per call", "QUEUE_WAIT_REPLICAS=0", "QUEUE_WAIT_REPLICAS=1", "ratio"];
        let mut table = Table::new(head);
        for (callers, jobs) in [(1, self.size(2_000)), (CALLERS, self.size(40_000))] {
            let mut rates = <[Rounds; 2]>::default();
            for round in 1..=self.rounds(3) {
                eprintln!("wait for a replica, {callers} callers: round {round}");
                for (queue, rate) in [&plain, &waiting].into_iter().zip(&mut rates) {
                    let begun = Instant::now();
                    try_join_all((0..callers).map(|_| self.enqueue_singly(queue, jobs / callers))).await?;
                    rate.push(jobs as f64 / begun.elapsed().as_secs_f64());
                    self.flush().await?;
                }
            }
            let [plain, waiting] = &rates;
            table.push([
                format!("{callers} callers"),
                plain.show(PER_SECOND),
                waiting.show(PER_SECOND),
                number(waiting.ratio_to(plain), 2),
            ]);
        }
        Ok(table)
    }

    async fn enqueue_singly(&self, queue: &Queue, jobs: usize) -> Result<()> {
        for _ in 0..jobs {
            queue.enqueue(&self.batch[0], Origin::default()).await?;
        }
        Ok(())
    }

    /// Makes the server at the URL `replica` a replica of the server of the benchmark, and waits until it confirms a write.
    async fn connect_replica(&self, replica: &str) -> Result<()> {
        let primary: Url = self.url.parse()?;
        let mut conn = bare::connect(replica).await?;
        let password = primary.password().context("the server has no password")?;
        redis::cmd("CONFIG").arg("SET").arg("masterauth").arg(password).query_async::<()>(&mut conn).await?;
        let port = primary.port().context("the server has no port")?;
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).query_async::<()>(&mut conn).await?;
        let mut conn = self.conn.clone();
        for _ in 0..MAX_PROBE_WRITES {
            let mut commands = redis::pipe();
            commands.cmd("SET").arg("confirmed").arg("").ignore().cmd("WAIT").arg(1).arg(100);
            let (replicas,): (u32,) = commands.query_async(&mut conn).await?;
            if replicas == 1 {
                return Ok(());
            }
        }
        bail!("the replica does not confirm writes")
    }
}
