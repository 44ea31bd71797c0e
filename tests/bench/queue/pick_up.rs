//! Measures how soon an idle worker starts a job.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use saas::queue::{Origin, Worker};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Bench, JOBS, Probe, options};
use crate::{bare, table::Rounds};

/// The pause before each job, in which the worker becomes idle, and before each PING.
const PAUSE: Duration = Duration::from_millis(5);

impl Bench {
    /// Measures the milliseconds from enqueuing a job to its start, and from sending a PING to its answer. Returns the
    /// median, the 99th percentile and the maximum.
    pub(super) async fn measure_pick_up(&self) -> Result<[[Rounds; 2]; 3]> {
        let ((queue, _), mut conn) =
            (self.engine_and_baseline("idle").await?, bare::connect(&self.url).await?);
        let (sender, mut begun) = mpsc::unbounded_channel();
        let (stop, never) = (CancellationToken::new(), CancellationToken::new());
        let worker = Worker::new(&queue, JOBS, Probe(Some(sender)), options(10, false)?)?;
        let working = tokio::spawn(worker.run(stop.clone(), never));
        sleep(100 * PAUSE).await;
        let mut found = <[[Rounds; 2]; 3]>::default();
        let mut most = [0.0_f64; 2];
        for round in 1..=self.rounds(3) {
            eprintln!("pick-up by an idle worker: round {round}");
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..self.size(500) {
                sleep(PAUSE).await;
                let asked = Instant::now();
                queue.enqueue(&self.batch[0], Origin::default()).await?;
                let begun = timeout(Duration::from_secs(30), begun.recv()).await?;
                let begun = begun.context("the worker has ended")?;
                times[0].push(begun.duration_since(asked).as_secs_f64() * 1e3);
                sleep(PAUSE).await;
                let asked = Instant::now();
                redis::cmd("PING").query_async::<()>(&mut conn).await?;
                times[1].push(asked.elapsed().as_secs_f64() * 1e3);
            }
            for (side, times) in times.iter_mut().enumerate() {
                times.sort_by(f64::total_cmp);
                found[0][side].push(times[times.len() / 2]);
                found[1][side].push(times[times.len() * 99 / 100]);
                most[side] = times.iter().copied().fold(most[side], f64::max);
            }
        }
        for (side, most) in most.into_iter().enumerate() {
            found[2][side].push(most);
        }
        stop.cancel();
        working.await??;
        self.flush().await?;
        Ok(found)
    }
}
