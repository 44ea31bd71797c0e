//! Counters of attempts, such as failed logins and requested mails: in Redis for all processes together, and in each process
//! as a fallback and for limits of its own.
//!
//! The number of counters in Redis and in each process is limited, so clients cannot fill memory by failing often. Counters are
//! stored in sets. In a full set, a new counter replaces the counter with the fewest failures. `SECRET_KEY` decides which
//! counters share a set, so a client cannot choose the counter that is replaced.

mod local;

use std::{
    slice,
    sync::{Arc, LazyLock},
};

use aws_lc_rs::hmac;
use redis::Script;

use self::local::LocalCounters;
use crate::{error::Result, redis_pool::RedisPool};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("attempts.lua")));

/// Number of sets for each rule in Redis. A set has at most four counters.
const SETS: u16 = 4_096;

/// A rate limit: how many attempts are free, and how long a client waits between further attempts.
pub struct Rule {
    /// Name of the rule: part of the Redis key, and the field `rule` of the event `attempt.throttled`.
    pub name: &'static str,
    /// Attempts before the first wait.
    pub free_attempts: u32,
    /// As `free_attempts`, for the counters of a process: while Redis is unavailable, and in [`Attempts::wait_locally`].
    pub free_attempts_without_redis: u32,
    /// The longest wait. The first wait is a second, and each further failure doubles the wait.
    pub max_wait_seconds: u32,
    /// The counter expires this long after the last failure.
    pub ttl_seconds: u32,
}

/// The counter of one subject, such as an account or a network.
pub struct Counter {
    pub rule: &'static Rule,
    id: u64,
    set: u16,
}

/// How long an attempt has to wait, and the rule that requires it.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// The name of the rule with the longest wait.
    pub rule: &'static str,
    pub seconds: u64,
}

/// An operation on counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Returns the wait without counting.
    Check,
    /// Counts the attempt as failed if it is allowed.
    Acquire,
    /// Counts a failure.
    Fail,
    /// Deletes the counters.
    Reset,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Acquire => "acquire",
            Self::Fail => "fail",
            Self::Reset => "reset",
        }
    }
}

/// Counts attempts, in Redis and in this process.
pub struct Attempts {
    redis: RedisPool,
    prefix: Arc<str>,
    /// HMAC key that maps a subject to a counter id and a set. So Redis stores no email or IP address, and
    /// clients cannot choose which counters share a set.
    key: hmac::Key,
    local: LocalCounters,
}

impl Attempts {
    /// Creates the counters. Their ids are HMACs with `secret`. Keys in Redis are `<prefix>:throttle:<rule>:<set>:<entry>`.
    pub fn new(redis: RedisPool, prefix: &str, secret: &str) -> Self {
        Self {
            redis,
            prefix: prefix.into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            local: LocalCounters::new(),
        }
    }

    /// Returns the counter of a subject.
    pub fn counter(&self, rule: &'static Rule, subject: &str) -> Counter {
        let tag = hmac::sign(&self.key, format!("attempts\0{}\0{subject}", rule.name).as_bytes());
        let (mut id, mut set) = ([0; 8], [0; 2]);
        id.copy_from_slice(&tag.as_ref()[..8]);
        set.copy_from_slice(&tag.as_ref()[8..10]);
        Counter { rule, id: u64::from_be_bytes(id), set: u16::from_be_bytes(set) % SETS }
    }

    /// Applies an operation to counters. Returns the seconds to wait: 0 if an attempt is allowed, and for
    /// [`Operation::Fail`] and [`Operation::Reset`].
    pub async fn run(&self, operation: Operation, counters: &[Counter]) -> u64 {
        self.wait(operation, counters).await.map_or(0, |wait| wait.seconds)
    }

    /// As [`Self::run`], but also returns the rule with the longest wait. Returns `None` if an attempt is allowed, and for
    /// [`Operation::Fail`] and [`Operation::Reset`].
    ///
    /// The process also counts while Redis works, so that its own counters contain its recent failures when Redis fails. Its own
    /// counters decide only while Redis fails, because another process may have reset the counters in Redis.
    pub async fn wait(&self, operation: Operation, counters: &[Counter]) -> Option<Wait> {
        let local = self.wait_locally(operation, counters);
        match self.run_script(operation, counters).await {
            Ok((0, _)) => None,
            Ok((seconds, number)) => {
                let slowest = number.checked_sub(1).and_then(|index| counters.get(index));
                Some(Wait { rule: slowest.map_or("", |counter| counter.rule.name), seconds })
            }
            Err(error) => {
                tracing::warn!(
                    error = crate::error::chain(&error),
                    operation = operation.as_str(),
                    "cannot read or write rate limits in Redis: this process counts attempts by itself"
                );
                local
            }
        }
    }

    /// As [`Self::wait`], with the counters of this process only. Use it to limit a resource of the process, such as CPU
    /// time.
    pub fn wait_locally(&self, operation: Operation, counters: &[Counter]) -> Option<Wait> {
        let seconds = self.local.run(operation, counters);
        let own_wait = |counter: &&Counter| self.local.run(Operation::Check, slice::from_ref(*counter));
        let slowest = counters.iter().filter(|_| seconds > 0).max_by_key(own_wait)?;
        Some(Wait { rule: slowest.rule.name, seconds })
    }

    /// Applies an operation to the counters in Redis. Returns the seconds to wait, and the number of the counter with the
    /// longest wait, counted from 1. Both are 0 if an attempt is allowed, and for [`Operation::Fail`] and
    /// [`Operation::Reset`].
    async fn run_script(&self, operation: Operation, counters: &[Counter]) -> Result<(u64, usize)> {
        if counters.is_empty() {
            return Ok((0, 0));
        }
        let mut invocation = SCRIPT.prepare_invoke();
        for Counter { rule, set, .. } in counters {
            invocation.key(format!("{}:throttle:{}:{set}", self.prefix, rule.name));
        }
        invocation.arg(operation.as_str());
        for Counter { rule, id, .. } in counters {
            invocation.arg(format!("{id:016x}"));
            invocation.arg(rule.free_attempts).arg(rule.max_wait_seconds).arg(rule.ttl_seconds);
        }
        self.redis.try_invoke(&invocation).await
    }
}
