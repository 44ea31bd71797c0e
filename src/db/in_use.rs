//! Keys that at most one task of this process uses at a time.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Keys in use. A task does not wait for a key; another process can use the same key at the same time.
pub struct KeysInUse<K>(Mutex<HashSet<K>>);

/// A key that is in use until this value is dropped.
pub struct KeyInUse<'a, K: Hash + Eq> {
    keys: &'a KeysInUse<K>,
    key: K,
}

impl<K> Default for KeysInUse<K> {
    fn default() -> Self {
        Self(Mutex::new(HashSet::new()))
    }
}

impl<K: Hash + Eq> KeysInUse<K> {
    /// Marks a key as in use. Returns `None` if the key is already in use.
    pub fn try_use(&self, key: K) -> Option<KeyInUse<'_, K>>
    where
        K: Copy,
    {
        self.lock().insert(key).then(|| KeyInUse { keys: self, key })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for KeyInUse<'_, K> {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_use_is_refused_until_it_is_dropped() {
        let keys = KeysInUse::default();
        let used = keys.try_use(1);
        assert!(used.is_some() && keys.try_use(1).is_none() && keys.try_use(2).is_some());
        drop(used);
        assert!(keys.try_use(1).is_some());
    }
}
