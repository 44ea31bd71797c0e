//! Group commit: jobs that are enqueued at the same time share one call.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::{
    enqueue_options::EnqueueOptions,
    error::{Error, Result},
    push::{batch_size, push},
    script_client::ScriptClient,
};

/// While one push is under way, those that come wait for the next.
#[derive(Clone)]
pub(super) struct EnqueueBatcher {
    scripts: ScriptClient,
    state: Arc<Mutex<BatcherState>>,
}

#[derive(Default)]
struct BatcherState {
    waiting: Vec<PendingJob>,
    pushing: bool,
}

struct PendingJob {
    queue: &'static str,
    id: String,
    text: String,
    done: oneshot::Sender<Answer>,
}

type Answer = Result<(), Arc<Error>>;

impl EnqueueBatcher {
    pub(super) fn new(scripts: ScriptClient) -> Self {
        Self { scripts, state: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BatcherState> {
        // Nothing panics while holding it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that go next; none, and nothing is under way any more, where nobody waits.
    fn next(&self) -> Vec<PendingJob> {
        let mut all = self.lock();
        // Whose caller has gone is not wanted any more.
        all.waiting.retain(|waiting| !waiting.done.is_closed());
        let n = batch_size(all.waiting.iter().map(|waiting| waiting.text.len()));
        all.pushing = n > 0;
        all.waiting.drain(..n).collect()
    }

    /// Redis is away: whoever came meanwhile is told at once, and not one after the other.
    fn fail_all(&self, error: &Arc<Error>) {
        for waiting in self.lock().waiting.drain(..) {
            let _ = waiting.done.send(Err(error.clone()));
        }
    }
}

/// Lets the next caller begin anew should the task be dropped, as it is when its runtime ends.
struct PushGuard {
    batcher: EnqueueBatcher,
    done: bool,
}

impl Drop for PushGuard {
    fn drop(&mut self) {
        if !self.done {
            let mut all = self.batcher.lock();
            all.pushing = false;
            // Their callers hear that nobody answers.
            all.waiting.clear();
        }
    }
}

impl EnqueueBatcher {
    /// Queues a job together with those of others.
    pub(super) async fn push(&self, queue: &'static str, id: String, text: String) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let begin = {
            let mut all = self.lock();
            all.waiting.push(PendingJob { queue, id, text, done });
            !std::mem::replace(&mut all.pushing, true)
        };
        if begin {
            // A task of its own: a caller that goes away must not take the others' jobs along.
            let guard = PushGuard { batcher: self.clone(), done: false };
            tokio::spawn(self.clone().push_all(guard));
        }
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::Unavailable(SharedError(error).into())),
            Err(gone) => Err(Error::Unavailable(gone.into())),
        }
    }

    async fn push_all(self, mut guard: PushGuard) {
        loop {
            let batch = guard.batcher.next();
            if batch.is_empty() {
                guard.done = true;
                return;
            }
            self.push_batch(batch).await;
        }
    }

    async fn push_batch(&self, batch: Vec<PendingJob>) {
        let mut queues: HashMap<&str, Vec<PendingJob>> = HashMap::new();
        for job in batch {
            queues.entry(job.queue).or_default().push(job);
        }
        let place = EnqueueOptions::default();
        let pushes = queues.into_iter().map(async |(queue, jobs)| {
            let texts: Vec<_> = jobs.iter().map(|job| (job.id.as_str(), job.text.as_str())).collect();
            let answer = push(&self.scripts, queue, &texts, &place).await.map(drop).map_err(Arc::new);
            if let Err(error) = &answer {
                self.fail_all(error);
            }
            for job in jobs {
                // Whoever asked may have gone.
                let _ = job.done.send(answer.clone());
            }
        });
        join_all(pushes).await;
    }
}

/// One fault of Redis, as each of those that it befell sees it.
#[derive(Debug)]
struct SharedError(Arc<Error>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}
