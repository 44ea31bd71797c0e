//! Batches of concurrent calls: items that callers submit while one batch is processed form the next batches. So they share
//! round trips to Redis.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::error::{Error, Result};

/// The reply to the caller that has submitted an item. Several callers may receive the same error.
pub(super) type Reply<T> = Result<T, Arc<Error>>;

/// Processes the batches of a [`Batcher`].
pub(super) trait BatchHandler: Clone + Send + Sync + 'static {
    type Item: Send;
    type Output: Send;

    /// Returns how many of the first items form the next batch: at least one, if there are any.
    fn batch_size<'a>(items: impl ExactSizeIterator<Item = &'a Self::Item>) -> usize
    where
        Self::Item: 'a;

    /// Processes a batch, and replies to the caller of each item.
    ///
    /// # Errors
    /// An error [`Error::Unavailable`] with which the items that wait for the next batches fail too, so that these batches do not
    /// wait for their own time-outs.
    fn handle(
        &self,
        batch: Vec<Submitted<Self::Item, Self::Output>>,
    ) -> impl Future<Output = Result<(), Arc<Error>>> + Send;
}

/// An item whose caller waits for the reply.
pub(super) struct Submitted<I, T> {
    pub(super) item: I,
    caller: oneshot::Sender<Reply<T>>,
}

impl<I, T> Submitted<I, T> {
    pub(super) fn reply(self, reply: Reply<T>) {
        // The caller may have stopped waiting.
        let _ = self.caller.send(reply);
    }
}

/// Collects items into batches; clones share the batches.
#[derive(Clone)]
pub(super) struct Batcher<H: BatchHandler> {
    handler: H,
    state: Arc<Mutex<BatcherState<H>>>,
}

struct BatcherState<H: BatchHandler> {
    pending: Vec<Submitted<H::Item, H::Output>>,
    /// Whether a task is processing batches.
    is_running: bool,
}

impl<H: BatchHandler> Batcher<H> {
    pub(super) fn new(handler: H) -> Self {
        Self { handler, state: Arc::new(Mutex::new(BatcherState { pending: Vec::new(), is_running: false })) }
    }

    pub(super) fn handler(&self) -> &H {
        &self.handler
    }

    /// Submits an item for one of the next batches, and waits for the reply.
    ///
    /// # Errors
    /// [`Error::OwnerLimit`] as the handler has replied it; [`Error::Unavailable`] for any other error.
    pub(super) async fn submit(&self, item: H::Item) -> Result<H::Output> {
        let (caller, reply) = oneshot::channel();
        let is_first = {
            let mut state = self.lock();
            state.pending.push(Submitted { item, caller });
            !std::mem::replace(&mut state.is_running, true)
        };
        if is_first {
            // The batch may have items of other callers, and the future of this caller may be dropped. So a task processes it.
            let guard = RunGuard { batcher: self.clone(), done: false };
            tokio::spawn(self.clone().run(guard));
        }
        let reply = reply.await.map_err(|closed| Error::Unavailable(closed.into()))?;
        reply.map_err(|error| match *error {
            Error::OwnerLimit(limit) => Error::OwnerLimit(limit),
            _ => Error::Unavailable(SharedError(error).into()),
        })
    }

    async fn run(self, mut guard: RunGuard<H>) {
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                guard.done = true;
                return;
            }
            if let Err(error) = self.handler.handle(batch).await {
                for submitted in std::mem::take(&mut self.lock().pending) {
                    submitted.reply(Err(error.clone()));
                }
            }
        }
    }

    /// Takes the next batch. If it is empty, the next call of [`submit`](Self::submit) starts a new task.
    fn next_batch(&self) -> Vec<Submitted<H::Item, H::Output>> {
        let mut state = self.lock();
        // Items whose callers no longer wait are not processed.
        state.pending.retain(|submitted| !submitted.caller.is_closed());
        let size = H::batch_size(state.pending.iter().map(|submitted| &submitted.item));
        state.is_running = size > 0;
        state.pending.drain(..size).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BatcherState<H>> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resets the batcher if its task is dropped before its end, as when the runtime of the task shuts down.
struct RunGuard<H: BatchHandler> {
    batcher: Batcher<H>,
    done: bool,
}

impl<H: BatchHandler> Drop for RunGuard<H> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.batcher.lock();
            state.is_running = false;
            // The callers get an error, because this drops the senders of their replies.
            state.pending.clear();
        }
    }
}

/// An error that several callers receive.
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
