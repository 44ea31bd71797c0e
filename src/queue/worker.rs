//! The worker: fetches as many jobs as it has room for, runs them, settles them.
//!
//! Settling and fetching share one round trip. While it is under way everything that finishes joins the next
//! one, so that under load many jobs share a trip and an idle worker waits for none.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    broker_session::BrokerSession,
    client::Queue,
    cron::CronSchedules,
    delivery::{Delivery, panic_message},
    disposition::{CompletedDelivery, Disposition},
    heartbeat::{Heartbeat, HeartbeatLoop},
    idle_notifier::IdleNotifier,
    job_type::JobType,
    leases::Leases,
    scheduler::Scheduler,
    shutdown::{STOP_TIMEOUT, Shutdown},
    signals::StopReason,
    worker_options::{Options, Summary},
    worker_record::WorkerRecord,
};

pub struct Worker<S: 'static> {
    id: String,
    options: Options,
    jobs: &'static [JobType<S>],
    state: S,
    prefix: String,
    session: BrokerSession,
    leases: Leases,
    client: redis::Client,
    /// By id and token: a job that was lost may come back while its old run is still ending.
    running: HashMap<(Arc<str>, Arc<str>), RunningJob>,
    schedules: CronSchedules,
    summary: Summary,
}

/// What it takes, besides its id and token, to release a job that runs.
#[derive(Clone)]
struct RunningJob {
    lease: Arc<str>,
    queue: Arc<str>,
}

impl<S: Clone + Send + Sync + 'static> Worker<S> {
    /// # Errors
    /// When the schedule of a task cannot be read.
    pub fn new(
        queue: &Queue,
        jobs: &'static [JobType<S>],
        state: S,
        options: Options,
    ) -> anyhow::Result<Self> {
        // New for every process: a name that comes back would stand in the way of taking back what its
        // predecessor held.
        let id = format!("{}:{}", std::process::id(), uuid::Uuid::new_v4().simple());
        let leases = Leases::default();
        Ok(Self {
            session: BrokerSession::new(queue, &id, &options, leases.clone()),
            id,
            options,
            jobs,
            state,
            prefix: queue.prefix().to_owned(),
            leases,
            client: queue.client().clone(),
            running: HashMap::new(),
            schedules: CronSchedules::of(jobs)?,
            summary: Summary::default(),
        })
    }

    /// Works until `stop`, or with `burst` until the queues are empty. After `stop` no job is fetched; those that
    /// run have the grace to finish, which `hurry` cuts short; the rest go back to the queue.
    ///
    /// # Errors
    /// When the heartbeat cannot be started. Faults of Redis are waited out.
    pub async fn run(
        mut self,
        stop: CancellationToken,
        hurry: CancellationToken,
    ) -> std::io::Result<Summary> {
        let Options { queues, concurrency, burst, scheduler, lease, .. } = &self.options;
        let pulse = HeartbeatLoop {
            client: self.client.clone(),
            prefix: self.prefix.clone(),
            worker: self.id.clone(),
            card: WorkerRecord::new(queues.to_string(), *concurrency),
            lease: *lease,
        };
        let heartbeat = Heartbeat::start(self.leases.clone(), pulse)?;
        tracing::info!(worker = self.id, %queues, concurrency, "worker started");
        let schedules = std::mem::take(&mut self.schedules);
        let mut timekeeper = Scheduler::new(&self.client, &self.prefix, *lease, schedules);
        let _ticking = match (scheduler, burst) {
            (false, _) => None,
            (true, false) => Some(AbortOnDropHandle::new(tokio::spawn(timekeeper.run()))),
            (true, true) => {
                tokio::select! {
                    () = timekeeper.catch_up() => {}
                    () = stop.cancelled() => {}
                }
                None
            }
        };
        self.work(Shutdown::watch(stop, hurry, self.options.grace)).await;
        heartbeat.stop().await;
        let Summary { finished, failed, canceled, released } = self.summary;
        tracing::info!(worker = self.id, finished, failed, canceled, released, "worker stopped");
        Ok(self.summary)
    }

    async fn work(&mut self, stopping: Shutdown) {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let notifier = IdleNotifier::start(&self.client, &self.prefix, self.options.queues.names());
        // Whether the queues may have something, and whether the notifier was asked to say when they do.
        let (mut hungry, mut armed) = (true, false);
        // When a rate limit lets more through.
        let mut again: Option<tokio::time::Instant> = None;
        loop {
            while let Ok(end) = ended.try_recv() {
                hungry |= self.options.burst;
                self.receive(end);
            }
            let stop = stopping.begun.is_cancelled();
            let free = self.options.concurrency.saturating_sub(self.running.len());
            // Half of what it may run, so that one half runs while the other travels.
            let want = if hungry && !stop { free.min(self.options.concurrency.div_ceil(2)) } else { 0 };
            if want > 0 || self.session.is_busy() {
                let flushed = tokio::select! {
                    flushed = self.session.flush(want) => flushed,
                    () = stopping.begun.cancelled(), if !stop => continue,
                    () = stopping.grace_over.cancelled() => break,
                };
                if want > 0 && flushed.complete {
                    // The fetch may have come before what was settled with it.
                    hungry = flushed.fetched.len() == want || self.options.burst && flushed.settled;
                    again = flushed.again.map(|wait| tokio::time::Instant::now() + wait);
                }
                flushed.fetched.into_iter().for_each(|delivery| self.start(delivery, &sender));
                continue;
            }
            if self.running.is_empty() && (stop || self.options.burst && again.is_none()) {
                return;
            }
            if free > 0 && !stop && !armed && !self.options.burst {
                notifier.arm.notify_one();
                armed = true;
            }
            tokio::select! {
                Some(end) = ended.recv() => {
                    hungry |= self.options.burst;
                    self.receive(end);
                }
                () = notifier.woke.notified() => (hungry, armed) = (true, false),
                () = tokio::time::sleep_until(again.unwrap_or_else(tokio::time::Instant::now)), if again.is_some() => {
                    (hungry, again) = (true, None);
                }
                () = stopping.begun.cancelled(), if !stop => {}
                () = stopping.grace_over.cancelled() => break,
            }
        }
        self.finish_running(&mut ended, &stopping.over).await;
    }

    fn start(&mut self, delivery: Delivery, sender: &mpsc::UnboundedSender<CompletedDelivery>) {
        let (id, token) = (delivery.id.clone(), delivery.token.clone());
        let held = RunningJob { lease: delivery.lease.clone(), queue: delivery.queue.clone() };
        self.running.insert((id.clone(), token.clone()), held.clone());
        let (jobs, state, sender) = (self.jobs, self.state.clone(), sender.clone());
        tokio::spawn(async move {
            let end =
                AssertUnwindSafe(delivery.run(jobs, state)).catch_unwind().await.unwrap_or_else(|panic| {
                    // Not the job itself, whose panics are failures, but what it leaves to be dropped. It would do it
                    // again.
                    tracing::error!(
                        job_id = &*id,
                        panic = panic_message(&*panic),
                        "a job panicked while it was ended"
                    );
                    held.end(id, token, Disposition::dead("The job panicked", &panic_message(&*panic), 0))
                });
            // The receiver is gone only when the worker is, which has then released the job.
            let _ = sender.send(end);
        });
    }

    fn receive(&mut self, end: CompletedDelivery) {
        self.running.remove(&(end.id.clone(), end.token.clone()));
        match end.disposition {
            Disposition::Finished { .. } => self.summary.finished += 1,
            Disposition::Canceled { .. } => self.summary.canceled += 1,
            Disposition::Retry { .. } | Disposition::Dead { .. } => self.summary.failed += 1,
            Disposition::Release => self.summary.released += 1,
            Disposition::Snooze { .. } | Disposition::Unknown { .. } => {}
        }
        self.session.add([end]);
    }

    /// Tells what still runs to stop, and gives back whatever does not say a last word in time.
    async fn finish_running(
        &mut self,
        ended: &mut mpsc::UnboundedReceiver<CompletedDelivery>,
        give_up: &CancellationToken,
    ) {
        self.leases.stop_all(StopReason::Shutdown);
        let deadline = tokio::time::sleep(STOP_TIMEOUT);
        tokio::pin!(deadline);
        while !self.running.is_empty() {
            tokio::select! {
                Some(end) = ended.recv() => self.receive(end),
                () = &mut deadline => break,
            }
        }
        let silent = std::mem::take(&mut self.running);
        self.summary.released += silent.len() as u64;
        self.session
            .add(silent.into_iter().map(|((id, token), held)| held.end(id, token, Disposition::Release)));
        while self.session.is_busy() {
            tokio::select! {
                _ = self.session.flush(0) => {}
                () = give_up.cancelled() => {
                    tracing::error!("Redis stayed away: the outcomes of some jobs could not be stored, they will run again");
                    return;
                }
            }
        }
    }
}

impl RunningJob {
    fn end(self, id: Arc<str>, token: Arc<str>, disposition: Disposition) -> CompletedDelivery {
        CompletedDelivery { id, token, lease: self.lease, queue: self.queue, disposition }
    }
}

impl Queue {
    /// Works off what is due in the queues of these tasks, while the caller waits, and says what came of it: for
    /// tests.
    ///
    /// # Errors
    /// When the schedule of a task cannot be read.
    pub async fn run_jobs<S: Clone + Send + Sync + 'static>(
        &self,
        jobs: &'static [JobType<S>],
        state: S,
    ) -> anyhow::Result<Summary> {
        let names: Vec<_> = jobs.iter().map(|job| job.queue).collect();
        let options = Options {
            queues: names.join(",").parse()?,
            concurrency: 10,
            lease: Duration::from_secs(30),
            grace: Duration::ZERO,
            burst: true,
            scheduler: true,
        };
        let never = CancellationToken::new();
        Ok(Worker::new(self, jobs, state, options)?.run(never.clone(), never).await?)
    }
}
