//! The deliveries that this process holds, and the thread that renews their leases.
//!
//! It is a thread of its own, with a connection of its own, because jobs are other people's code: one that
//! starves the async runtime must not cost its neighbours their leases.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redis::RedisError;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{delivery::cut, registry::Card, scripts};

/// How long signing off may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why a running job has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Canceled,
    /// The worker is stopping: the job goes back to the queue.
    Shutdown,
    /// The lease is gone: somebody else runs the job, and what becomes of this run does not count.
    Lost,
}

/// What is said to and by one running job: that it has to stop, where the first reason counts, and how far it has
/// come.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<Signals>);

#[derive(Debug, Default)]
struct Signals {
    token: CancellationToken,
    reason: OnceLock<Reason>,
    /// The last word that was not sent yet.
    progress: Mutex<Option<Progress>>,
    reported: AtomicBool,
}

/// How far a job has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Progress {
    percent: u8,
    message: String,
}

impl Stop {
    pub(super) fn now(&self, reason: Reason) {
        let _ = self.0.reason.set(reason);
        self.0.token.cancel();
    }

    pub(super) fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        self.0.reason.get().copied()
    }

    pub(super) fn report(&self, percent: u8, mut message: String) {
        cut(&mut message);
        self.0.reported.store(true, Ordering::Relaxed);
        *self.0.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(Progress { percent, message });
    }

    /// Whether there may be a word of it in Redis.
    pub(super) fn has_reported(&self) -> bool {
        self.0.reported.load(Ordering::Relaxed)
    }

    fn unsent(&self) -> Option<String> {
        // Most never report: they are not locked for it.
        let progress = self
            .has_reported()
            .then(|| self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).take());
        serde_json::to_string(&progress??).ok()
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

    /// What jobs have said of themselves since this was last asked: id, token, words.
    fn progress(&self) -> Vec<(Arc<str>, String, String)> {
        let shared = self.lock();
        let said = |(member, lease): (&Arc<str>, &Lease)| {
            let token = member.split('|').next().unwrap_or_default().to_owned();
            let jobs = lease.jobs.iter();
            jobs.filter_map(|(id, stop)| Some((id.clone(), token.clone(), stop.unsent()?)))
                .collect::<Vec<_>>()
        };
        shared.leases.iter().flat_map(said).collect()
    }

    fn running(&self) -> usize {
        self.lock().leases.values().map(|lease| lease.jobs.len()).sum()
    }

    /// Waits one beat; false when the worker is done.
    fn wait(&self, beat: Duration) -> bool {
        let open = |shared: &mut Shared| !shared.closed;
        let (shared, _) =
            self.0.1.wait_timeout_while(self.lock(), beat, open).unwrap_or_else(PoisonError::into_inner);
        !shared.closed
    }

    /// Waits until there are leases; false when the worker is done.
    fn wait_for_some(&self) -> bool {
        let idle = |shared: &mut Shared| !shared.closed && shared.leases.is_empty();
        !self.0.1.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner).closed
    }

    fn close(&self) {
        self.lock().closed = true;
        self.0.1.notify_all();
    }
}

/// Two threads, which end when this is dropped: one shows that the worker lives and renews; the other, which no
/// network can hold up, stops the jobs of leases that were not renewed.
pub(super) struct Heartbeat {
    leases: Leases,
    /// Ends when the worker has signed off.
    gone: oneshot::Receiver<()>,
}

impl Heartbeat {
    pub(super) fn start(leases: Leases, pulse: Pulse) -> std::io::Result<Self> {
        let (renewing, fencing, lease) = (leases.clone(), leases.clone(), pulse.lease);
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let (left, gone) = oneshot::channel();
        thread("heartbeat").spawn(move || {
            pulse.run(&renewing);
            let _ = left.send(());
        })?;
        thread("fence").spawn(move || {
            while fencing.wait_for_some() && fencing.wait(lease / 20) {
                fencing.fence(lease);
            }
        })?;
        Ok(Self { leases, gone })
    }
}

impl Heartbeat {
    /// Ends it, and has the worker struck off the list of those that live.
    pub(super) async fn stop(mut self) {
        self.leases.close();
        let _ = tokio::time::timeout(FAREWELL, &mut self.gone).await;
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        // Nobody renews them from now on.
        self.leases.stop_all(Reason::Lost);
        self.leases.close();
    }
}

/// What the heartbeat needs to know.
pub(super) struct Pulse {
    pub(super) client: redis::Client,
    pub(super) prefix: String,
    pub(super) worker: String,
    pub(super) card: Card,
    pub(super) lease: Duration,
}

type Beat = (Instant, Vec<String>, Vec<String>);

impl Pulse {
    fn run(mut self, leases: &Leases) {
        // Once a second at least, since this is also how a cancellation reaches a running job.
        let beat = (self.lease / 4).min(Duration::from_secs(1));
        let mut conn = None;
        loop {
            let held = leases.held();
            self.card.running = leases.running();
            match self.renew(&mut conn, &held, &leases.progress()) {
                Ok((asked, lost, canceled)) => {
                    leases.renewed(&held, asked);
                    for member in &lost {
                        leases.lose(member);
                    }
                    leases.cancel(&canceled);
                }
                Err(error) => {
                    // Once: the worker's other connections tell the rest.
                    if conn.take().is_some() {
                        tracing::warn!(error = %error, "a heartbeat failed, trying again");
                    }
                }
            }
            if !leases.wait(beat) {
                if let Some(conn) = &mut conn {
                    self.sign_off(conn);
                }
                return;
            }
        }
    }

    /// If it cannot be said, the worker fades from the list.
    fn sign_off(&self, conn: &mut redis::Connection) {
        let mut both = redis::pipe();
        both.zrem(format!("{}:alive", self.prefix), &self.worker).ignore();
        both.hdel(format!("{}:card", self.prefix), &self.worker).ignore();
        let _: redis::RedisResult<()> = both.query(conn);
    }

    fn renew(
        &self,
        conn: &mut Option<redis::Connection>,
        held: &[(Arc<str>, Arc<str>)],
        progress: &[(Arc<str>, String, String)],
    ) -> Result<Beat, RedisError> {
        let timeout = (self.lease / 4).clamp(Duration::from_millis(250), Duration::from_secs(3));
        let conn = match conn {
            Some(conn) => conn,
            None => {
                let fresh = self.client.get_connection_with_timeout(timeout)?;
                fresh.set_read_timeout(Some(timeout))?;
                fresh.set_write_timeout(Some(timeout))?;
                conn.insert(fresh)
            }
        };
        let mut call = scripts::BEAT.key(&self.prefix);
        call.arg(self.lease.as_millis() as u64).arg(&self.worker).arg(self.card.text()).arg(held.len());
        for (queue, member) in held {
            call.arg(&**queue).arg(&**member);
        }
        for (id, token, words) in progress {
            call.arg(&**id).arg(token).arg(words);
        }
        // The lease is counted from before the question, so that it never seems longer here than it is there.
        let asked = Instant::now();
        let (lost, canceled) = call.invoke(conn)?;
        Ok((asked, lost, canceled))
    }
}
