//! The open connections and their limit. If the limit is reached, this module closes connections to make room for new
//! ones.
//!
//! While the limit is reached and clients wait in the backlog, the server closes connections that make it wait. These
//! are idle connections, and those of clients that send a request or read a response slowly. Of the client networks (IPv4
//! addresses or IPv6 /64) with such a connection, the server starts with the network that has the most connections. So a
//! client that opens too many connections first harms its own network.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::limits::Limits;
use crate::context::client_network;

/// Time between two checks of the backlog while the limit is reached.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(25);
/// Each call of [`Slots::reclaim`] closes at most 1/64 of the permitted connections, plus one. It closes several
/// connections at once, because the search for them costs more than closing them.
const RECLAIM_DIVISOR: usize = 64;

/// The open connections of a server.
pub(super) struct Slots {
    permits: Arc<Semaphore>,
    open: Arc<OpenConnections>,
    next_id: AtomicU64,
    limits: Limits,
}

type OpenConnections = Mutex<HashMap<u64, Arc<Activity>>>;

/// A slot for one open connection. It is released on drop.
pub(super) struct Slot {
    pub(super) activity: Arc<Activity>,
    id: u64,
    open: Arc<OpenConnections>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.open).remove(&self.id);
    }
}

impl Slots {
    pub(super) fn new(limits: Limits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.connections));
        Self { permits, open: Arc::default(), next_id: AtomicU64::new(0), limits }
    }

    /// Returns a permit for a connection, if the limit is not reached.
    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Waits for a permit. While clients wait in the backlog, closes connections to make room. At first, it closes only
    /// connections that have made the server wait for `reclaim_after`. This time decreases the longer the clients wait.
    pub(super) async fn acquire(&self, listener: &TcpListener) -> OwnedSemaphorePermit {
        let mut full_since = None;
        loop {
            match timeout(RECLAIM_INTERVAL, self.permits.clone().acquire_owned()).await {
                Ok(Ok(permit)) => return permit,
                // The semaphore is never closed.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) if has_backlog(listener) => {
                    let since: Instant = *full_since.get_or_insert_with(Instant::now);
                    let now = Instant::now();
                    self.reclaim(now, self.limits.reclaim_after.saturating_sub(now - since));
                }
                Err(_) => full_since = None,
            }
        }
    }

    /// Registers a connection, and returns its slot.
    pub(super) fn open(&self, peer: IpAddr, permit: OwnedSemaphorePermit) -> Slot {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::new(Activity::new(peer));
        lock(&self.open).insert(id, activity.clone());
        Slot { activity, id, open: self.open.clone(), _permit: permit }
    }

    /// Returns whether the limit is reached.
    pub(super) fn is_full(&self) -> bool {
        self.permits.available_permits() == 0
    }

    /// Closes connections that have made the server wait for at least `min_wait`. Considers only networks with such a
    /// connection, and chooses the network with the most connections, or all networks with this number of connections.
    /// Closes the connections of the chosen networks that have made the server wait the longest.
    fn reclaim(&self, now: Instant, min_wait: Duration) {
        let open = lock(&self.open);
        let mut sizes: HashMap<IpAddr, usize> = HashMap::new();
        for activity in open.values() {
            *sizes.entry(activity.network).or_default() += 1;
        }
        let mut waiting = Vec::new();
        for activity in open.values() {
            if let Some(waited) = activity.waited(now).filter(|waited| *waited >= min_wait) {
                waiting.push((sizes.get(&activity.network), waited, activity));
            }
        }
        waiting.sort_unstable_by_key(|(size, waited, _)| Reverse((*size, *waited)));
        let largest = waiting.first().map(|(size, ..)| *size);
        let count = self.limits.connections / RECLAIM_DIVISOR + 1;
        for (.., activity) in waiting.iter().take_while(|(size, ..)| Some(*size) == largest).take(count) {
            activity.close();
        }
    }
}

fn lock(open: &OpenConnections) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether the backlog contains connections that are not accepted yet.
fn has_backlog(listener: &TcpListener) -> bool {
    let mut listeners = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut listeners, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// The state of a connection. The task of the connection records it. [`Slots`] reads it, and sets `closing`.
pub(super) struct Activity {
    network: IpAddr,
    opened: Instant,
    /// Whether a request is being handled.
    busy: AtomicBool,
    /// Whether the endpoint has received a request whose response is not sent yet.
    responding: AtomicBool,
    /// Whether the endpoint has not read the body of the request to its end.
    has_unread_body: AtomicBool,
    /// Whether the server waits until the client sends or reads data.
    waiting: AtomicBool,
    /// When the connection was opened, or when the handling of its last request began or ended, whichever is the
    /// latest. In milliseconds after `opened`. A client that sends or reads single bytes does not change this time.
    since_ms: AtomicU64,
    /// Whether the connection must close to make room for another connection.
    closing: AtomicBool,
    /// Wakes the task of the connection when `closing` is set.
    waker: AtomicWaker,
}

impl Activity {
    fn new(peer: IpAddr) -> Self {
        Self {
            network: client_network(peer),
            opened: Instant::now(),
            busy: AtomicBool::new(false),
            responding: AtomicBool::new(false),
            has_unread_body: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            since_ms: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Returns whether a request is being handled.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Records that the endpoint begins to handle a request. `has_body` says whether the request has a body.
    pub(super) fn begin_request(&self, has_body: bool) {
        self.has_unread_body.store(has_body, Ordering::Relaxed);
        self.responding.store(true, Ordering::Relaxed);
        self.set_busy(true);
    }

    /// Records that the endpoint has handled the request. Its response is not sent yet.
    pub(super) fn end_request(&self) {
        self.set_busy(false);
    }

    fn set_busy(&self, busy: bool) {
        let since_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(since_ms, Ordering::Relaxed);
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Records that all pending output was flushed.
    pub(super) fn record_flushed(&self) {
        if !self.is_busy() {
            self.responding.store(false, Ordering::Relaxed);
        }
    }

    /// Returns whether the endpoint has a request whose response is not sent yet.
    pub(super) fn is_responding(&self) -> bool {
        self.responding.load(Ordering::Relaxed)
    }

    /// Records that the body of the request is read to its end.
    pub(super) fn record_body_end(&self) {
        self.has_unread_body.store(false, Ordering::Relaxed);
    }

    /// Returns whether the request has a body that is not read to its end.
    pub(super) fn has_unread_body(&self) -> bool {
        self.has_unread_body.load(Ordering::Relaxed)
    }

    /// Records that a read or a write has ended, so that the server no longer waits for the client.
    pub(super) fn record_progress(&self) {
        self.waiting.store(false, Ordering::Relaxed);
        // A request may arrive on an idle connection just before the server closes the connection. The server then serves
        // the request.
        self.closing.store(false, Ordering::Relaxed);
    }

    /// Records that the server waits for the client. Returns an error if the connection must close to make room.
    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.waiting.store(true, Ordering::Relaxed);
        self.waker.register(cx.waker());
        match self.closing.load(Ordering::Acquire) {
            true => Poll::Ready(io::ErrorKind::TimedOut.into()),
            false => Poll::Pending,
        }
    }

    /// Returns how long the connection has made the server wait. `None` if the server does not wait for it, or is
    /// already closing it.
    fn waited(&self, now: Instant) -> Option<Duration> {
        let is_waiting = self.waiting.load(Ordering::Relaxed) && !self.closing.load(Ordering::Relaxed);
        let since = Duration::from_millis(self.since_ms.load(Ordering::Relaxed));
        is_waiting.then(|| now.saturating_duration_since(self.opened).saturating_sub(since))
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The age of the connections when `reclaim` runs.
    const AGE: Duration = Duration::from_secs(100);

    /// Opens a connection that has made the server wait for `seconds` when it reaches its [`AGE`].
    fn open(slots: &Slots, peer: &str, seconds: u64) -> Slot {
        let slot = slots.open(peer.parse().unwrap(), slots.try_acquire().unwrap());
        let since = AGE - Duration::from_secs(seconds);
        slot.activity.since_ms.store(since.as_millis() as u64, Ordering::Relaxed);
        slot.activity.waiting.store(true, Ordering::Relaxed);
        slot
    }

    /// Asserts that repeated calls of `reclaim` close the connections with the indexes `wanted`, in this order, and no
    /// others.
    #[track_caller]
    fn assert_closed(slots: &Slots, all: &[&Slot], min_wait: u64, wanted: &[usize]) {
        let is_closing = |slot: &&Slot| slot.activity.closing.load(Ordering::Relaxed);
        for round in 0..=wanted.len() {
            let now = Instant::now() + AGE;
            slots.reclaim(now, Duration::from_secs(min_wait));
            let closing = all.iter().filter(|slot| is_closing(slot)).count();
            assert_eq!(closing, wanted.len().min(round + 1));
            assert!(wanted.iter().take(round + 1).all(|index| is_closing(&all[*index])), "round {round}");
        }
    }

    #[test]
    fn the_network_with_the_most_connections_makes_room_first() {
        let slots = Slots::new(Limits { connections: 10, ..Limits::default() });
        let many = [5, 20, 10].map(|seconds| open(&slots, "203.0.113.7", seconds));
        let subscriber = ["2001:db8:1:1::1", "2001:db8:1:1:ffff::2"].map(|peer| open(&slots, peer, 30));
        let other = open(&slots, "198.51.100.7", 60);
        subscriber[0].activity.record_progress();
        many[2].activity.record_progress();
        let all = [&many[0], &many[1], &many[2], &subscriber[0], &subscriber[1], &other];
        assert_closed(&slots, &all, 1, &[1, 0, 4, 5]);
    }

    #[test]
    fn a_connection_that_made_the_server_wait_only_briefly_stays_open() {
        let slots = Slots::new(Limits { connections: 10, ..Limits::default() });
        let (short, long) = (open(&slots, "203.0.113.7", 5), open(&slots, "203.0.113.7", 15));
        assert_closed(&slots, &[&short, &long], 10, &[1]);
    }

    #[test]
    fn a_closed_connection_frees_its_slot() {
        let slots = Slots::new(Limits { connections: 1, ..Limits::default() });
        let slot = open(&slots, "203.0.113.7", 5);
        assert!(slots.is_full() && slots.try_acquire().is_none());
        drop(slot);
        assert!(!slots.is_full() && lock(&slots.open).is_empty());
    }
}
