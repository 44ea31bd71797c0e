//! The worker: fetches jobs, runs them and settles them.
//!
//! One round trip settles and fetches. Jobs that complete during a round trip are settled by the next round trip. Under load,
//! many jobs share a round trip; an idle worker settles a job at once.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    broker_session::{BrokerSession, FlushResult, Room},
    client::Queue,
    connector::Connector,
    cron::CronSchedules,
    heartbeat::{Heartbeat, HeartbeatLoop},
    job::JobState,
    job_type::JobType,
    leases::Leases,
    liveness::{Liveness, RECORD_INTERVAL},
    runner::Runner,
    scheduler::Scheduler,
    shutdown::{STOP_TIMEOUT, Shutdown},
    signals::StopReason,
    slots::Slots,
    worker_options::{Options, Retention, Summary},
    worker_record::WorkerRecord,
};

/// Fetches and runs the jobs of the queues in its [`Options`].
pub struct Worker<S: 'static> {
    id: String,
    options: Options,
    jobs: &'static [JobType<S>],
    state: S,
    prefix: String,
    session: BrokerSession,
    leases: Leases,
    liveness: Liveness,
    connector: Arc<dyn Connector>,
    schedules: CronSchedules,
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
        // Workers with the same id would overwrite each other's record in the list of workers.
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
            liveness: Liveness::default(),
            connector: queue.connector().clone(),
            schedules: CronSchedules::parse(jobs)?,
        })
    }

    /// Returns the id of the worker, under which Redis lists it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the counter that the loop of the worker increments while it is running.
    pub fn liveness(&self) -> Liveness {
        self.liveness.clone()
    }

    /// Runs jobs until `stop` is canceled or, with `burst`, until the worker runs no job and finds none that may start.
    ///
    /// After `stop` no more jobs are fetched, and running jobs may finish during the grace period, which `stop_now` ends
    /// early. The remaining jobs go back to their queues.
    ///
    /// # Errors
    /// If the heartbeat threads cannot be started. When Redis is unavailable, the worker waits for it.
    pub async fn run(mut self, stop: CancellationToken, stop_now: CancellationToken) -> io::Result<Summary> {
        let Options { concurrency, burst, scheduler, lease, .. } = &self.options;
        let queues = self.options.describe_queues();
        let heartbeats = HeartbeatLoop {
            connector: self.connector.clone(),
            prefix: self.prefix.clone(),
            worker: self.id.clone(),
            record: WorkerRecord::new(queues.clone(), *concurrency),
            lease: *lease,
        };
        let heartbeat = Heartbeat::start(self.leases.clone(), heartbeats)?;
        tracing::info!(worker = self.id, %queues, concurrency, "worker started");
        let schedules = std::mem::take(&mut self.schedules);
        let mut ticks = Scheduler::new(&self.connector, &self.prefix, &self.options, schedules);
        let _scheduler = match (scheduler, burst) {
            (false, _) => None,
            (true, false) => Some(AbortOnDropHandle::new(tokio::spawn(ticks.run()))),
            (true, true) => {
                tokio::select! {
                    () = ticks.catch_up() => {}
                    () = self.liveness.record_regularly() => {}
                    () = stop.cancelled() => {}
                }
                None
            }
        };
        let slots = Slots::new(&self.connector, &self.prefix, &self.options);
        let mut runner = Runner::new(self.jobs, self.state.clone(), slots);
        self.work(&mut runner, Shutdown::watch(stop, stop_now, self.options.grace)).await;
        heartbeat.stop().await;
        let Summary { finished, failed, canceled, released } = runner.summary;
        tracing::info!(worker = self.id, finished, failed, canceled, released, "worker stopped");
        Ok(runner.summary)
    }

    async fn work(&mut self, runner: &mut Runner<S>, shutdown: Shutdown) {
        let mut rate_limited_until: Option<Instant> = None;
        loop {
            self.liveness.record();
            let stop = shutdown.requested.is_cancelled();
            if stop || runner.waiting_deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                runner.release_waiting();
            }
            let completed = runner.take_completed();
            let ended = completed.iter().filter(|job| !job.disposition.is_release()).count();
            self.session.add(completed);
            let want = if stop { Room::default() } else { runner.room() };
            if want.total > 0 || self.session.has_pending_work() {
                let flushed = tokio::select! {
                    flushed = self.flush(runner, want, ended) => flushed,
                    () = shutdown.requested.cancelled(), if !stop => continue,
                    () = shutdown.grace_over.cancelled() => break,
                };
                if flushed.complete && !want.is_empty() {
                    rate_limited_until = flushed.retry_after.map(|wait| Instant::now() + wait);
                }
                runner.accept(flushed.fetched);
                continue;
            }
            if runner.is_idle() && (stop || self.options.burst && rate_limited_until.is_none()) {
                return;
            }
            if !stop {
                runner.slots.arm();
            }
            // Wakes up to record that the worker is running, even if all slots have jobs that run for hours.
            let next_record = Instant::now() + RECORD_INTERVAL;
            let deadlines = [rate_limited_until, runner.waiting_deadline()];
            let wait_until = deadlines.into_iter().flatten().fold(next_record, Instant::min);
            tokio::select! {
                () = runner.wait_until_completed_or_woken() => {}
                () = tokio::time::sleep_until(wait_until) => {}
                () = shutdown.requested.cancelled(), if !stop => {}
                () = shutdown.grace_over.cancelled() => break,
            }
            if rate_limited_until.is_some_and(|until| until <= Instant::now()) {
                runner.slots.set_may_find_jobs();
                rate_limited_until = None;
            }
        }
        self.stop_running(runner, &shutdown.deadline).await;
    }

    /// Settles and fetches in one round trip. Meanwhile, jobs that wait for a slot start when other jobs end.
    async fn flush(&mut self, runner: &mut Runner<S>, want: Room, ended: usize) -> FlushResult {
        let sent_at = Instant::now();
        let flushed = {
            let flush = self.session.flush(want);
            tokio::pin!(flush);
            loop {
                tokio::select! {
                    biased;
                    flushed = &mut flush => break flushed,
                    () = runner.wait_until_completed() => {}
                }
            }
        };
        runner.record_round_trip(sent_at.elapsed(), ended);
        if flushed.complete {
            let fetched = flushed.fetched.iter().filter(|delivery| !delivery.is_ahead);
            runner.slots.record_fetch(want, fetched.map(|delivery| &*delivery.queue));
            if flushed.settled && self.options.burst {
                // The settlements may make dependent jobs ready, and Redis may have run the fetch of the same round trip
                // before the settlements.
                runner.slots.set_may_find_jobs();
            }
        }
        flushed
    }

    /// Tells the running jobs to stop, and waits for their ends up to `STOP_TIMEOUT`. Releases the jobs that still run after
    /// that, and settles all completed jobs. If Redis does not answer, retries until `deadline`.
    async fn stop_running(&mut self, runner: &mut Runner<S>, deadline: &CancellationToken) {
        runner.release_waiting();
        self.leases.stop_all(StopReason::Shutdown);
        let timeout = tokio::time::sleep(STOP_TIMEOUT);
        tokio::pin!(timeout);
        while !runner.is_idle() {
            tokio::select! {
                () = runner.wait_until_completed() => {}
                () = &mut timeout => break,
            }
        }
        runner.release_running();
        self.session.add(runner.take_completed());
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

impl Queue {
    /// Runs the jobs that are due in the queues of `jobs` until there are none left. For tests.
    ///
    /// # Errors
    /// If `jobs` is empty, the name of a queue or the schedule of a job is invalid, or the heartbeat threads cannot be started.
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
            retention: Retention::default(),
        };
        let never = CancellationToken::new();
        Ok(Worker::new(self, jobs, state, options)?.run(never.clone(), never).await?)
    }
}
