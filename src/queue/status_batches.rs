//! Reads the status of single jobs. Concurrent reads share calls of the script, because one call for several jobs costs Redis
//! less than several calls.

use std::sync::Arc;

use redis::Value;
use tokio::time::timeout;

use super::{
    batcher::{BatchHandler, Batcher, Submitted},
    error::{Error, Result},
    script_client::ScriptClient,
    scripts,
};

/// Maximum number of jobs that one call reads with payloads or results, which may be large.
pub(super) const JOBS_PER_STATUS_CALL: usize = 20;

/// Maximum size in bytes of an outcome that a batch reads with its result. A large result would delay the other jobs of the batch.
const MAX_SHARED_OUTCOME_BYTES: usize = 16 * 1024;

/// Reads the batches of a [`Batcher`]. An item is the id of a job. The output is the answer of the script for this job, without
/// the payload, and without a large result.
#[derive(Clone)]
pub(super) struct StatusBatches(pub(super) ScriptClient);

impl Batcher<StatusBatches> {
    /// Reads a job in one of the next batches. `None` if the job has a large result, so that the caller must read it alone.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer within twice [`ScriptClient::timeout`], which includes the wait for the
    /// batches before, or refuses the call.
    pub(super) async fn read(&self, id: &str) -> Result<Option<Vec<Value>>> {
        let StatusBatches(scripts) = self.handler();
        let answer = timeout(2 * scripts.timeout(), self.submit(id.to_owned())).await;
        let answer = answer.map_err(|elapsed| Error::Unavailable(elapsed.into()))??;
        // The script has left out a result.
        let is_cut = matches!(&answer[..], [_, _, _, _]);
        Ok((!is_cut).then_some(answer))
    }
}

impl BatchHandler for StatusBatches {
    type Item = String;
    type Output = Vec<Value>;

    fn batch_size<'a>(ids: impl ExactSizeIterator<Item = &'a String>) -> usize {
        ids.len().min(JOBS_PER_STATUS_CALL)
    }

    async fn handle(&self, batch: Vec<Submitted<String, Vec<Value>>>) -> Result<(), Arc<Error>> {
        let ids: Vec<_> = batch.iter().map(|job| &*job.item).collect();
        let mut call = self.0.prepare(&scripts::STATUS);
        call.arg(0).arg(MAX_SHARED_OUTCOME_BYTES).arg(ids);
        match self.0.run::<Vec<Vec<Value>>>(&call).await {
            Ok(answers) => batch.into_iter().zip(answers).for_each(|(job, answer)| job.reply(Ok(answer))),
            Err(error) => {
                let error = Arc::new(error);
                batch.into_iter().for_each(|job| job.reply(Err(error.clone())));
            }
        }
        // The reads that wait have time limits of their own, and the next call may succeed.
        Ok(())
    }
}
