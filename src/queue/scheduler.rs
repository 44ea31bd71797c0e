//! Keeps time for the queues: promotes what is due, fires what runs by the clock and takes back what dead workers
//! held. Every worker does it; there is no leader to lose.

use std::time::Duration;

use super::{cron::CronSchedules, reconnecting_connection::ReconnectingConnection, scripts};

const TICK_INTERVAL: Duration = Duration::from_secs(1);
/// A job that has taken its worker down this often is put with the failed ones.
const MAX_CRASHES: u32 = 3;
const CRASH_BACKOFF: Duration = Duration::from_secs(5);
/// How many failed jobs a queue keeps for somebody to look at, and for how long.
const MAX_FAILED_JOBS: u32 = 100_000;
const MAX_FAILED_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

pub(super) struct Scheduler {
    connection: ReconnectingConnection,
    prefix: String,
    lease: Duration,
    schedules: CronSchedules,
    /// Whether the last try to queue periodic jobs was refused.
    refused: bool,
}

impl Scheduler {
    pub(super) fn new(
        client: &redis::Client,
        prefix: &str,
        lease: Duration,
        schedules: CronSchedules,
    ) -> Self {
        let connection = ReconnectingConnection::new(client, "scheduler");
        Self { connection, prefix: prefix.to_owned(), lease, schedules, refused: false }
    }

    /// Ticks until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            self.tick().await;
            tokio::time::sleep(TICK_INTERVAL).await;
        }
    }

    /// Does all there is to do, for a worker that will not be there later: where nothing may be taken back yet, it
    /// waits until it may.
    pub(super) async fn catch_up(&mut self) {
        while let Some(wait) = self.tick().await {
            // A longer pause would be a gap of its own, and begin the waiting anew.
            tokio::time::sleep(wait.min(TICK_INTERVAL)).await;
        }
    }

    /// Does what there is to do now. Answers after how long there will be more, if that is known.
    async fn tick(&mut self) -> Option<Duration> {
        self.fire().await;
        let mut conn = self.connection.get().await?;
        loop {
            let mut call = scripts::TICK.key(&self.prefix);
            // A worker misses no more beats than there was time in half a lease, so a gap of that length takes
            // nobody's lease by itself.
            call.arg(self.lease.as_millis() as u64)
                .arg((self.lease / 2).max(2 * TICK_INTERVAL).as_millis() as u64)
                .arg(MAX_CRASHES)
                .arg(CRASH_BACKOFF.as_millis() as u64)
                .arg(uuid::Uuid::new_v4().as_u128() as u32)
                .arg(MAX_FAILED_JOBS)
                .arg(MAX_FAILED_AGE.as_millis() as u64);
            let answer: Result<(u64, u64, u64, u8, u64), _> = call.invoke_async(&mut conn).await;
            let (promoted, taken_back, dead, more, later) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    self.connection.failed(&error);
                    return None;
                }
            };
            self.connection.worked();
            if taken_back + dead > 0 {
                tracing::warn!(taken_back, dead, "jobs of a dead worker taken back");
            }
            if promoted > 0 {
                tracing::debug!(promoted, "scheduled jobs are due");
            }
            if more == 0 {
                return (later > 0).then(|| Duration::from_millis(later));
            }
        }
    }

    /// Queues the jobs whose time has come. Where that is refused, as a full Redis does, the rest goes on; it is told
    /// once until it has worked again.
    async fn fire(&mut self) {
        let Some(mut conn) = self.connection.get().await else { return };
        let answer = self.schedules.fire(&self.prefix, &mut conn).await;
        match &answer {
            Ok(0) => {}
            Ok(fired) => tracing::info!(fired, "periodic jobs are due"),
            Err(error) if !self.refused => {
                tracing::warn!(error = %error, "periodic jobs could not be enqueued")
            }
            Err(_) => {}
        }
        self.refused = answer.is_err();
    }
}
