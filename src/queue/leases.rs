//! The leases of a worker, and the jobs that they cover.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::signals::{JobSignals, StopReason};

/// The leases that this worker holds; clones share them.
#[derive(Clone, Default)]
pub(super) struct Leases(Arc<(Mutex<LeaseTable>, Condvar)>);

#[derive(Default)]
struct LeaseTable {
    /// The leases by their tokens.
    leases: HashMap<Arc<str>, Lease>,
    closed: bool,
}

/// A batch of jobs leased to this worker.
struct Lease {
    /// The text of the lease in Redis, `token|id,id..`.
    member: Arc<str>,
    queue: Arc<str>,
    renewed_at: Instant,
    /// The jobs that are not completed, by their ids: those that run, and those that wait for a slot.
    jobs: HashMap<Arc<str>, JobSignals>,
}

impl Lease {
    fn stop(&self, reason: StopReason) {
        self.jobs.values().for_each(|signals| signals.stop(reason));
    }
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, LeaseTable> {
        // No code panics while it holds the lock; if it did, the map would still be valid.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lease that Redis granted at `sent_at` or later; `member` is its text in Redis.
    pub(super) fn add(
        &self,
        member: Arc<str>,
        queue: Arc<str>,
        sent_at: Instant,
        jobs: HashMap<Arc<str>, JobSignals>,
    ) {
        let token = token_of(&member).into();
        self.lock().leases.insert(token, Lease { member, queue, renewed_at: sent_at, jobs });
        self.0.1.notify_all();
    }

    /// Marks a job as completed, and returns its lease if all jobs of the lease are completed now. The worker renews the lease
    /// until it is [removed](Self::remove), because Redis does not have the outcome of the job yet.
    pub(super) fn complete(&self, token: &str, id: &str) -> Option<Arc<str>> {
        let mut table = self.lock();
        let lease = table.leases.get_mut(token)?;
        (lease.jobs.remove(id).is_some() && lease.jobs.is_empty()).then(|| lease.member.clone())
    }

    pub(super) fn remove(&self, member: &str) {
        self.lock().leases.remove(token_of(member));
    }

    /// Tells all jobs to stop.
    pub(super) fn stop_all(&self, reason: StopReason) {
        self.lock().leases.values().for_each(|lease| lease.stop(reason));
    }

    /// Tells the jobs of a lease to stop, because Redis no longer has the lease.
    pub(super) fn lose(&self, member: &str) {
        if let Some(lease) = self.lock().leases.get(token_of(member)) {
            lease.stop(StopReason::Lost);
        }
    }

    /// Tells the jobs with these ids to stop, because they were canceled. Ignores jobs of other workers.
    pub(super) fn cancel(&self, ids: &[String]) {
        for lease in self.lock().leases.values() {
            for signals in ids.iter().filter_map(|id| lease.jobs.get(id.as_str())) {
                signals.stop(StopReason::Canceled);
            }
        }
    }

    /// Tells jobs to stop if their lease is about to expire, because another worker may run them next. A lease is about to expire
    /// when 80 % of its length, `lease`, has passed since its last renewal.
    pub(super) fn fence(&self, lease: Duration) {
        let limit = lease.mul_f32(0.8);
        for held in self.lock().leases.values().filter(|held| held.renewed_at.elapsed() > limit) {
            held.stop(StopReason::Lost);
        }
    }

    /// Returns the leases to renew, as pairs of queue and lease.
    pub(super) fn held(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.lock().leases.values().map(|held| (held.queue.clone(), held.member.clone())).collect()
    }

    /// Marks leases as renewed by a heartbeat that was sent at `sent_at`.
    pub(super) fn mark_renewed(&self, held: &[(Arc<str>, Arc<str>)], sent_at: Instant) {
        let mut table = self.lock();
        for (_, member) in held {
            if let Some(lease) = table.leases.get_mut(token_of(member)) {
                lease.renewed_at = sent_at;
            }
        }
    }

    /// Takes the progress that jobs have reported since the last call, as id, token and JSON.
    pub(super) fn take_progress(&self) -> Vec<(Arc<str>, String, String)> {
        let table = self.lock();
        let of_lease = |(token, held): (&Arc<str>, &Lease)| {
            let jobs = held.jobs.iter();
            jobs.filter_map(|(id, signals)| Some((id.clone(), token.to_string(), signals.take_progress()?)))
                .collect::<Vec<_>>()
        };
        table.leases.iter().flat_map(of_lease).collect()
    }

    /// Returns the number of jobs that are not completed.
    pub(super) fn uncompleted_jobs(&self) -> usize {
        self.lock().leases.values().map(|lease| lease.jobs.len()).sum()
    }

    /// Blocks the thread for `interval`. Returns false, immediately, when the leases are closed.
    pub(super) fn wait(&self, interval: Duration) -> bool {
        let is_open = |table: &mut LeaseTable| !table.closed;
        let (table, _) = self
            .0
            .1
            .wait_timeout_while(self.lock(), interval, is_open)
            .unwrap_or_else(PoisonError::into_inner);
        !table.closed
    }

    /// Blocks the thread until there is a lease. Returns false when the leases are closed.
    pub(super) fn wait_until_held(&self) -> bool {
        let is_idle = |table: &mut LeaseTable| !table.closed && table.leases.is_empty();
        !self.0.1.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Closes the leases, which ends the waits of all threads.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.0.1.notify_all();
    }
}

/// Returns the token of a lease, which begins its text in Redis.
fn token_of(member: &str) -> &str {
    member.split('|').next().unwrap_or_default()
}
