//! Rate limits of requests: token buckets in each process, which are settled with Redis in the background.
//!
//! A request takes a token of a local bucket, so it waits for no round trip. At most five times a second, the process
//! reports to Redis which tokens were taken, and learns how many tokens all processes together have taken.
//!
//! # What several processes allow together
//!
//! A process does not know which requests other processes have allowed since its last settlement. If a caller uses the whole
//! quota at each of N processes between two settlements, the processes together allow the limit and a surplus of N - 1 quotas.
//! If the caller sends fewer requests, the surplus is only the requests that the other N - 1 processes receive between two
//! settlements. The surplus becomes a debt of at most ten quotas. The caller waits until the debt is paid, so the surplus does
//! not repeat.
//!
//! # Without Redis
//!
//! Each process limits by its own buckets, so N processes allow N times the limit. Requests that could not be reported are not
//! reported later. The bucket of the process still counts them.
//!
//! # Memory
//!
//! The number of local buckets is fixed: see `table.rs`. In Redis, a bucket has a key until it is full again.

mod bucket;
mod clock;
mod subject;
mod table;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::hmac;
use redis::Script;
use tokio::{sync::Notify, time::sleep};

pub use self::{
    bucket::{Decision, Limit},
    clock::Clock,
    subject::{Caller, Class},
};
use self::{
    bucket::{Usage, WINDOW},
    subject::Subject,
    table::Table,
};
use crate::{
    error::{Error, Result, chain},
    redis_pool::RedisPool,
};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("settle.lua")));

/// Minimum time between the first allowed request since the last settlement began and the next settlement.
const SETTLE_INTERVAL: Duration = Duration::from_millis(200);
/// As [`SETTLE_INTERVAL`], after a settlement has failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of buckets that one call of the script settles. A call occupies Redis for less than a millisecond.
const BATCH_BUCKETS: usize = 250;
/// Maximum debt of a bucket, in windows of a minute. A caller with this debt waits about ten minutes for the next request.
const MAX_DEBT_WINDOWS: u64 = 10;

/// The rate limits of this process.
pub struct RateLimits {
    redis: RedisPool,
    prefix: Arc<str>,
    /// HMAC key that maps a subject to a key in Redis, so that Redis stores no user id or IP address.
    key: hmac::Key,
    clock: Clock,
    /// Created by the first request, because only some processes limit requests.
    table: LazyLock<Table>,
    /// Whether a request was allowed since the last settlement began.
    is_used: AtomicBool,
    /// Wakes [`Self::settle_regularly`] when `is_used` becomes true.
    used: Notify,
}

impl RateLimits {
    /// Creates the rate limits with full buckets. Keys in Redis are `<prefix>:requests:<class>:<id>`. The id is an HMAC of the
    /// subject with `secret`.
    pub fn new(redis: RedisPool, prefix: &str, secret: &str) -> Self {
        Self {
            redis,
            prefix: prefix.into(),
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            clock: Clock::new(),
            table: LazyLock::new(Table::new),
            is_used: AtomicBool::new(false),
            used: Notify::new(),
        }
    }

    /// Decides whether a request of a caller is allowed. Counts only allowed requests.
    pub fn take(&self, caller: Caller, class: Class, limit: Limit) -> Decision {
        let decision = self.table.take(Subject { caller, class }, limit, self.clock.now());
        // Most requests only read `is_used`, so that cores do not compete for its cache line.
        let was_used = || self.is_used.load(Ordering::Relaxed) || self.is_used.swap(true, Ordering::Relaxed);
        if decision.is_allowed && !was_used() {
            self.used.notify_one();
        }
        decision
    }

    /// Settles the buckets while the process runs. Never returns. The task sleeps while no request is allowed.
    pub async fn settle_regularly(&self) {
        let mut failed = false;
        loop {
            self.used.notified().await;
            sleep(if failed { RETRY_INTERVAL } else { SETTLE_INTERVAL }).await;
            let result = self.settle().await;
            match &result {
                Err(error) if !failed => tracing::warn!(
                    error = chain(error),
                    "cannot share the rate limits of requests: this process counts by itself"
                ),
                Ok(()) if failed => tracing::info!("the rate limits of requests are shared again"),
                _ => {}
            }
            failed = result.is_err();
        }
    }

    /// Reports to Redis the requests that were allowed since the last call, in batches of buckets. Updates the reported buckets
    /// with the requests of all processes.
    ///
    /// The pool repeats a command whose connection fails. The requests of a batch may then count twice.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer or answers with an error. Redis then never learns of the requests of the
    /// batches after the failed one: a later call does not report them again. Redis may have counted the batch that failed. Earlier
    /// batches of this call are reported.
    pub async fn settle(&self) -> Result<()> {
        // `is_used` is reset before the buckets are read: a request that takes a token later sets it again.
        self.is_used.store(false, Ordering::Relaxed);
        for batch in self.table.take_unsettled().chunks(BATCH_BUCKETS) {
            self.settle_batch(batch).await?;
        }
        Ok(())
    }

    async fn settle_batch(&self, batch: &[Usage]) -> Result<()> {
        // Redis measures the time until a bucket is full at `sent_at` or later. With `sent_at` as the start of this time, no
        // bucket seems emptier here than in Redis. The age of the requests makes Redis count them from the time at which they
        // were allowed. If it counted them from the report, callers would wait longer than announced.
        let sent_at = self.clock.now();
        let mut invocation = SCRIPT.prepare_invoke();
        for usage in batch {
            invocation.key(self.key_of(&usage.subject));
        }
        invocation.arg((1 + MAX_DEBT_WINDOWS) * WINDOW / 1_000);
        for usage in batch {
            invocation.arg(usage.cost_micros);
            invocation.arg(sent_at.saturating_sub(usage.counts_from).div_ceil(1_000));
        }
        let missing: Vec<u64> = invocation
            .invoke_async(&mut self.redis.clone())
            .await
            .map_err(|error| Error::unavailable("Redis", error))?;
        for (usage, micros) in batch.iter().zip(missing) {
            self.table.settle(&usage.subject, sent_at + 1_000 * micros);
        }
        Ok(())
    }

    /// Returns the clock, so that tests can stop it.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    fn key_of(&self, subject: &Subject) -> String {
        let class = subject.class.as_str();
        let tag = hmac::sign(&self.key, format!("requests\0{class}\0{}", subject.caller).as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&tag.as_ref()[..8]);
        format!("{}:requests:{class}:{:016x}", self.prefix, u64::from_be_bytes(id))
    }
}
