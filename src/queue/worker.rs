//! The worker: fetches as many jobs as it can run, runs them and settles them.
//!
//! One round trip settles and fetches. Jobs that complete during a round trip are settled by the next one, so that
//! under load many jobs share a round trip, while an idle worker settles a job at once.

use std::{collections::HashMap, io, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    broker_session::{BrokerSession, Room},
    client::Queue,
    cron::CronSchedules,
    delivery::{Delivery, panic_message},
    disposition::{CompletedDelivery, Disposition},
    heartbeat::{Heartbeat, HeartbeatLoop},
    job::JobState,
    job_type::JobType,
    leases::Leases,
    scheduler::Scheduler,
    shutdown::{STOP_TIMEOUT, Shutdown},
    signals::StopReason,
    slots::Slots,
    worker_options::{Options, Summary},
    worker_record::WorkerRecord,
};

/// Runs the jobs of some queues.
pub struct Worker<S: 'static> {
    id: String,
    options: Options,
    jobs: &'static [JobType<S>],
    state: S,
    prefix: String,
    session: BrokerSession,
    leases: Leases,
    client: redis::Client,
    /// By id and token: a job whose lease was lost may be fetched again while its first run is still stopping.
    running: HashMap<(Arc<str>, Arc<str>), RunningJob>,
    schedules: CronSchedules,
    summary: Summary,
}

/// What is needed to settle a running job, besides its id and token.
#[derive(Clone)]
struct RunningJob {
    lease: Arc<str>,
    queue: Arc<str>,
}

impl<S: JobState> Worker<S> {
    /// Creates a worker that runs `jobs` with `state`.
    ///
    /// # Errors
    /// If the schedule of a job is invalid.
    pub fn new(
        queue: &Queue,
        jobs: &'static [JobType<S>],
        state: S,
        options: Options,
    ) -> anyhow::Result<Self> {
        // Unique to the process: the heartbeats of a worker with the same id would keep the leases of a crashed one.
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
            schedules: CronSchedules::parse(jobs)?,
            summary: Summary::default(),
        })
    }

    /// Runs jobs until `stop` is canceled or, with `burst`, until the queues are empty.
    ///
    /// After `stop` no more jobs are fetched, and running jobs may finish during the grace period, which `stop_now` ends
    /// early. The remaining jobs go back to the queue.
    ///
    /// # Errors
    /// If the heartbeat threads cannot be started. When Redis is unavailable, the worker waits for it.
    pub async fn run(mut self, stop: CancellationToken, stop_now: CancellationToken) -> io::Result<Summary> {
        let Options { concurrency, burst, scheduler, lease, .. } = &self.options;
        let queues = self.options.describe_queues();
        let heartbeats = HeartbeatLoop {
            client: self.client.clone(),
            prefix: self.prefix.clone(),
            worker: self.id.clone(),
            record: WorkerRecord::new(queues.clone(), *concurrency),
            lease: *lease,
        };
        let heartbeat = Heartbeat::start(self.leases.clone(), heartbeats)?;
        tracing::info!(worker = self.id, %queues, concurrency, "worker started");
        let schedules = std::mem::take(&mut self.schedules);
        let mut ticks = Scheduler::new(&self.client, &self.prefix, *lease, schedules);
        let _scheduler = match (scheduler, burst) {
            (false, _) => None,
            (true, false) => Some(AbortOnDropHandle::new(tokio::spawn(ticks.run()))),
            (true, true) => {
                tokio::select! {
                    () = ticks.catch_up() => {}
                    () = stop.cancelled() => {}
                }
                None
            }
        };
        self.work(Shutdown::watch(stop, stop_now, self.options.grace)).await;
        heartbeat.stop().await;
        let Summary { finished, failed, canceled, released } = self.summary;
        tracing::info!(worker = self.id, finished, failed, canceled, released, "worker stopped");
        Ok(self.summary)
    }

    async fn work(&mut self, shutdown: Shutdown) {
        let (sender, mut completed) = mpsc::unbounded_channel();
        let mut slots = Slots::new(&self.client, &self.prefix, &self.options);
        let mut rate_limited_until: Option<Instant> = None;
        loop {
            while let Ok(delivery) = completed.try_recv() {
                self.complete(delivery, &mut slots);
            }
            let stop = shutdown.requested.is_cancelled();
            let want = if stop { Room::default() } else { slots.room() };
            if want.total > 0 || self.session.has_pending_work() {
                let flushed = tokio::select! {
                    flushed = self.session.flush(want) => flushed,
                    () = shutdown.requested.cancelled(), if !stop => continue,
                    () = shutdown.grace_over.cancelled() => break,
                };
                if want.total > 0 && flushed.complete {
                    slots.record_fetch(want, flushed.fetched.iter().map(|delivery| &*delivery.queue));
                    if flushed.settled && self.options.burst {
                        // Redis may have run the fetch before the settlements of the same round trip.
                        slots.set_may_find_jobs();
                    }
                    rate_limited_until = flushed.retry_after.map(|wait| Instant::now() + wait);
                }
                for delivery in flushed.fetched {
                    slots.start(&delivery.queue);
                    self.start(delivery, &sender);
                }
                continue;
            }
            let is_idle = self.running.is_empty();
            if is_idle && (stop || self.options.burst && rate_limited_until.is_none()) {
                return;
            }
            if !stop {
                slots.arm();
            }
            let limit_over = rate_limited_until.unwrap_or_else(Instant::now);
            tokio::select! {
                Some(delivery) = completed.recv() => self.complete(delivery, &mut slots),
                () = slots.wait_until_woken() => {}
                () = tokio::time::sleep_until(limit_over), if rate_limited_until.is_some() => {
                    slots.set_may_find_jobs();
                    rate_limited_until = None;
                }
                () = shutdown.requested.cancelled(), if !stop => {}
                () = shutdown.grace_over.cancelled() => break,
            }
        }
        self.stop_running(&mut completed, slots, &shutdown.deadline).await;
    }

    /// Runs a job in a task, which sends the result to `sender`.
    fn start(&mut self, delivery: Delivery, sender: &mpsc::UnboundedSender<CompletedDelivery>) {
        let (id, token) = (delivery.id.clone(), delivery.token.clone());
        let job = RunningJob { lease: delivery.lease.clone(), queue: delivery.queue.clone() };
        self.running.insert((id.clone(), token.clone()), job.clone());
        let (jobs, state, sender) = (self.jobs, self.state.clone(), sender.clone());
        tokio::spawn(async move {
            let run = AssertUnwindSafe(delivery.run(jobs, state)).catch_unwind();
            let completed = run.await.unwrap_or_else(|panic| {
                // A panic of the job itself is a failure. This one is from dropping what the job left, which would
                // happen again.
                let message = panic_message(&*panic);
                tracing::error!(job_id = &*id, panic = message, "job panicked while it was dropped");
                job.complete(id, token, Disposition::dead("The job panicked", &message, 0))
            });
            // If the receiver is gone, the worker has already released the job.
            let _ = sender.send(completed);
        });
    }

    fn complete(&mut self, delivery: CompletedDelivery, slots: &mut Slots) {
        if self.running.remove(&(delivery.id.clone(), delivery.token.clone())).is_some() {
            slots.end(&delivery.queue);
        }
        match delivery.disposition {
            Disposition::Finished { .. } => self.summary.finished += 1,
            Disposition::Canceled { .. } => self.summary.canceled += 1,
            Disposition::Retry { .. } | Disposition::Dead { .. } => self.summary.failed += 1,
            Disposition::Release => self.summary.released += 1,
            Disposition::Snooze { .. } | Disposition::UnknownTask { .. } => {}
        }
        self.session.add([delivery]);
    }

    /// Tells the running jobs to stop and waits up to `STOP_TIMEOUT`. Releases the jobs that still run, then settles
    /// all of them. Gives up at `deadline`.
    async fn stop_running(
        &mut self,
        completed: &mut mpsc::UnboundedReceiver<CompletedDelivery>,
        mut slots: Slots,
        deadline: &CancellationToken,
    ) {
        self.leases.stop_all(StopReason::Shutdown);
        let timeout = tokio::time::sleep(STOP_TIMEOUT);
        tokio::pin!(timeout);
        while !self.running.is_empty() {
            tokio::select! {
                Some(delivery) = completed.recv() => self.complete(delivery, &mut slots),
                () = &mut timeout => break,
            }
        }
        let remaining = std::mem::take(&mut self.running);
        self.summary.released += remaining.len() as u64;
        let release = |((id, token), job): (_, RunningJob)| job.complete(id, token, Disposition::Release);
        self.session.add(remaining.into_iter().map(release));
        while self.session.has_pending_work() {
            tokio::select! {
                _ = self.session.flush(Room::default()) => {}
                () = deadline.cancelled() => {
                    tracing::error!("Redis is unavailable: some outcomes are lost, and their jobs will run again");
                    return;
                }
            }
        }
    }
}

impl RunningJob {
    fn complete(self, id: Arc<str>, token: Arc<str>, disposition: Disposition) -> CompletedDelivery {
        CompletedDelivery { id, token, lease: self.lease, queue: self.queue, disposition }
    }
}

impl Queue {
    /// Runs the jobs that are due in the queues of `jobs` until there are none left. For tests.
    ///
    /// # Errors
    /// If the schedule of a job is invalid.
    pub async fn run_jobs<S: JobState>(
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
            reserved: None,
            max_running_per_owner: None,
        };
        let never = CancellationToken::new();
        Ok(Worker::new(self, jobs, state, options)?.run(never.clone(), never).await?)
    }
}
