//! Copies of rows that were read a moment ago.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Copies kept by one process; the least used make room.
const CAPACITY: usize = 10_000;

/// Values read from the database at most `max_age` ago; a clone shares them.
///
/// The age counts from before the query was sent, so a change that is committed anywhere is visible here `max_age` later
/// at the latest. Concurrent callers of one key share one query, and its failure. [`invalidate_all`](Self::invalidate_all) makes a change
/// of this process visible at once. A failed query discards all copies, so none is used while the database cannot be read.
pub struct RecentReads<K, V> {
    copies: Arc<Cache<K, Copy<V>>>,
    max_age: Duration,
    /// Advances when all copies become invalid.
    epoch: Arc<AtomicU64>,
}

struct Copy<V> {
    outcome: Outcome<V>,
    /// Before the query was sent; of a failed one, after it failed.
    read_at: Instant,
    epoch: u64,
}

enum Outcome<V> {
    Row(Arc<V>),
    NoRow,
    Failed,
}

impl<V> Outcome<V> {
    fn answer(&self) -> Result<Option<Arc<V>>> {
        match self {
            Self::Row(value) => Ok(Some(value.clone())),
            Self::NoRow => Ok(None),
            Self::Failed => Err(Error::unavailable("Database", "the query of a concurrent request failed")),
        }
    }
}

impl<V> Clone for Copy<V> {
    fn clone(&self) -> Self {
        let outcome = match &self.outcome {
            Outcome::Row(value) => Outcome::Row(value.clone()),
            Outcome::NoRow => Outcome::NoRow,
            Outcome::Failed => Outcome::Failed,
        };
        Self { outcome, ..*self }
    }
}

impl<K, V> Clone for RecentReads<K, V> {
    fn clone(&self) -> Self {
        Self { copies: self.copies.clone(), max_age: self.max_age, epoch: self.epoch.clone() }
    }
}

impl<K: Hash + Eq + Clone, V> RecentReads<K, V> {
    /// With a `max_age` of zero every call reads.
    pub fn new(max_age: Duration) -> Self {
        Self { copies: Arc::new(Cache::new(CAPACITY)), max_age, epoch: Arc::default() }
    }

    /// Returns the copy for `key`, or what `load` reads now.
    ///
    /// # Errors
    /// Those of `load`; [`Error::Unavailable`] if the query of a concurrent caller failed.
    pub async fn get_or_load(
        &self,
        key: K,
        load: impl AsyncFnOnce() -> Result<Option<V>>,
    ) -> Result<Option<Arc<V>>> {
        if self.max_age.is_zero() {
            return Ok(load().await?.map(Arc::new));
        }
        if let Some(copy) = self.copies.get(&key).filter(|copy| self.is_valid(copy)) {
            return copy.outcome.answer();
        }
        let asked_at = Instant::now();
        // A query that was sent after this call answers it, however long it took.
        let keep_or_replace =
            |_: &K, copy: &mut Copy<V>| match copy.read_at >= asked_at || self.is_valid(copy) {
                true => EntryAction::Retain(copy.outcome.answer()),
                false => EntryAction::ReplaceWithGuard,
            };
        let guard = match self.copies.entry_async(&key, keep_or_replace).await {
            EntryResult::Retained(answer) => return answer,
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => guard,
            EntryResult::Removed(..) | EntryResult::Timeout => return Ok(load().await?.map(Arc::new)),
        };
        let (epoch, read_at) = (self.epoch.load(Ordering::Acquire), Instant::now());
        match load().await {
            Ok(value) => {
                let outcome = value.map_or(Outcome::NoRow, |value| Outcome::Row(Arc::new(value)));
                let answer = outcome.answer();
                let _ = guard.insert(Copy { outcome, read_at, epoch });
                answer
            }
            Err(error) => {
                self.invalidate_all();
                let _ = guard.insert(Copy { outcome: Outcome::Failed, read_at: Instant::now(), epoch });
                Err(error)
            }
        }
    }

    /// Discards all copies, also those whose query is under way.
    pub fn invalidate_all(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn is_valid(&self, copy: &Copy<V>) -> bool {
        copy.epoch == self.epoch.load(Ordering::Acquire) && copy.read_at.elapsed() < self.max_age
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::{join, join_all};
    use tokio::sync::Notify;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);
    /// Over before anything else happens.
    const SHORT: Duration = Duration::from_nanos(1);

    struct Counted {
        reads: RecentReads<u8, usize>,
        loads: AtomicUsize,
    }

    impl Counted {
        fn new(max_age: Duration) -> Self {
            Self { reads: RecentReads::new(max_age), loads: AtomicUsize::new(0) }
        }

        /// The number of the load that answered, counted from 0.
        async fn get(&self) -> usize {
            let load = async || Ok(Some(self.loads.fetch_add(1, Ordering::SeqCst)));
            *self.reads.get_or_load(1, load).await.unwrap().unwrap()
        }
    }

    #[tokio::test]
    async fn a_copy_is_used_until_it_is_too_old() {
        let counted = Counted::new(LONG);
        assert_eq!((counted.get().await, counted.get().await), (0, 0));
        let counted = Counted::new(SHORT);
        assert_eq!((counted.get().await, counted.get().await), (0, 1));
    }

    #[tokio::test]
    async fn without_an_age_every_call_reads() {
        let counted = Counted::new(Duration::ZERO);
        assert_eq!((counted.get().await, counted.get().await), (0, 1));
    }

    #[tokio::test]
    async fn forgetting_discards_also_the_copy_that_is_being_read() {
        let counted = Counted::new(LONG);
        assert_eq!(counted.get().await, 0);
        counted.reads.invalidate_all();
        let load = async || {
            counted.reads.invalidate_all();
            Ok(Some(7))
        };
        assert_eq!(*counted.reads.get_or_load(1, load).await.unwrap().unwrap(), 7);
        assert_eq!(counted.get().await, 1);
    }

    #[tokio::test]
    async fn concurrent_calls_share_one_load() {
        let counted = Counted::new(LONG);
        let answers = join_all((0..20).map(|_| counted.get())).await;
        assert_eq!((answers.iter().max(), counted.loads.load(Ordering::SeqCst)), (Some(&0), 1));
    }

    /// A caller must not be answered by a query that was sent before it asked and is too old by now.
    #[tokio::test]
    async fn a_slow_load_does_not_answer_who_asked_later() {
        let counted = Counted::new(SHORT);
        let (sent, answered) = (Notify::new(), Notify::new());
        let slow = counted.reads.get_or_load(1, async || {
            sent.notify_one();
            answered.notified().await;
            Ok(Some(99))
        });
        let late = async {
            sent.notified().await;
            // Its query is under way when the other one asks.
            join(counted.get(), async { answered.notify_one() }).await.0
        };
        let (slow, late) = join(slow, late).await;
        assert_eq!((*slow.unwrap().unwrap(), late), (99, 0));
    }

    #[tokio::test]
    async fn a_failed_load_discards_the_copies_of_all_keys() {
        let counted = Counted::new(LONG);
        assert_eq!(counted.get().await, 0);
        let failed = counted.reads.get_or_load(2, async || Err(Error::unavailable("Database", "away"))).await;
        assert!(failed.is_err());
        assert_eq!(counted.get().await, 1);
    }

    /// Callers that wait for a query that times out must not time out one after the other.
    #[tokio::test]
    async fn concurrent_calls_share_a_failure() {
        let counted = Counted::new(LONG);
        let load = async || {
            counted.loads.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Err(Error::unavailable("Database", "away"))
        };
        let answers = join_all((0..20).map(|_| counted.reads.get_or_load(1, load))).await;
        assert!(answers.iter().all(Result::is_err));
        assert_eq!(counted.loads.load(Ordering::SeqCst), 1);
        assert_eq!(counted.get().await, 1);
    }

    /// The guard of a caller that went away passes to the next one.
    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_the_load_to_the_next() {
        let counted = Counted::new(LONG);
        let never = counted.reads.get_or_load(1, async || std::future::pending().await);
        let given_up = tokio::time::timeout(Duration::from_millis(1), never).await;
        assert!(given_up.is_err());
        assert_eq!(counted.get().await, 0);
    }
}
