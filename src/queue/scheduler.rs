//! The scheduler: makes due jobs ready, enqueues periodic jobs, and recovers the jobs of crashed workers. Also deletes records of
//! ended jobs that have expired or are beyond the limits of [`Retention`], and old or excess failed jobs.
//!
//! Every worker runs a scheduler, unless that is turned off. The schedulers need no leader: they call the scripts `tick` and
//! `cron`, which are atomic and do the work that is due. What one scheduler has done is no longer due for the others.

use std::{sync::Arc, time::Duration};

use redis::{RedisResult, aio::MultiplexedConnection};

use super::{
    connector::Connector,
    cron::CronSchedules,
    reconnecting_connection::{ReconnectingConnection, is_closed},
    scripts,
    worker_options::{Options, Retention},
};

const TICK_INTERVAL: Duration = Duration::from_secs(1);
/// A job fails for good when this many workers have crashed while they ran it. A crash does not count if the job was fetched
/// ahead of free slots.
const MAX_CRASHES: u32 = 3;
/// Base of the delay before a job becomes ready again after its second crash.
const CRASH_BACKOFF: Duration = Duration::from_secs(5);
/// How many failed jobs a queue keeps, and for how long. Of one owner, Redis keeps 100 failed jobs in all queues
/// (`MAX_FAILED_OF_OWNER` in `scripts/lib.lua`).
const MAX_FAILED_JOBS: u32 = 100_000;
const MAX_FAILED_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Redis counts as nearly full from this part of `maxmemory`. Above `maxmemory`, Redis refuses jobs.
const NEARLY_FULL_RATIO: f64 = 0.95;

/// Runs the periodic work of all queues.
pub(super) struct Scheduler {
    connection: ReconnectingConnection,
    prefix: String,
    lease: Duration,
    retention: Retention,
    schedules: CronSchedules,
    /// Whether the last attempt to enqueue periodic jobs failed. Attempts whose connection was closed do not count.
    cron_failed: bool,
}

impl Scheduler {
    pub(super) fn new(
        connector: &Arc<dyn Connector>,
        prefix: &str,
        options: &Options,
        schedules: CronSchedules,
    ) -> Self {
        let connection = ReconnectingConnection::new(connector, "scheduler");
        Self {
            connection,
            prefix: prefix.to_owned(),
            lease: options.lease,
            retention: options.retention,
            schedules,
            cron_failed: false,
        }
    }

    /// Ticks with pauses of a second, until the future is dropped.
    pub(super) async fn run(mut self) {
        loop {
            self.tick().await;
            tokio::time::sleep(TICK_INTERVAL).await;
        }
    }

    /// Ticks until there is nothing left to do, for a worker in a burst. If the jobs of expired leases cannot be recovered yet,
    /// waits until they can. Also returns if the call of the script `tick` fails.
    pub(super) async fn catch_up(&mut self) {
        while let Some(wait) = self.tick().await {
            // A longer pause could count as a gap between ticks, which restarts the wait.
            tokio::time::sleep(wait.min(TICK_INTERVAL)).await;
        }
    }

    /// Does the periodic work that is due. Returns the time until the jobs of expired leases can be recovered; `None` if no such
    /// jobs remain, or the call of the script `tick` fails.
    async fn tick(&mut self) -> Option<Duration> {
        self.fire_schedules().await;
        let mut conn = self.connection.get().await?;
        let mut all_freed = 0;
        loop {
            let fullness = self.connection.answer(Fullness::ask(&mut conn, &self.prefix)).await;
            let fullness = fullness.unwrap_or(Fullness::HasRoom);
            let mut call = scripts::TICK.key(&self.prefix);
            // The second argument is the longest normal gap between ticks. After a longer gap, workers get time to renew their
            // leases before these count as expired. After a gap of at most half a lease, a worker still has the other half.
            call.arg(self.lease.as_millis() as u64)
                .arg((self.lease / 2).max(2 * TICK_INTERVAL).as_millis() as u64)
                .arg(MAX_CRASHES)
                .arg(CRASH_BACKOFF.as_millis() as u64)
                .arg(uuid::Uuid::new_v4().as_u128() as u32)
                .arg(MAX_FAILED_JOBS)
                .arg(MAX_FAILED_AGE.as_millis() as u64)
                .arg(fullness as u8)
                .arg(self.retention.outcomes)
                .arg(self.retention.outcome_bytes)
                .arg(self.retention.states);
            let answer: RedisResult<(u64, u64, u64, u8, u64, u64)> =
                self.connection.answer(call.invoke_async(&mut conn)).await.flatten();
            let (promoted, recovered, dead, more, retry_after_ms, freed) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    self.connection.record_failure(&error);
                    return None;
                }
            };
            self.connection.record_success();
            if recovered + dead > 0 {
                tracing::warn!(recovered, dead, "recovered jobs of a crashed worker");
            }
            if promoted > 0 {
                tracing::debug!(promoted, "scheduled jobs are ready");
            }
            all_freed += freed;
            if freed > 0 {
                continue;
            }
            if all_freed > 0 {
                tracing::warn!(
                    outcomes = all_freed,
                    "Redis is nearly full: deleted the oldest outcomes and states of jobs"
                );
            }
            if more == 0 {
                return (retry_after_ms > 0).then(|| Duration::from_millis(retry_after_ms));
            }
        }
    }

    /// Enqueues the periodic jobs that are due. If that fails, for example because Redis is full, the other work of the tick goes
    /// on. Of several failures in a row, only the first is logged.
    async fn fire_schedules(&mut self) {
        let Some(mut conn) = self.connection.get().await else { return };
        let answer = self.connection.answer(self.schedules.fire(&self.prefix, &mut conn)).await.flatten();
        match &answer {
            Ok(0) => {}
            Ok(fired) => tracing::debug!(fired, "periodic jobs enqueued"),
            // A closed connection is not logged as a failure of the periodic jobs. The next tick uses a new connection.
            Err(error) if is_closed(error) => return self.connection.record_failure(error),
            Err(error) if !self.cron_failed => {
                tracing::warn!(error = %error, "cannot enqueue periodic jobs")
            }
            Err(_) => {}
        }
        self.cron_failed = answer.is_err();
    }
}

/// How full Redis is.
#[derive(Clone, Copy)]
enum Fullness {
    HasRoom = 0,
    NearlyFull = 1,
    /// Redis refuses jobs.
    Full = 2,
}

impl Fullness {
    async fn ask(conn: &mut MultiplexedConnection, prefix: &str) -> Self {
        match redis::cmd("INFO").arg("memory").query_async::<String>(conn).await {
            Ok(info) => Self::of(&info),
            // Redis answers with an error if its user may not run INFO. A full Redis refuses the script `NOTHING`.
            Err(error) if !error.is_io_error() => {
                match scripts::NOTHING.key(prefix).invoke_async::<u8>(conn).await {
                    Err(error) if error.code() == Some("OOM") => Self::Full,
                    _ => Self::HasRoom,
                }
            }
            Err(_) => Self::HasRoom,
        }
    }

    /// Compares the memory with `maxmemory`, as Redis itself does: without buffers of replicas and of the AOF.
    fn of(info: &str) -> Self {
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|number| number.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        let (limit, used) = (field("maxmemory"), field("used_memory") - field("mem_not_counted_for_evict"));
        // Redis frees the memory of deleted records in the background. Until it has, it does not count as full.
        if limit == 0.0 || field("lazyfree_pending_objects") > 0.0 || used < NEARLY_FULL_RATIO * limit {
            return Self::HasRoom;
        }
        if used > limit { Self::Full } else { Self::NearlyFull }
    }
}
