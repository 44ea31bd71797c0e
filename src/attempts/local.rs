//! The counters of this process. They follow the rules of `attempts.lua`, but with `free_attempts_without_redis` instead of
//! `free_attempts`.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::{Counter, Operation};

/// Number of sets, which all rules share. All entries together take 1 MiB.
const SETS: u64 = 8_192;
/// Number of entries in a set. A counter uses one of them.
const WAYS: usize = 4;

/// A set-associative table of counters. Its size is fixed.
pub(super) struct LocalCounters {
    entries: Mutex<Box<[Entry]>>,
    started_at: Instant,
}

/// The state of a counter. Times are in seconds since the table was created. An entry is not in use if it has no failures, or
/// has expired.
#[derive(Clone, Copy, Default)]
struct Entry {
    id: u64,
    /// Number of failures.
    count: u32,
    /// End of the wait.
    until: f64,
    /// Time from which on the entry is not in use.
    expires: f64,
}

impl LocalCounters {
    pub(super) fn new() -> Self {
        let entries = (0..SETS).flat_map(|_| [Entry::default(); WAYS]).collect();
        Self { entries: Mutex::new(entries), started_at: Instant::now() }
    }

    /// Applies an operation, and returns the seconds to wait, as [`Attempts::run`](super::Attempts::run) does.
    pub(super) fn run(&self, operation: Operation, counters: &[Counter]) -> u64 {
        self.run_at(self.started_at.elapsed().as_secs_f64(), operation, counters)
    }

    fn run_at(&self, now: f64, operation: Operation, counters: &[Counter]) -> u64 {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = match operation {
            Operation::Check | Operation::Acquire => {
                let ends = counters.iter().filter_map(|counter| {
                    let (index, is_known) = find(&entries, now, counter);
                    is_known.then(|| entries[index].until)
                });
                // The cast loses nothing: no wait is longer than the largest `max_wait_seconds`.
                (ends.fold(now, f64::max) - now).ceil() as u64
            }
            Operation::Fail | Operation::Reset => 0,
        };
        for counter in counters {
            let (index, is_known) = find(&entries, now, counter);
            match operation {
                Operation::Reset if is_known => entries[index] = Entry::default(),
                Operation::Fail => entries[index].record_failure(is_known, now, counter),
                Operation::Acquire if wait == 0 => entries[index].record_failure(is_known, now, counter),
                _ => {}
            }
        }
        wait
    }
}

impl Entry {
    fn record_failure(&mut self, is_known: bool, now: f64, counter: &Counter) {
        if !is_known {
            *self = Self { id: counter.id, ..Self::default() };
        }
        let rule = counter.rule;
        self.count = self.count.saturating_add(1);
        self.expires = now + f64::from(rule.ttl_seconds);
        if let Some(doublings) = self.count.checked_sub(rule.free_attempts_without_redis) {
            let wait = 2_f64.powi(doublings.min(30).cast_signed());
            self.until = now + wait.min(f64::from(rule.max_wait_seconds));
        }
    }
}

/// Returns the index of the counter's entry and true. If the counter has no entry, returns the index of the entry
/// that it replaces, and false.
fn find(entries: &[Entry], now: f64, counter: &Counter) -> (usize, bool) {
    let first = usize::try_from(counter.id % SETS).unwrap_or_default() * WAYS;
    let failures = |index: &usize| if entries[*index].expires > now { entries[*index].count } else { 0 };
    let ways = first..first + WAYS;
    match ways.clone().find(|index| entries[*index].id == counter.id && failures(index) > 0) {
        Some(index) => (index, true),
        None => (ways.min_by_key(failures).unwrap_or(first), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempts::Rule;

    static RULE: Rule = Rule {
        name: "test",
        free_attempts: 5,
        free_attempts_without_redis: 3,
        max_wait_seconds: 10,
        ttl_seconds: 100,
    };

    fn counter(id: u64) -> [Counter; 1] {
        [Counter { rule: &RULE, id, set: 0 }]
    }

    #[test]
    fn each_failure_after_the_free_ones_doubles_the_wait() {
        let counters = LocalCounters::new();
        let mut now = 0.0;
        let waits: Vec<_> = (0..9)
            .map(|_| {
                now += 20.0;
                counters.run_at(now, Operation::Fail, &counter(1));
                counters.run_at(now, Operation::Check, &counter(1))
            })
            .collect();
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(counters.run_at(now, Operation::Check, &counter(2)), 0);
        counters.run_at(now, Operation::Reset, &counter(1));
        assert_eq!(counters.run_at(now, Operation::Check, &counter(1)), 0);
    }

    #[test]
    fn an_attempt_that_has_to_wait_is_not_counted() {
        let counters = LocalCounters::new();
        let acquire = |now| counters.run_at(now, Operation::Acquire, &counter(1));
        assert_eq!([acquire(0.0), acquire(0.0), acquire(0.0), acquire(0.0), acquire(0.5)], [0, 0, 0, 1, 1]);
        assert_eq!((acquire(1.0), acquire(1.0)), (0, 2));
        assert_eq!((acquire(102.0), acquire(102.0)), (0, 0), "expired");
    }

    #[test]
    fn new_counters_replace_those_with_the_fewest_failures() {
        let counters = LocalCounters::new();
        for _ in 0..4 {
            counters.run_at(0.0, Operation::Fail, &counter(7));
        }
        for other in 1..200 {
            counters.run_at(0.0, Operation::Fail, &counter(7 + SETS * other));
        }
        assert_eq!(counters.run_at(0.0, Operation::Check, &counter(7)), 2);
        assert_eq!(counters.run_at(0.0, Operation::Check, &counter(7 + SETS)), 0);
    }
}
