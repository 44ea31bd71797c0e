//! The deliveries that this process holds, and the thread that renews their leases.
//!
//! It is a thread of its own, with a connection of its own, because jobs are other people's code: one that
//! starves the async runtime must not cost its neighbours their leases.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::RedisError;
use tokio_util::sync::CancellationToken;

use super::scripts;

/// Why a running job has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Canceled,
    /// The worker is stopping: the job goes back to the queue.
    Shutdown,
    /// The lease is gone: somebody else runs the job, and what becomes of this run does not count.
    Lost,
}

/// Tells one running job to stop; the first reason counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop {
    pub(super) token: CancellationToken,
    reason: Arc<std::sync::OnceLock<Reason>>,
}

impl Stop {
    pub(super) fn now(&self, reason: Reason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        self.reason.get().copied()
    }
}

struct Lease {
    queue: Arc<str>,
    renewed: Instant,
    jobs: HashMap<Arc<str>, Stop>,
}

#[derive(Default)]
struct Shared {
    /// By the member that stands for it in Redis.
    leases: HashMap<Arc<str>, Lease>,
    closed: bool,
}

/// Every lease this process holds.
#[derive(Clone, Default)]
pub(super) struct Leases(Arc<(Mutex<Shared>, Condvar)>);

impl Leases {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while holding it; if something did, the map is still whole.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a lease taken no later than `asked`.
    pub(super) fn add(
        &self,
        member: Arc<str>,
        queue: Arc<str>,
        asked: Instant,
        jobs: HashMap<Arc<str>, Stop>,
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

    pub(super) fn stop_all(&self, reason: Reason) {
        for lease in self.lock().leases.values() {
            lease.jobs.values().for_each(|stop| stop.now(reason));
        }
    }

    fn lose(&self, member: &str) {
        if let Some(lease) = self.lock().leases.get(member) {
            lease.jobs.values().for_each(|stop| stop.now(Reason::Lost));
        }
    }

    fn held(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.lock().leases.iter().map(|(member, lease)| (lease.queue.clone(), member.clone())).collect()
    }

    fn renewed(&self, members: &[(Arc<str>, Arc<str>)], asked: Instant) {
        let mut shared = self.lock();
        for (_, member) in members {
            if let Some(lease) = shared.leases.get_mut(member) {
                lease.renewed = asked;
            }
        }
    }

    fn cancel(&self, ids: &[String]) {
        let shared = self.lock();
        for lease in shared.leases.values() {
            for id in ids {
                if let Some(stop) = lease.jobs.get(id.as_str()) {
                    stop.now(Reason::Canceled);
                }
            }
        }
    }

    /// Stops the jobs whose lease is about to end unrenewed: from then on another worker may run them.
    fn fence(&self, lease: Duration) {
        let limit = lease.mul_f32(0.8);
        for held in self.lock().leases.values() {
            if held.renewed.elapsed() > limit {
                held.jobs.values().for_each(|stop| stop.now(Reason::Lost));
            }
        }
    }

    /// Waits until there are leases, and then one beat; false when the worker is done.
    fn wait(&self, beat: Duration) -> bool {
        let wake = &self.0.1;
        let idle = |shared: &mut Shared| !shared.closed && shared.leases.is_empty();
        let shared = wake.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let open = |shared: &mut Shared| !shared.closed;
        let (shared, _) = wake.wait_timeout_while(shared, beat, open).unwrap_or_else(PoisonError::into_inner);
        !shared.closed
    }

    fn close(&self) {
        self.lock().closed = true;
        self.0.1.notify_all();
    }
}

/// Two threads, which end when this is dropped: one renews; the other, which no network can hold up, stops the
/// jobs of leases that were not.
pub(super) struct Heartbeat(Leases);

impl Heartbeat {
    pub(super) fn start(
        leases: Leases,
        client: redis::Client,
        prefix: String,
        lease: Duration,
    ) -> std::io::Result<Self> {
        let (renewing, fencing) = (leases.clone(), leases.clone());
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("heartbeat").spawn(move || run(&renewing, &client, &prefix, lease))?;
        thread("fence").spawn(move || {
            while fencing.wait(lease / 20) {
                fencing.fence(lease);
            }
        })?;
        Ok(Self(leases))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn run(leases: &Leases, client: &redis::Client, prefix: &str, lease: Duration) {
    // Once a second at least, since this is also how a cancellation reaches a running job.
    let beat = (lease / 4).min(Duration::from_secs(1));
    let mut conn = None;
    while leases.wait(beat) {
        let held = leases.held();
        if held.is_empty() {
            continue;
        }
        match renew(&mut conn, client, prefix, lease, &held) {
            Ok((asked, lost, canceled)) => {
                leases.renewed(&held, asked);
                for member in &lost {
                    leases.lose(member);
                }
                leases.cancel(&canceled);
            }
            Err(error) => {
                conn = None;
                tracing::debug!(error = %error, "a heartbeat failed");
            }
        }
    }
}

type Beat = (Instant, Vec<String>, Vec<String>);

fn renew(
    conn: &mut Option<redis::Connection>,
    client: &redis::Client,
    prefix: &str,
    lease: Duration,
    held: &[(Arc<str>, Arc<str>)],
) -> Result<Beat, RedisError> {
    let timeout = (lease / 4).clamp(Duration::from_millis(250), Duration::from_secs(3));
    let conn = match conn {
        Some(conn) => conn,
        None => {
            let fresh = client.get_connection_with_timeout(timeout)?;
            fresh.set_read_timeout(Some(timeout))?;
            fresh.set_write_timeout(Some(timeout))?;
            conn.insert(fresh)
        }
    };
    let mut call = scripts::BEAT.key(prefix);
    call.arg(lease.as_millis() as u64);
    for (queue, member) in held {
        call.arg(&**queue).arg(&**member);
    }
    // The lease is counted from before the question, so that it never seems longer here than it is there.
    let asked = Instant::now();
    let (lost, canceled) = call.invoke(conn)?;
    Ok((asked, lost, canceled))
}
