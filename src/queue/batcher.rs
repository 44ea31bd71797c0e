//! Group commit: jobs that are enqueued concurrently share one round trip.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    enqueue_options::EnqueueOptions,
    error::{Error, Result},
    owner::OwnerLimits,
    push::{Push, batch_size},
    push_client::PushClient,
};

/// Enqueues jobs in batches: jobs that arrive while one batch is being pushed form the next ones. Clones share the batches.
#[derive(Clone)]
pub(super) struct EnqueueBatcher {
    pushes: PushClient,
    state: Arc<Mutex<BatcherState>>,
}

#[derive(Default)]
struct BatcherState {
    pending: Vec<PendingJob>,
    /// Whether a task is pushing batches.
    pushing: bool,
}

/// The properties that all jobs of one push share.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) queue: Cow<'static, str>,
    /// The group of the jobs. `None` for jobs without a group.
    pub(super) group: Option<String>,
    /// The limits of each owner. They apply only to jobs with an owner. `None` for no limits.
    pub(super) limits: Option<OwnerLimits>,
    /// Whether the jobs are prepared jobs, which count for their owner, but no limit refuses them.
    pub(super) is_prepared: bool,
}

struct PendingJob {
    destination: Destination,
    id: String,
    envelope: String,
    reply: oneshot::Sender<Reply>,
}

type Reply = Result<(), Arc<Error>>;

impl EnqueueBatcher {
    pub(super) fn new(pushes: PushClient) -> Self {
        Self { pushes, state: Arc::default() }
    }

    /// Enqueues a job in one of the next batches, and returns when Redis has the job, and so have as many replicas as
    /// the client waits for. The time limit of [`PushClient::in_time`] includes the wait for the batches before.
    ///
    /// # Errors
    /// [`Error::OwnerLimit`] if the job would exceed a limit of its owner; [`Error::Unavailable`] if Redis does not answer in
    /// time, or for any other error.
    pub(super) async fn push(&self, destination: Destination, id: String, envelope: String) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut state = self.lock();
            state.pending.push(PendingJob { destination, id, envelope, reply });
            !std::mem::replace(&mut state.pushing, true)
        };
        if is_first {
            // The batch also has jobs of other callers, and the future of this caller may be dropped. So a task pushes it.
            let guard = PushGuard { batcher: self.clone(), done: false };
            tokio::spawn(self.clone().push_batches(guard));
        }
        let in_time = self.pushes.in_time(answer).await;
        match in_time.map_err(|late| Error::Unavailable(late.into()))? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match *error {
                Error::OwnerLimit(limit) => Error::OwnerLimit(limit),
                _ => Error::Unavailable(SharedError(error).into()),
            }),
            Err(closed) => Err(Error::Unavailable(closed.into())),
        }
    }

    async fn push_batches(self, mut guard: PushGuard) {
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                guard.done = true;
                return;
            }
            self.push_batch(batch).await;
        }
    }

    /// Takes the next batch. If it is empty, the next call of [`push`](Self::push) starts a new task.
    fn next_batch(&self) -> Vec<PendingJob> {
        let mut state = self.lock();
        // Jobs whose callers no longer wait are not enqueued.
        state.pending.retain(|job| !job.reply.is_closed());
        let n = batch_size(state.pending.iter().map(|job| job.envelope.len()));
        state.pushing = n > 0;
        state.pending.drain(..n).collect()
    }

    async fn push_batch(&self, batch: Vec<PendingJob>) {
        let mut destinations: HashMap<Destination, Vec<PendingJob>> = HashMap::new();
        for job in batch {
            destinations.entry(job.destination.clone()).or_default().push(job);
        }
        let pushes: Vec<_> = destinations.into_iter().collect();
        let replies = self.push_each(&pushes).await;
        let mut single = Vec::new();
        for ((destination, jobs), reply) in pushes.into_iter().zip(replies) {
            let is_limit = reply.as_ref().is_err_and(|error| matches!(**error, Error::OwnerLimit(_)));
            if is_limit && jobs.len() > 1 {
                // The limit may allow some of these jobs, so each is pushed again alone.
                single.extend(jobs.into_iter().map(|job| (destination.clone(), vec![job])));
            } else {
                send(jobs, &reply);
            }
        }
        if !single.is_empty() {
            let replies = self.push_each(&single).await;
            single.into_iter().zip(replies).for_each(|((_, jobs), reply)| send(jobs, &reply));
        }
    }

    /// Pushes the jobs of each entry atomically. Returns a reply for each entry, in the same order.
    async fn push_each(&self, pushes: &[(Destination, Vec<PendingJob>)]) -> Vec<Reply> {
        let mut parts = Vec::with_capacity(pushes.len());
        for (destination, jobs) in pushes {
            let options = EnqueueOptions { group: destination.group.clone(), ..EnqueueOptions::default() };
            let jobs: Vec<_> = jobs.iter().map(|job| (job.id.as_str(), job.envelope.as_str())).collect();
            parts.push((destination, options, jobs));
        }
        let mut calls = Vec::with_capacity(pushes.len());
        for (destination, options, jobs) in &parts {
            let prepared_age = destination.is_prepared.then_some(Duration::ZERO);
            let (queue, limits) = (&*destination.queue, destination.limits);
            calls.push(Push { queue, jobs, options, limits, prepared_age });
        }
        let answers = self.pushes.push_all(&calls).await;
        let replies: Vec<Reply> =
            answers.into_iter().map(|answer| answer.map(drop).map_err(Arc::new)).collect();
        let mut errors = replies.iter().filter_map(|reply| reply.as_ref().err());
        if let Some(error) = errors.find(|error| matches!(***error, Error::Unavailable(_))) {
            self.fail_pending(error);
        }
        replies
    }

    /// Fails the jobs that wait for the next batches, after a push has failed because Redis is unavailable. Without this, each
    /// of these batches would wait for its own time-out.
    fn fail_pending(&self, error: &Arc<Error>) {
        for job in self.lock().pending.drain(..) {
            let _ = job.reply.send(Err(error.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BatcherState> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send(jobs: Vec<PendingJob>, reply: &Reply) {
    for job in jobs {
        let _ = job.reply.send(reply.clone());
    }
}

/// Resets the batcher if the task that pushes is dropped before its end, for example when its runtime shuts down.
struct PushGuard {
    batcher: EnqueueBatcher,
    done: bool,
}

impl Drop for PushGuard {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.batcher.lock();
            state.pushing = false;
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
