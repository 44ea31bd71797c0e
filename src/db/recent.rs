//! A cache of rows that were read a short time ago.

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

/// Maximum number of results in a cache. Beyond it, the cache evicts results that are seldom used.
const MAX_COPIES: usize = 10_000;

/// A cache of values that were recently read from the database; clones share it.
///
/// - A call returns a value whose query was sent at most `max_age` before this call. So the value contains each
///   change, by any process, that was committed at least `max_age` before this call.
/// - Concurrent callers of a key usually share one query, and also its failure.
/// - [`invalidate_all`](Self::invalidate_all) makes a committed change visible to all later calls in this process.
/// - A failed query discards all cached results: after the first failure in an outage, no result from before is used.
pub struct RecentReads<K, V> {
    copies: Arc<Cache<K, CachedRead<V>>>,
    max_age: Duration,
    /// Incremented when all cached results become invalid.
    epoch: Arc<AtomicU64>,
}

/// A result of a query.
struct CachedRead<V> {
    outcome: Outcome<V>,
    /// A time just before the query was sent; for a failed query, the time of the failure.
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

impl<V> Clone for CachedRead<V> {
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
    /// Creates an empty cache. If `max_age` is zero, every call of [`get_or_load`](Self::get_or_load) reads.
    pub fn new(max_age: Duration) -> Self {
        Self { copies: Arc::new(Cache::new(MAX_COPIES)), max_age, epoch: Arc::default() }
    }

    /// Creates an empty cache that is invalidated together with `other`: for values that the same changes affect. Its maximum
    /// age is that of `other`.
    pub fn discarded_with<L, W>(other: &RecentReads<L, W>) -> Self {
        Self { copies: Arc::new(Cache::new(MAX_COPIES)), max_age: other.max_age, epoch: other.epoch.clone() }
    }

    /// Returns the cached result of `key` if it is recent enough, otherwise the result of `load` or of the query of a concurrent
    /// caller. `None` if the query found no row.
    ///
    /// # Errors
    /// Those of `load`; [`Error::Unavailable`] if the query that this call shares with a concurrent caller failed.
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
        // The result of a query that was sent after this call began is valid, even if the query took longer than `max_age`.
        let keep_or_replace =
            |_: &K, copy: &mut CachedRead<V>| match copy.read_at >= asked_at || self.is_valid(copy) {
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
                let _ = guard.insert(CachedRead { outcome, read_at, epoch });
                answer
            }
            Err(error) => {
                self.invalidate_all();
                let _ = guard.insert(CachedRead { outcome: Outcome::Failed, read_at: Instant::now(), epoch });
                Err(error)
            }
        }
    }

    /// Discards all cached results, including those of queries that are running, also in the caches that are
    /// [invalidated together](Self::discarded_with) with this cache.
    pub fn invalidate_all(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    fn is_valid(&self, copy: &CachedRead<V>) -> bool {
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
    /// A value of this maximum age expires before the next call.
    const SHORT: Duration = Duration::from_nanos(1);

    struct CountedLoads {
        reads: RecentReads<u8, usize>,
        loads: AtomicUsize,
    }

    impl CountedLoads {
        fn new(max_age: Duration) -> Self {
            Self { reads: RecentReads::new(max_age), loads: AtomicUsize::new(0) }
        }

        /// Returns the number of the load that produced the value, counted from 0.
        async fn get(&self) -> usize {
            let load = async || Ok(Some(self.loads.fetch_add(1, Ordering::SeqCst)));
            *self.reads.get_or_load(1, load).await.unwrap().unwrap()
        }
    }

    #[tokio::test]
    async fn a_copy_is_used_until_it_expires() {
        let counted = CountedLoads::new(LONG);
        assert_eq!((counted.get().await, counted.get().await), (0, 0));
        let counted = CountedLoads::new(SHORT);
        assert_eq!((counted.get().await, counted.get().await), (0, 1));
    }

    #[tokio::test]
    async fn with_a_max_age_of_zero_every_call_loads() {
        let counted = CountedLoads::new(Duration::ZERO);
        assert_eq!((counted.get().await, counted.get().await), (0, 1));
    }

    #[tokio::test]
    async fn invalidation_also_discards_a_copy_that_is_being_loaded() {
        let counted = CountedLoads::new(LONG);
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
    async fn caches_that_are_discarded_together_have_one_epoch() {
        let counted = CountedLoads::new(LONG);
        let other = RecentReads::<u8, usize>::discarded_with(&counted.reads);
        let load =
            async |value: usize| *other.get_or_load(1, async || Ok(Some(value))).await.unwrap().unwrap();
        assert_eq!((counted.get().await, load(7).await, load(8).await), (0, 7, 7));
        counted.reads.invalidate_all();
        assert_eq!((load(9).await, counted.get().await), (9, 1));
        other.invalidate_all();
        assert_eq!(counted.get().await, 2);
    }

    #[tokio::test]
    async fn concurrent_calls_share_one_load() {
        let counted = CountedLoads::new(LONG);
        let answers = join_all((0..20).map(|_| counted.get())).await;
        assert_eq!((answers.iter().max(), counted.loads.load(Ordering::SeqCst)), (Some(&0), 1));
    }

    /// A query that was sent before the call and has expired must not answer it.
    #[tokio::test]
    async fn an_expired_slow_load_does_not_answer_a_later_call() {
        let counted = CountedLoads::new(SHORT);
        let (sent, answered) = (Notify::new(), Notify::new());
        let slow = counted.reads.get_or_load(1, async || {
            sent.notify_one();
            answered.notified().await;
            Ok(Some(99))
        });
        let late = async {
            sent.notified().await;
            // Calls while the slow query is running.
            join(counted.get(), async { answered.notify_one() }).await.0
        };
        let (slow, late) = join(slow, late).await;
        assert_eq!((*slow.unwrap().unwrap(), late), (99, 0));
    }

    #[tokio::test]
    async fn a_failed_load_discards_the_copies_of_all_keys() {
        let counted = CountedLoads::new(LONG);
        assert_eq!(counted.get().await, 0);
        let failed = counted.reads.get_or_load(2, async || Err(Error::unavailable("Database", "away"))).await;
        assert!(failed.is_err());
        assert_eq!(counted.get().await, 1);
    }

    /// Callers that wait for a query that times out must not each wait for a timeout of their own.
    #[tokio::test]
    async fn concurrent_calls_share_a_failure() {
        let counted = CountedLoads::new(LONG);
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

    #[tokio::test]
    async fn if_the_loading_caller_is_dropped_the_next_one_loads() {
        let counted = CountedLoads::new(LONG);
        let never = counted.reads.get_or_load(1, async || std::future::pending().await);
        let timed_out = tokio::time::timeout(Duration::from_millis(1), never).await;
        assert!(timed_out.is_err());
        assert_eq!(counted.get().await, 0);
    }
}
