//! Measures the worker at several values of `WORKER_CONCURRENCY`.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::join_all;
use saas::queue::{Context, EnqueueOptions, Failure, Job, Origin};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{Bench, JOBS_PER_CALL, Probe};
use crate::{
    bare,
    table::{PER_SECOND, Rounds, Table, number},
};

/// The duration of a [`Nap`].
const NAP: Duration = Duration::from_millis(1);
/// The values that are compared. The first is the default of `WORKER_CONCURRENCY`.
const CONCURRENCY: [usize; 5] = [10, 1, 50, 100, 256];
/// The number of job groups among which the worker alternates.
const GROUPS: usize = 10;

/// A job that sleeps for 1 ms.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Nap {}

impl Job for Nap {
    type State = Probe;
    type Output = ();
    const NAME: &'static str = "nap";

    async fn run(self, _: Context<Probe>) -> Result<(), Failure> {
        sleep(NAP).await;
        Ok(())
    }
}

impl Bench {
    /// Measures the worker at each concurrency: with no-op jobs, with no-op jobs in groups, and with jobs that take 1 ms. The
    /// baseline of the 1 ms jobs has the same concurrency: tasks that sleep for 1 ms in a loop, without a queue.
    pub(super) async fn measure_by_concurrency(&self) -> Result<Table<7>> {
        let head = [
            "concurrency",
            "no-op jobs/s",
            "CPU s per million of them, worker + Redis",
            "no-op jobs/s in 10 groups",
            "1 ms jobs/s",
            "1 ms tasks/s in a loop",
            "ratio",
        ];
        let (queue, _) = self.engine_and_baseline("levels").await?;
        let mut table = Table::new(head);
        for concurrency in CONCURRENCY {
            let [mut plain, mut worker, mut redis, mut grouped, mut naps, mut tasks] =
                <[Rounds; 6]>::default();
            for round in 1..=self.rounds(3) {
                eprintln!("concurrency {concurrency}: round {round}");
                let jobs = self.size(if concurrency == 1 { 20_000 } else { 100_000 });
                self.fill(&queue, jobs).await?;
                let mut conn = self.conn.clone();
                let before = (bare::own_cpu_seconds(), bare::cpu_seconds(&mut conn).await?);
                plain.push(self.run_worker_at(&queue, concurrency, jobs).await?.rate());
                let per_million = 1e6 / jobs as f64;
                worker.push((bare::own_cpu_seconds() - before.0) * per_million);
                redis.push((bare::cpu_seconds(&mut conn).await? - before.1) * per_million);
                let calls = (jobs / JOBS_PER_CALL / GROUPS).max(1);
                for group in 0..GROUPS {
                    let options = EnqueueOptions { group: Some(format!("g{group}")), ..Default::default() };
                    for _ in 0..calls {
                        queue.enqueue_all(&self.batch, Origin::default(), options.clone()).await?;
                    }
                }
                grouped.push(
                    self.run_worker_at(&queue, concurrency, calls * JOBS_PER_CALL * GROUPS).await?.rate(),
                );
                let jobs = self.size(500 * concurrency.min(100));
                queue.enqueue_all(&vec![Nap {}; jobs], Origin::default(), EnqueueOptions::default()).await?;
                naps.push(self.run_worker_at(&queue, concurrency, jobs).await?.rate());
                let each = jobs / concurrency;
                let begun = Instant::now();
                join_all((0..concurrency).map(|_| tokio::spawn(nap(each)))).await;
                tasks.push((each * concurrency) as f64 / begun.elapsed().as_secs_f64());
                self.flush().await?;
            }
            let name = if concurrency == CONCURRENCY[0] { " (default)" } else { "" };
            table.push([
                format!("{concurrency}{name}"),
                plain.show(PER_SECOND),
                format!("{} + {}", number(worker.median(), 1), number(redis.median(), 1)),
                grouped.show(PER_SECOND),
                naps.show(PER_SECOND),
                tasks.show(PER_SECOND),
                number(naps.ratio_to(&tasks), 2),
            ]);
        }
        Ok(table)
    }
}

/// Does the work of `times` [`Nap`] jobs without a queue.
async fn nap(times: usize) {
    for _ in 0..times {
        sleep(NAP).await;
    }
}
