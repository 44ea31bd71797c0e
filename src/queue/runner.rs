//! The runner of the jobs that a worker has fetched, each in a task of its own.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::mpsc, time::Instant};

use super::{
    broker_session::Room,
    delivery::{Delivery, panic_message},
    disposition::{CompletedDelivery, Disposition},
    job::JobState,
    job_type::JobType,
    prefetch::Prefetch,
    slots::Slots,
    worker_options::Summary,
};

/// Maximum number of completed jobs that one wait receives.
const RECEIVE_BATCH_SIZE: usize = 128;

/// The jobs of a worker: those that run, those that wait for a slot, and those that have ended and are to be settled.
pub(super) struct Runner<S: 'static> {
    jobs: &'static [JobType<S>],
    state: S,
    pub(super) slots: Slots,
    prefetch: Prefetch,
    /// The running jobs by id and token: a job whose lease was lost may be fetched again while its first run is still
    /// stopping.
    running: HashMap<(Arc<str>, Arc<str>), RunningJob>,
    sender: mpsc::UnboundedSender<CompletedDelivery>,
    receiver: mpsc::UnboundedReceiver<CompletedDelivery>,
    received: Vec<CompletedDelivery>,
    /// Deliveries that the next flush settles.
    completed: Vec<CompletedDelivery>,
    pub(super) summary: Summary,
}

/// The queue of a running job, which is needed to settle it, and the start of the run.
#[derive(Clone)]
struct RunningJob {
    queue: Arc<str>,
    started_at: Instant,
}

impl<S: JobState> Runner<S> {
    pub(super) fn new(jobs: &'static [JobType<S>], state: S, slots: Slots) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            jobs,
            state,
            slots,
            prefetch: Prefetch::default(),
            running: HashMap::new(),
            sender,
            receiver,
            received: Vec::new(),
            completed: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// Returns how many jobs to fetch.
    pub(super) fn room(&self) -> Room {
        self.slots.room(self.prefetch.missing())
    }

    /// Returns whether no job is running.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts fetched jobs; those without a slot wait for one.
    pub(super) fn accept(&mut self, fetched: Vec<Delivery>) {
        for delivery in fetched {
            match delivery.is_ahead {
                true => self.prefetch.add(delivery),
                false => self.start(delivery),
            }
        }
        self.start_waiting();
    }

    /// Starts waiting jobs in free slots.
    fn start_waiting(&mut self) {
        while self.slots.has_free_shared_slot()
            && let Some(delivery) = self.prefetch.next()
        {
            self.start(delivery);
        }
    }

    /// Runs a job in a task, which sends the result to the receiver.
    fn start(&mut self, delivery: Delivery) {
        self.slots.start(&delivery.queue);
        let (id, token) = (delivery.id.clone(), delivery.token.clone());
        let started_at = Instant::now();
        let job = RunningJob { queue: delivery.queue.clone(), started_at };
        self.running.insert((id.clone(), token.clone()), job.clone());
        let (jobs, state, sender) = (self.jobs, self.state.clone(), self.sender.clone());
        tokio::spawn(async move {
            let run = AssertUnwindSafe(delivery.run(jobs, state)).catch_unwind();
            let completed = run.await.unwrap_or_else(|panic| {
                // `Delivery::run` catches panics of the job itself. This panic is from other code, usually a destructor of the
                // job's data; a retry would probably panic again.
                let message = panic_message(&*panic);
                tracing::error!(job_id = &*id, panic = message, "job panicked while it was dropped");
                job.complete(id, token, Disposition::dead("The job panicked", &message, 0))
            });
            // If the receiver is gone, the worker has stopped and no longer settles jobs.
            let _ = sender.send(completed);
        });
    }

    /// Waits until at least one job ends, and starts waiting jobs in the freed slots. Cancel safe.
    pub(super) async fn wait_until_completed(&mut self) {
        self.receiver.recv_many(&mut self.received, RECEIVE_BATCH_SIZE).await;
        self.record_received();
    }

    /// Waits until at least one job ends, like [`Self::wait_until_completed`], or until a notifier of the slots wakes the worker,
    /// whichever is first.
    pub(super) async fn wait_until_completed_or_woken(&mut self) {
        tokio::select! {
            _ = self.receiver.recv_many(&mut self.received, RECEIVE_BATCH_SIZE) => {}
            () = self.slots.wait_until_woken() => return,
        }
        self.record_received();
    }

    /// Receives the jobs that have ended, without waiting, and returns all deliveries that are to be settled.
    pub(super) fn take_completed(&mut self) -> Vec<CompletedDelivery> {
        while let Ok(delivery) = self.receiver.try_recv() {
            self.received.push(delivery);
        }
        self.record_received();
        std::mem::take(&mut self.completed)
    }

    fn record_received(&mut self) {
        for delivery in self.received.drain(..) {
            if let Some(job) = self.running.remove(&(delivery.id.clone(), delivery.token.clone())) {
                self.slots.end(&delivery.queue);
                self.prefetch.record_run(job.started_at.elapsed());
            }
            match delivery.disposition {
                Disposition::Finished { .. } => self.summary.finished += 1,
                Disposition::Canceled { .. } => self.summary.canceled += 1,
                Disposition::Retry { .. } | Disposition::Dead { .. } => self.summary.failed += 1,
                Disposition::Release => self.summary.released += 1,
                Disposition::Snooze { .. } | Disposition::UnknownTask { .. } => {}
            }
            self.completed.push(delivery);
        }
        self.start_waiting();
    }

    /// Records the time of a round trip, and how many jobs had ended since the previous round trip.
    pub(super) fn record_round_trip(&mut self, took: Duration, ended: usize) {
        self.prefetch.record_round_trip(took, ended);
    }

    /// Returns when [`Self::release_waiting`] must be called; `None` if no job waits for a slot.
    pub(super) fn waiting_deadline(&self) -> Option<Instant> {
        self.prefetch.deadline()
    }

    /// Releases the jobs that wait for a slot.
    pub(super) fn release_waiting(&mut self) {
        let waiting = self.prefetch.take_all().into_iter();
        self.completed.extend(waiting.map(|delivery| CompletedDelivery {
            id: delivery.id,
            token: delivery.token,
            queue: delivery.queue,
            disposition: Disposition::Release,
        }));
    }

    /// Releases the jobs that still run.
    pub(super) fn release_running(&mut self) {
        self.summary.released += self.running.len() as u64;
        let release = |((id, token), job): (_, RunningJob)| job.complete(id, token, Disposition::Release);
        self.completed.extend(self.running.drain().map(release));
    }
}

impl RunningJob {
    fn complete(self, id: Arc<str>, token: Arc<str>, disposition: Disposition) -> CompletedDelivery {
        CompletedDelivery { id, token, queue: self.queue, disposition }
    }
}
