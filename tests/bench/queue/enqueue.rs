//! Measures calls that enqueue jobs: many jobs in one call, and one job in each of many calls.

use std::sync::Arc;

use anyhow::Result;
use saas::queue::Origin;

use super::{Bench, JOBS_PER_CALL};
use crate::{
    bare::{CALLERS, new_ids, run_callers},
    table::EngineAndBaseline,
};

impl Bench {
    pub(super) async fn measure_bulk_enqueue(&self) -> Result<EngineAndBaseline> {
        let ((queue, bare), jobs) = (self.engine_and_baseline("bulk").await?, self.size(100_000));
        let mut both = EngineAndBaseline::default();
        for round in 1..=self.rounds(3) {
            eprintln!("enqueue, 250 a call: round {round}");
            let engine = self.measure(jobs, self.fill(&queue, jobs)).await?;
            self.flush().await?;
            let ids = new_ids(jobs);
            let baseline = self.measure(jobs, bare.push_all(&ids, JOBS_PER_CALL, &self.envelope)).await?;
            self.flush().await?;
            both.add(&[engine, baseline]);
        }
        Ok(both)
    }

    pub(super) async fn measure_single_enqueue(&self) -> Result<EngineAndBaseline> {
        let ((queue, bare), each) = (self.engine_and_baseline("single").await?, self.size(60_000) / CALLERS);
        let envelope: Arc<str> = self.envelope.as_str().into();
        let mut both = EngineAndBaseline::default();
        for round in 1..=self.rounds(3) {
            eprintln!("enqueue, one by one, {CALLERS} at once: round {round}");
            let enqueuing = run_callers(|_| {
                let (queue, job) = (queue.clone(), self.batch[0].clone());
                async move {
                    for _ in 0..each {
                        queue.enqueue(&job, Origin::default()).await?;
                    }
                    anyhow::Ok(())
                }
            });
            let engine = self.measure(each * CALLERS, enqueuing).await?;
            self.flush().await?;
            let ids: Arc<[String]> = new_ids(each * CALLERS).into();
            let pushing = run_callers(|caller| {
                let (bare, ids, envelope) = (bare.clone(), ids.clone(), envelope.clone());
                async move { bare.push_all(&ids[caller * each..][..each], 1, &envelope).await }
            });
            let baseline = self.measure(each * CALLERS, pushing).await?;
            self.flush().await?;
            both.add(&[engine, baseline]);
        }
        Ok(both)
    }
}
