//! The times at which rows, such as sessions, were used, until they are written to the database.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

/// The last use of each key, in the memory of this process until it is written to the database.
///
/// - A use stays pending until [`remove`](Self::remove), so a failed or interrupted write is repeated.
/// - The latest use of each key counts, by the monotonic clock.
/// - At most `max_keys` keys are pending. At that number, uses of other keys are not recorded.
/// - A process that is killed loses the pending uses.
pub struct PendingUses<K> {
    uses: Mutex<HashMap<K, Instant>>,
    max_keys: usize,
    recorded: Notify,
}

impl<K: Hash + Eq + Clone> PendingUses<K> {
    pub fn new(max_keys: usize) -> Self {
        Self { uses: Mutex::default(), max_keys, recorded: Notify::new() }
    }

    /// Records that a key is used now.
    pub fn record(&self, key: K) {
        let mut uses = self.lock();
        if uses.len() < self.max_keys || uses.contains_key(&key) {
            uses.insert(key, Instant::now());
        }
        drop(uses);
        self.recorded.notify_one();
    }

    /// Returns when a key was last used. `None` if the key has no pending use.
    pub fn get(&self, key: &K) -> Option<Instant> {
        self.lock().get(key).copied()
    }

    /// Returns all pending uses. They stay pending.
    pub fn all(&self) -> Vec<(K, Instant)> {
        self.lock().iter().map(|(key, used_at)| (key.clone(), *used_at)).collect()
    }

    /// Removes uses that are written. A later use of the same key stays pending.
    pub fn remove<'a>(&self, written: impl IntoIterator<Item = &'a (K, Instant)>)
    where
        K: 'a,
    {
        let mut uses = self.lock();
        for (key, used_at) in written {
            if uses.get(key) == Some(used_at) {
                uses.remove(key);
            }
        }
        if uses.is_empty() {
            // Frees the memory of a peak, because a map does not shrink by itself.
            *uses = HashMap::new();
        }
    }

    /// Waits until a use is pending.
    pub async fn wait(&self) {
        while self.lock().is_empty() {
            self.recorded.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Instant>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(uses: &PendingUses<u8>) -> Vec<u8> {
        let mut keys: Vec<_> = uses.all().into_iter().map(|(key, _)| key).collect();
        keys.sort();
        keys
    }

    #[test]
    fn a_use_stays_pending_until_it_is_written() {
        let uses = PendingUses::new(10);
        uses.record(1);
        uses.record(2);
        let written = uses.all();
        assert_eq!(keys(&uses), [1, 2], "reading removes nothing");
        uses.remove(&written[..1]);
        uses.remove(&written[1..]);
        assert_eq!((keys(&uses), uses.get(&1)), (vec![], None));
    }

    #[test]
    fn a_use_during_the_write_stays_pending() {
        let uses = PendingUses::new(10);
        uses.record(1);
        let written = uses.all();
        while uses.get(&1) == Some(written[0].1) {
            uses.record(1);
        }
        uses.remove(&written);
        assert!(uses.get(&1) > Some(written[0].1), "the later use counts");
    }

    #[test]
    fn the_number_of_keys_is_limited() {
        let uses = PendingUses::new(2);
        for key in [1, 2, 3] {
            uses.record(key);
        }
        assert_eq!(keys(&uses), [1, 2]);
        let before = uses.get(&1);
        while uses.get(&1) == before {
            uses.record(1);
        }
        assert!(uses.get(&1) > before, "a key that is pending is updated");
        uses.remove(&uses.all());
        uses.record(3);
        assert_eq!(keys(&uses), [3]);
    }

    #[tokio::test]
    async fn a_wait_ends_when_a_use_is_recorded() {
        let uses = PendingUses::new(1);
        uses.record(1);
        uses.wait().await;
        uses.remove(&uses.all());
        tokio::join!(uses.wait(), async { uses.record(2) });
        assert_eq!(keys(&uses), [2]);
    }
}
