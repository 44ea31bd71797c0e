//! The slots of a worker: how many jobs it may fetch, from which queues, and when a fetch may find jobs. Each running job takes
//! one slot.

use std::sync::Arc;

use super::{
    broker_session::Room, connector::Connector, idle_notifier::IdleNotifier, worker_options::Options,
};

/// The slots of one worker, and the notifiers that wake it when there are jobs for free slots.
///
/// Jobs of the reserved queue run in any slot. Jobs of the other, shared queues leave the reserved slots free, except for
/// one slot if all are reserved.
pub(super) struct Slots {
    reserved_queue: Option<String>,
    burst: bool,
    /// All slots, which jobs of the reserved queue may use, and the notifier of this queue.
    all: Share,
    /// The slots that jobs of shared queues may use, and the notifier of these queues.
    shared: Share,
}

/// The slots that jobs of the reserved queue, or of the shared queues, may use.
struct Share {
    total: usize,
    used: usize,
    /// Whether a fetch may find jobs in these queues.
    may_find_jobs: bool,
    /// Wakes the worker when there are jobs in these queues. `None` if the worker has no such queues.
    notifier: Option<IdleNotifier>,
    /// Whether the notifier was asked to wake the worker.
    armed: bool,
}

impl Share {
    fn new(total: usize, notifier: Option<IdleNotifier>) -> Self {
        Self { total, used: 0, may_find_jobs: true, notifier, armed: false }
    }

    fn free_slots(&self) -> usize {
        self.total.saturating_sub(self.used)
    }

    fn arm(&mut self) {
        if let Some(notifier) = self.notifier.as_ref().filter(|_| self.free_slots() > 0 && !self.armed) {
            notifier.arm.notify_one();
            self.armed = true;
        }
    }

    /// Waits until the notifier wakes the worker. Never returns without a notifier.
    async fn wait_until_woken(&mut self) {
        match &self.notifier {
            Some(notifier) => notifier.woken.notified().await,
            None => std::future::pending().await,
        }
        (self.may_find_jobs, self.armed) = (true, false);
    }
}

impl Slots {
    pub(super) fn new(connector: &Arc<dyn Connector>, prefix: &str, options: &Options) -> Self {
        let notifier =
            |names: &[&str]| (!names.is_empty()).then(|| IdleNotifier::start(connector, prefix, names));
        let reserved: Vec<_> = options.reserved_name().into_iter().collect();
        let mut all = Share::new(options.concurrency, notifier(&reserved));
        all.may_find_jobs = !reserved.is_empty();
        Self {
            reserved_queue: options.reserved_name().map(str::to_owned),
            burst: options.burst,
            all,
            shared: Share::new(options.shared_slots(), notifier(&options.shared_names())),
        }
    }

    /// Returns how many jobs to fetch now, and how many more, up to `ahead`, before there are slots for them.
    pub(super) fn room(&self, ahead: usize) -> Room {
        let free = self.all.free_slots();
        let shared = self.shared.free_slots().min(free);
        let ahead = if self.shared.may_find_jobs { ahead } else { 0 };
        let reserved = self.all.may_find_jobs && free > 0;
        match reserved || self.shared.may_find_jobs && shared > 0 {
            // Without a reserved queue, all jobs come from shared queues.
            true if self.reserved_queue.is_some() => Room { total: free, shared, ahead },
            true => Room { total: shared, shared, ahead },
            false => Room { ahead, ..Room::default() },
        }
    }

    /// Returns whether there is a free slot for a job of the shared queues.
    pub(super) fn has_free_shared_slot(&self) -> bool {
        self.shared.free_slots().min(self.all.free_slots()) > 0
    }

    /// Records the result of a fetch for `room`. `queues` has the queue of each job that was fetched for a free slot. If the jobs
    /// of the reserved queue, or of the shared queues, filled their room, these queues may have more jobs.
    pub(super) fn record_fetch<'a>(&mut self, room: Room, queues: impl Iterator<Item = &'a str>) {
        if room.total == 0 {
            return;
        }
        let (mut reserved, mut shared) = (0, 0);
        for queue in queues {
            match self.is_reserved(queue) {
                true => reserved += 1,
                false => shared += 1,
            }
        }
        self.all.may_find_jobs = self.reserved_queue.is_some() && reserved == room.total;
        let room = room.shared.min(room.total - reserved);
        if room > 0 {
            self.shared.may_find_jobs = shared == room;
        }
    }

    /// Records that a fetch may find jobs in any queue.
    pub(super) fn set_may_find_jobs(&mut self) {
        self.all.may_find_jobs = self.reserved_queue.is_some();
        self.shared.may_find_jobs = true;
    }

    /// Takes a slot for a job of this queue.
    pub(super) fn start(&mut self, queue: &str) {
        self.all.used += 1;
        self.shared.used += usize::from(!self.is_reserved(queue));
    }

    /// Frees the slot of a job of this queue.
    pub(super) fn end(&mut self, queue: &str) {
        self.all.used -= 1;
        self.shared.used -= usize::from(!self.is_reserved(queue));
        if self.burst {
            // The job may have enqueued other jobs, and in a burst the notifier of the shared queues is not asked for them.
            self.set_may_find_jobs();
        }
    }

    /// Asks the notifiers to wake the worker when there are jobs for free slots. In a burst, asks only the notifier of the
    /// reserved queue, because the worker does not wait for new jobs of the shared queues.
    pub(super) fn arm(&mut self) {
        self.all.arm();
        if !self.burst {
            self.shared.arm();
        }
    }

    /// Waits until there may be jobs for free slots.
    pub(super) async fn wait_until_woken(&mut self) {
        tokio::select! {
            () = self.all.wait_until_woken() => {}
            () = self.shared.wait_until_woken() => {}
        }
    }

    fn is_reserved(&self, queue: &str) -> bool {
        self.reserved_queue.as_deref() == Some(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(concurrency: usize, reserved: usize) -> Slots {
        let share = |total| Share::new(total, None);
        Slots {
            reserved_queue: (reserved > 0).then(|| "system".to_owned()),
            burst: false,
            all: share(concurrency),
            shared: share(concurrency - reserved),
        }
    }

    #[test]
    fn shared_queues_leave_the_reserved_slots_free() {
        let mut slots = slots(4, 1);
        slots.record_fetch(slots.room(0), ["default"; 3].into_iter());
        ["default"; 3].iter().for_each(|queue| slots.start(queue));
        assert_eq!(slots.room(0), Room::default(), "nothing was in the reserved queue");
        slots.all.may_find_jobs = true;
        assert_eq!(slots.room(0), Room { total: 1, shared: 0, ahead: 0 });
        slots.start("system");
        assert_eq!(slots.room(0), Room::default());
        slots.end("default");
        assert_eq!(slots.room(0), Room { total: 1, shared: 1, ahead: 0 });
    }

    #[test]
    fn reserved_jobs_run_in_any_slot() {
        let mut slots = slots(2, 1);
        slots.record_fetch(slots.room(0), ["system"; 2].into_iter());
        ["system"; 2].iter().for_each(|queue| slots.start(queue));
        assert_eq!(slots.room(0), Room::default());
        slots.end("system");
        assert_eq!(slots.room(0), Room { total: 1, shared: 1, ahead: 0 });
    }

    #[test]
    fn without_a_reserved_queue_all_slots_are_shared() {
        let mut slots = slots(3, 0);
        assert_eq!(slots.room(2), Room { total: 3, shared: 3, ahead: 2 });
        slots.record_fetch(slots.room(2), ["default"].into_iter());
        slots.start("default");
        assert_eq!(slots.room(2), Room::default(), "the queue is empty");
        slots.set_may_find_jobs();
        assert_eq!(slots.room(2), Room { total: 2, shared: 2, ahead: 2 });
    }
}
