//! Jobs that run by the clock.
//!
//! Each schedule has its next slot in Redis. Every worker's scheduler looks at it; who first says that a slot is
//! over, and what the next one is, has the job queued in the same step, and nobody after that. The name of a
//! schedule has its expression in it: while a new version with another one is rolled out, each keeps its own.

use anyhow::Context;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use redis::{RedisResult, aio::MultiplexedConnection};

use super::{
    envelope::Envelope,
    job_type::JobType,
    schedule::{ErasedSchedule, Missed},
    scripts,
};

/// A slot that is no later than this was not missed.
const ON_TIME_MS: i64 = 60_000;

/// One schedule of the table, read.
struct Entry {
    name: String,
    task: &'static str,
    queue: &'static str,
    ttl: u64,
    periodic: ErasedSchedule,
    cron: Cron,
    zone: Tz,
}

/// All schedules of a table of tasks.
#[derive(Default)]
pub(super) struct CronSchedules(Vec<Entry>);

impl CronSchedules {
    /// # Errors
    /// When an expression or a zone cannot be read.
    pub(super) fn of<S>(jobs: &[JobType<S>]) -> anyhow::Result<Self> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let read = |job: &JobType<S>| {
            let periodic = job.schedule?;
            let ErasedSchedule { cron, zone, .. } = periodic;
            let entry = || {
                Ok::<_, anyhow::Error>(Entry {
                    name: format!("{}|{cron}|{zone}", job.name),
                    task: job.name,
                    queue: job.queue,
                    ttl: job.result_ttl.as_millis() as u64,
                    periodic,
                    cron: parser.parse(cron).with_context(|| format!("{cron:?} is not a cron expression"))?,
                    zone: zone.parse().map_err(|_| anyhow::anyhow!("there is no time zone {zone:?}"))?,
                })
            };
            Some(entry().with_context(|| format!("the schedule of the task {:?}", job.name)))
        };
        Ok(Self(jobs.iter().filter_map(read).collect::<anyhow::Result<_>>()?))
    }

    /// Queues what is due. Answers how many jobs that were.
    pub(super) async fn fire(&self, prefix: &str, conn: &mut MultiplexedConnection) -> RedisResult<usize> {
        if self.0.is_empty() {
            return Ok(0);
        }
        let mut call = scripts::CRON.key(prefix);
        call.arg("due");
        call.arg(self.0.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>());
        let (now, dues): (i64, Vec<String>) = call.invoke_async(conn).await?;
        let mut call = scripts::CRON.key(prefix);
        call.arg("fire");
        let mut fired = Vec::new();
        for (entry, before) in self.0.iter().zip(dues) {
            let due = before.parse::<i64>().ok();
            if due.is_some_and(|due| due > now) {
                continue;
            }
            let Some(next) = entry.after(now) else { continue };
            let envelope = due.filter(|due| entry.counts(*due, now)).and_then(|_| entry.envelope(now));
            let id = uuid::Uuid::now_v7().simple().to_string();
            fired.push(envelope.is_some());
            call.arg(&entry.name)
                .arg(before)
                .arg(next)
                .arg(entry.queue)
                .arg(id)
                .arg(envelope.unwrap_or_default());
        }
        if fired.is_empty() {
            return Ok(0);
        }
        let (_, first): (i64, Vec<u8>) = call.invoke_async(conn).await?;
        Ok(fired.into_iter().zip(first).filter(|(fired, first)| *fired && *first == 1).count())
    }
}

impl Entry {
    /// The first slot after `ms`, in milliseconds since the epoch.
    fn after(&self, ms: i64) -> Option<i64> {
        let at: DateTime<Utc> = DateTime::from_timestamp_millis(ms)?;
        match self.cron.find_next_occurrence(&at.with_timezone(&self.zone), false) {
            Ok(next) => Some(next.timestamp_millis()),
            Err(error) => {
                tracing::error!(task = self.task, error = %error, "the schedule has no next time");
                None
            }
        }
    }

    fn counts(&self, due: i64, now: i64) -> bool {
        self.periodic.missed == Missed::RunOnce || now - due <= ON_TIME_MS
    }

    fn envelope(&self, now: i64) -> Option<String> {
        let payload = (self.periodic.payload)();
        let envelope = payload.map(|payload| Envelope::new(self.task, self.queue, payload, self.ttl, now));
        match envelope.and_then(|envelope| serde_json::to_string(&envelope)) {
            Ok(text) => Some(text),
            Err(error) => {
                tracing::error!(task = self.task, error = %error, "the arguments of the schedule cannot be written");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, zone: &str, after: &str) -> String {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let zone: Tz = zone.parse().unwrap();
        let after: DateTime<Utc> = after.parse().unwrap();
        let next = parser.parse(cron).unwrap().find_next_occurrence(&after.with_timezone(&zone), false);
        next.unwrap().with_timezone(&Utc).format("%FT%TZ").to_string()
    }

    #[test]
    fn slots_follow_the_clocks_of_their_zone() {
        assert_eq!(next("*/15 * * * *", "UTC", "2026-11-22T10:01:00Z"), "2026-11-22T10:15:00Z");
        assert_eq!(next("0 3 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z"), "2026-07-01T01:00:00Z");
        assert_eq!(next("0 3 * * *", "Europe/Berlin", "2026-12-01T00:00:00Z"), "2026-12-01T02:00:00Z");
        // 02:30 does not exist that night; it runs when the clocks have gone forward.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-28T23:00:00Z"), "2026-03-29T01:00:00Z");
        // And is there twice in that one; it runs the first time.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    }
}
