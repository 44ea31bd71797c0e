//! The deliveries that this process holds.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::signals::{JobSignals, StopReason};

struct Lease {
    queue: Arc<str>,
    renewed: Instant,
    jobs: HashMap<Arc<str>, JobSignals>,
}

#[derive(Default)]
struct LeaseTable {
    /// By the member that stands for it in Redis.
    leases: HashMap<Arc<str>, Lease>,
    closed: bool,
}

/// Every lease this process holds.
#[derive(Clone, Default)]
pub(super) struct Leases(Arc<(Mutex<LeaseTable>, Condvar)>);

impl Leases {
    fn lock(&self) -> MutexGuard<'_, LeaseTable> {
        // Nothing panics while holding it; if something did, the map is still whole.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a lease taken no later than `asked`.
    pub(super) fn add(
        &self,
        member: Arc<str>,
        queue: Arc<str>,
        asked: Instant,
        jobs: HashMap<Arc<str>, JobSignals>,
    ) {
        self.lock().leases.insert(member, Lease { queue, renewed: asked, jobs });
        self.0.1.notify_all();
    }

    /// Notes that a job of a lease has ended; true where it was the last. The lease goes on being renewed until
    /// it is [forgotten](Self::forget), since the outcome has yet to arrive.
    pub(super) fn end(&self, member: &str, id: &str) -> bool {
        let mut shared = self.lock();
        let Some(lease) = shared.leases.get_mut(member) else { return false };
        lease.jobs.remove(id).is_some() && lease.jobs.is_empty()
    }

    pub(super) fn forget(&self, member: &str) {
        self.lock().leases.remove(member);
    }

    pub(super) fn stop_all(&self, reason: StopReason) {
        for lease in self.lock().leases.values() {
            lease.jobs.values().for_each(|stop| stop.now(reason));
        }
    }

    pub(super) fn lose(&self, member: &str) {
        if let Some(lease) = self.lock().leases.get(member) {
            lease.jobs.values().for_each(|stop| stop.now(StopReason::Lost));
        }
    }

    pub(super) fn held(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.lock().leases.iter().map(|(member, lease)| (lease.queue.clone(), member.clone())).collect()
    }

    pub(super) fn renewed(&self, members: &[(Arc<str>, Arc<str>)], asked: Instant) {
        let mut shared = self.lock();
        for (_, member) in members {
            if let Some(lease) = shared.leases.get_mut(member) {
                lease.renewed = asked;
            }
        }
    }

    pub(super) fn cancel(&self, ids: &[String]) {
        let shared = self.lock();
        for lease in shared.leases.values() {
            for id in ids {
                if let Some(stop) = lease.jobs.get(id.as_str()) {
                    stop.now(StopReason::Canceled);
                }
            }
        }
    }

    /// Stops the jobs whose lease is about to end unrenewed: from then on another worker may run them.
    pub(super) fn fence(&self, lease: Duration) {
        let limit = lease.mul_f32(0.8);
        for held in self.lock().leases.values() {
            if held.renewed.elapsed() > limit {
                held.jobs.values().for_each(|stop| stop.now(StopReason::Lost));
            }
        }
    }

    /// What jobs have said of themselves since this was last asked: id, token, words.
    pub(super) fn progress(&self) -> Vec<(Arc<str>, String, String)> {
        let shared = self.lock();
        let said = |(member, lease): (&Arc<str>, &Lease)| {
            let token = member.split('|').next().unwrap_or_default().to_owned();
            let jobs = lease.jobs.iter();
            jobs.filter_map(|(id, stop)| Some((id.clone(), token.clone(), stop.unsent()?)))
                .collect::<Vec<_>>()
        };
        shared.leases.iter().flat_map(said).collect()
    }

    pub(super) fn running(&self) -> usize {
        self.lock().leases.values().map(|lease| lease.jobs.len()).sum()
    }

    /// Waits one beat; false when the worker is done.
    pub(super) fn wait(&self, beat: Duration) -> bool {
        let open = |shared: &mut LeaseTable| !shared.closed;
        let (shared, _) =
            self.0.1.wait_timeout_while(self.lock(), beat, open).unwrap_or_else(PoisonError::into_inner);
        !shared.closed
    }

    /// Waits until there are leases; false when the worker is done.
    pub(super) fn wait_for_some(&self) -> bool {
        let idle = |shared: &mut LeaseTable| !shared.closed && shared.leases.is_empty();
        !self.0.1.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner).closed
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.0.1.notify_all();
    }
}
