//! Group commit: jobs that are enqueued at the same time share one call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{
    client::Queue,
    enqueue::{MAX_BYTES, MAX_JOBS, Place},
};
use crate::error::{Error, Result};

/// While one push is under way, those that come wait for the next.
#[derive(Clone, Default)]
pub(super) struct Combiner(Arc<Mutex<Combining>>);

#[derive(Default)]
struct Combining {
    waiting: Vec<Waiting>,
    under_way: bool,
}

pub(super) struct Waiting {
    queue: &'static str,
    id: String,
    text: String,
    done: Option<oneshot::Sender<Result<(), Arc<Error>>>>,
}

impl Waiting {
    pub(super) fn new(queue: &'static str, id: String, text: String) -> Self {
        Self { queue, id, text, done: None }
    }
}

impl Combiner {
    fn lock(&self) -> MutexGuard<'_, Combining> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that go next; none, and nothing is under way any more, where nobody waits.
    fn next(&self) -> Vec<Waiting> {
        let mut all = self.lock();
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            bytes += waiting.text.len();
            bytes <= MAX_BYTES
        };
        let n = all.waiting.iter().take(MAX_JOBS).take_while(fits).count();
        let n = n.max(1).min(all.waiting.len());
        all.under_way = n > 0;
        all.waiting.drain(..n).collect()
    }
}

/// Lets the next caller begin anew should the task be dropped, as it is when its runtime ends.
struct UnderWay(Combiner);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = self.0.lock();
        if all.under_way {
            all.under_way = false;
            // Their callers hear that nobody answers.
            all.waiting.clear();
        }
    }
}

impl Queue {
    pub(super) async fn combine(&self, mut job: Waiting) -> Result<()> {
        let (done, answer) = oneshot::channel();
        job.done = Some(done);
        let begin = {
            let mut all = self.combiner().lock();
            all.waiting.push(job);
            !std::mem::replace(&mut all.under_way, true)
        };
        if begin {
            // A task of its own: a caller that goes away must not take the others' jobs along.
            let (queue, guard) = (self.clone(), UnderWay(self.combiner().clone()));
            tokio::spawn(async move {
                loop {
                    let batch = guard.0.next();
                    if batch.is_empty() {
                        return;
                    }
                    queue.push_batch(batch).await;
                }
            });
        }
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::unavailable("Redis", Shared(error))),
            Err(gone) => Err(Error::unavailable("Redis", gone)),
        }
    }

    async fn push_batch(&self, mut batch: Vec<Waiting>) {
        batch.sort_by_key(|waiting| waiting.queue);
        let place = Place::default();
        let pushes = batch.chunk_by_mut(|one, other| one.queue == other.queue).map(|jobs| async {
            let texts: Vec<_> = jobs.iter().map(|job| (job.id.as_str(), job.text.as_str())).collect();
            let queue = jobs[0].queue;
            let answer = self.push(queue, &texts, &place).await.map(drop).map_err(Arc::new);
            for job in jobs {
                // Whoever asked may have gone.
                let _ = job.done.take().map(|done| done.send(answer.clone()));
            }
        });
        join_all(pushes).await;
    }
}

/// One fault of Redis, as each of those that it befell sees it.
#[derive(Debug)]
struct Shared(Arc<Error>);

impl std::fmt::Display for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}
