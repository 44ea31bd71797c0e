//! Periodic jobs.
//!
//! Redis has the time at which each schedule is next due. Each scheduler compares this time with the clock of Redis. For a due
//! schedule, a script replaces the time and, unless the run is skipped, enqueues the job. The script does nothing if the time
//! has changed since the scheduler read it, so each due time fires at most once, unless the clock of Redis goes back.
//!
//! The name of a schedule contains its expression and time zone. While a new version with another expression is rolled out,
//! the schedules of the old and the new workers have different names, so they do not overwrite each other's due times.

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

/// How late a run may be without being a missed run, in milliseconds.
const MAX_LATENESS_MS: i64 = 60_000;

/// One parsed schedule.
struct Entry {
    /// The name of the schedule: its field in the hash `cron` in Redis.
    name: String,
    task: &'static str,
    queue: &'static str,
    ttl_ms: u64,
    schedule: ErasedSchedule,
    cron: Cron,
    zone: Tz,
}

/// The schedules of a table of job types.
#[derive(Default)]
pub(super) struct CronSchedules(Vec<Entry>);

impl CronSchedules {
    /// Parses the schedules of a table of job types.
    ///
    /// # Errors
    /// If an expression or a time zone is invalid.
    pub(super) fn parse<S>(jobs: &[JobType<S>]) -> anyhow::Result<Self> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let parse = |job: &JobType<S>| {
            let schedule = job.schedule?;
            let ErasedSchedule { cron, zone, .. } = schedule;
            let entry = || {
                Ok::<_, anyhow::Error>(Entry {
                    name: format!("{}|{cron}|{zone}", job.name),
                    task: job.name,
                    queue: job.queue,
                    ttl_ms: job.result_ttl.as_millis() as u64,
                    schedule,
                    cron: parser.parse(cron).with_context(|| format!("{cron:?} is not a cron expression"))?,
                    zone: zone.parse().map_err(|_| anyhow::anyhow!("there is no time zone {zone:?}"))?,
                })
            };
            Some(entry().with_context(|| format!("the schedule of the task {:?}", job.name)))
        };
        Ok(Self(jobs.iter().filter_map(parse).collect::<anyhow::Result<_>>()?))
    }

    /// Enqueues the jobs that are due, and returns how many.
    pub(super) async fn fire(&self, prefix: &str, conn: &mut MultiplexedConnection) -> RedisResult<usize> {
        if self.0.is_empty() {
            return Ok(0);
        }
        let mut call = scripts::CRON.key(prefix);
        call.arg("due");
        call.arg(self.0.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>());
        let (now, due_times): (i64, Vec<String>) = call.invoke_async(conn).await?;
        let mut call = scripts::CRON.key(prefix);
        call.arg("fire");
        let mut fired = Vec::new();
        for (entry, before) in self.0.iter().zip(due_times) {
            let due = before.parse::<i64>().ok();
            let Some(next) = entry.next_after(now) else { continue };
            // The stored due time may be the one after the next, if the clock of Redis has gone back since the next run was
            // enqueued: this run must not be enqueued twice. Any later due time is replaced without a run.
            let is_valid = |due| due <= next || entry.next_after(next) == Some(due);
            if due.is_some_and(|due| now < due && is_valid(due)) {
                continue;
            }
            let due_run = due.filter(|due| *due <= now && entry.should_run(*due, now));
            let envelope = due_run.and_then(|_| entry.envelope(now));
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
        let (_, won): (i64, Vec<u8>) = call.invoke_async(conn).await?;
        Ok(fired.into_iter().zip(won).filter(|(fired, won)| *fired && *won == 1).count())
    }
}

impl Entry {
    /// Returns when the job is next due after `ms`; `None` if never. Both times are in milliseconds since the epoch.
    fn next_after(&self, ms: i64) -> Option<i64> {
        let at: DateTime<Utc> = DateTime::from_timestamp_millis(ms)?;
        match self.cron.find_next_occurrence(&at.with_timezone(&self.zone), false) {
            Ok(next) => Some(next.timestamp_millis()),
            Err(error) => {
                tracing::error!(task = self.task, error = %error, "schedule is never due again");
                None
            }
        }
    }

    /// Returns whether a run that was due at `due` is still enqueued at `now`.
    fn should_run(&self, due: i64, now: i64) -> bool {
        self.schedule.missed == Missed::RunOnce || now - due <= MAX_LATENESS_MS
    }

    fn envelope(&self, now: i64) -> Option<String> {
        let payload = (self.schedule.payload)();
        let envelope = payload.map(|payload| Envelope::new(self.task, self.queue, payload, self.ttl_ms, now));
        match envelope.and_then(|envelope| serde_json::to_string(&envelope)) {
            Ok(text) => Some(text),
            Err(error) => {
                tracing::error!(task = self.task, error = %error, "cannot serialize the arguments of the schedule");
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
    fn schedules_follow_daylight_saving_time() {
        assert_eq!(next("*/15 * * * *", "UTC", "2026-11-22T10:01:00Z"), "2026-11-22T10:15:00Z");
        assert_eq!(next("0 3 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z"), "2026-07-01T01:00:00Z");
        assert_eq!(next("0 3 * * *", "Europe/Berlin", "2026-12-01T00:00:00Z"), "2026-12-01T02:00:00Z");
        // 02:30 does not exist in that night: the job runs when the clocks have gone forward.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-28T23:00:00Z"), "2026-03-29T01:00:00Z");
        // 02:30 occurs twice in that night: the job runs the first time.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    }
}
