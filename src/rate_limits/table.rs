//! The buckets of this process.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    bucket::{Bucket, Decision, Limit, Usage},
    subject::Subject,
};

/// Number of sets. All buckets together take about 2.3 MiB.
const SETS: usize = 4_096;
/// Number of buckets in a set. A subject uses one of them.
const WAYS: usize = 8;

type Set = [Bucket; WAYS];

/// A set-associative table of buckets. Its size is fixed.
///
/// In a full set, a new subject replaces the bucket that is full again first. So requests of many callers cannot remove the
/// bucket of a caller who has used a larger part of the quota. Requests of a replaced bucket that were not reported yet are
/// never reported. A hash with a random key of the process decides which subjects share a set, so a client cannot choose the
/// bucket that its requests replace.
pub(super) struct Table {
    sets: Box<[Mutex<Set>]>,
    hasher: RandomState,
}

impl Table {
    pub(super) fn new() -> Self {
        let sets = (0..SETS).map(|_| Mutex::new([Bucket::UNUSED; WAYS])).collect();
        Self { sets, hasher: RandomState::new() }
    }

    /// Takes a token of the bucket of a subject. A subject without a bucket gets a new one.
    pub(super) fn take(&self, subject: Subject, limit: Limit, now: u64) -> Decision {
        let mut set = self.set_of(&subject);
        if let Some(bucket) = find(&mut set, &subject) {
            return bucket.take(now, limit);
        }
        let mut bucket = Bucket::new(subject);
        let decision = bucket.take(now, limit);
        if let Some(replaced) = set.iter_mut().min_by_key(|bucket| bucket.full_at) {
            *replaced = bucket;
        }
        decision
    }

    /// Returns the requests of all buckets that are not reported to Redis, and marks them as reported.
    pub(super) fn take_unsettled(&self) -> Vec<Usage> {
        let mut usages = Vec::new();
        for set in self.sets.iter() {
            usages.extend(lock(set).iter_mut().filter_map(Bucket::take_unsettled));
        }
        usages
    }

    /// Updates the bucket of a subject with the requests of all processes. Does nothing if another subject has replaced the
    /// bucket meanwhile.
    pub(super) fn settle(&self, subject: &Subject, full_at: u64) {
        if let Some(bucket) = find(&mut self.set_of(subject), subject) {
            bucket.settle(full_at);
        }
    }

    fn set_of(&self, subject: &Subject) -> MutexGuard<'_, Set> {
        let hash = self.hasher.hash_one(subject) % SETS as u64;
        lock(&self.sets[usize::try_from(hash).unwrap_or_default()])
    }
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find<'a>(set: &'a mut Set, subject: &Subject) -> Option<&'a mut Bucket> {
    set.iter_mut().find(|bucket| bucket.subject == *subject)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::rate_limits::subject::{Caller, Class};

    const LIMIT: Limit = Limit::per_minute(5);
    const NOW: u64 = 1_000_000_000_000;

    fn user(id: i64) -> Subject {
        Subject { caller: Caller::User(id), class: Class::Read }
    }

    /// Returns the subject of an IPv6 network. Each number is another /64.
    fn network(number: u64) -> Subject {
        let ip = Ipv6Addr::from((0x2001_0db8_u128 << 96) | (u128::from(number) << 64) | 7);
        Subject { caller: Caller::network(Some(ip.into())), class: Class::Read }
    }

    #[test]
    fn subjects_have_buckets_of_their_own() {
        let table = Table::new();
        let write = Subject { class: Class::Write, ..user(1) };
        for subject in [user(1), user(2), write, network(1), network(2)] {
            let allowed = (0..6).filter(|_| table.take(subject, LIMIT, NOW).is_allowed).count();
            assert_eq!(allowed, 5, "{subject:?}");
        }
    }

    /// An attacker with many networks fills the table. A new subject replaces the bucket of a user only if all other buckets of
    /// the set have at least as many requests.
    #[test]
    fn many_callers_do_not_remove_the_bucket_of_a_caller_with_more_requests() {
        let table = Table::new();
        while table.take(user(1), LIMIT, NOW).is_allowed {}
        for number in 0..4 * (SETS * WAYS) as u64 {
            assert!(table.take(network(number), LIMIT, NOW).is_allowed, "a full table refuses no new caller");
        }
        assert!(!table.take(user(1), LIMIT, NOW).is_allowed);
        let buckets: usize = table.sets.iter().map(|set| lock(set).len()).sum();
        assert_eq!(buckets, SETS * WAYS);
    }

    #[test]
    fn a_bucket_that_is_full_again_is_replaced_first() {
        let table = Table::new();
        for id in 0..4 * (SETS * WAYS) as i64 {
            table.take(user(id), LIMIT, NOW);
        }
        let later = NOW + 3_600_000_000_000;
        table.take(network(1), LIMIT, later);
        table.take(network(1), LIMIT, later);
        for id in 0..4 * (SETS * WAYS) as i64 {
            table.take(user(id), LIMIT, later);
        }
        assert_eq!(table.take(network(1), LIMIT, later).remaining, 2);
    }

    #[test]
    fn unreported_requests_are_returned_once() {
        let table = Table::new();
        table.take(user(1), LIMIT, NOW);
        table.take(user(1), LIMIT, NOW);
        table.take(network(1), LIMIT, NOW);
        let costs = || {
            let mut costs: Vec<_> = table.take_unsettled().iter().map(|usage| usage.cost_micros).collect();
            costs.sort_unstable();
            costs
        };
        assert_eq!((costs(), costs()), (vec![12_000_000, 24_000_000], vec![]));
        table.settle(&user(1), NOW + 60_000_000_000);
        assert!(!table.take(user(1), LIMIT, NOW).is_allowed);
        table.settle(&user(2), NOW + 60_000_000_000);
        assert!(table.take(user(2), LIMIT, NOW).is_allowed, "it has no bucket here");
    }
}
