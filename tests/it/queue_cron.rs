//! Periodic jobs.

use std::time::Duration;

use futures_util::future::join_all;
use saas::{
    dev::{Purpose, Server, test_dir},
    queue::{Context, Failure, Job, JobType, Missed, Origin, Schedule, State, Worker},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    queue::{Log, TestQueue},
};

/// Defines a periodic job that adds `what` to [`Log::ran`].
macro_rules! periodic {
    ($task:ident, $name:literal, $schedule:expr) => {
        #[derive(Serialize, Deserialize)]
        struct $task {
            what: String,
        }
        impl Job for $task {
            type State = Log;
            type Output = ();
            const NAME: &'static str = $name;
            const SCHEDULE: Option<Schedule<Self>> = Some($schedule);
            async fn run(self, ctx: Context<Log>) -> Result<(), Failure> {
                ctx.state.ran.lock().unwrap().push(self.what);
                Ok(())
            }
        }
    };
}

periodic!(Digest, "digest", Schedule::new("0 3 * * 1", "Europe/Berlin", || Digest { what: "digest".into() }));
periodic!(
    Report,
    "report",
    Schedule::new("0 0 29 2 *", "UTC", || Report { what: "report".into() }).missed(Missed::Skip)
);
periodic!(Broken, "broken", Schedule::new("every day", "UTC", || Broken { what: String::new() }));
periodic!(Nowhere, "nowhere", Schedule::new("* * * * *", "Mars/Olympus", || Nowhere { what: String::new() }));

const ALL: &[JobType<Log>] = &[JobType::of::<Digest>(), JobType::of::<Report>()];
/// The names of the schedules in Redis: the job, the cron expression and the time zone.
const DIGEST: &str = "digest|0 3 * * 1|Europe/Berlin";
const REPORT: &str = "report|0 0 29 2 *|UTC";

impl TestQueue {
    /// Runs the scheduler and all due jobs.
    async fn tick(&self) {
        self.queue.run_jobs(ALL, self.log.clone()).await.unwrap();
    }

    async fn config(&self, setting: &str, value: &str) {
        self.redis::<()>(&["CONFIG", "SET", setting, value]).await;
    }

    /// Returns when a schedule is due, in milliseconds since 1970.
    async fn due_at(&self, name: &str) -> i64 {
        self.redis(&["HGET", "{}:cron", name]).await
    }

    /// Sets the due time of a schedule to a time in the past, as if no scheduler had run since.
    async fn set_due_ago(&self, name: &str, ago: Duration) {
        let due = chrono::Utc::now().timestamp_millis() - ago.as_millis() as i64;
        self.redis::<u32>(&["HSET", "{}:cron", name, &due.to_string()]).await;
    }
}

#[tokio::test]
async fn concurrent_schedulers_fire_each_run_once() {
    let queue = TestQueue::new().await;
    queue.tick().await;
    assert!(queue.log.ran().is_empty(), "no job is due yet");
    let now = chrono::Utc::now().timestamp_millis();
    assert!((now..now + 8 * 86_400_000).contains(&queue.due_at(DIGEST).await));
    for round in 1..=5 {
        queue.set_due_ago(DIGEST, Duration::ZERO).await;
        join_all((0..8).map(|_| queue.tick())).await;
        assert_eq!(queue.log.ran().len(), round);
        assert!(queue.due_at(DIGEST).await > now);
    }
    let totals = queue.queue.queue("default").await.unwrap().unwrap().totals;
    assert_eq!((totals.enqueued, totals.finished), (5, 5));
}

#[tokio::test]
async fn missed_runs_are_replaced_by_one_or_skipped() {
    let queue = TestQueue::new().await;
    queue.tick().await;
    let week = Duration::from_secs(7 * 86_400);
    queue.set_due_ago(DIGEST, 3 * week).await;
    queue.set_due_ago(REPORT, 3 * week).await;
    queue.tick().await;
    queue.tick().await;
    assert_eq!(
        queue.log.ran(),
        ["digest"],
        "three weeks of missed digests are one run, and missed reports are skipped"
    );
    queue.set_due_ago(REPORT, Duration::from_secs(5)).await;
    queue.tick().await;
    assert_eq!(queue.log.ran(), ["digest", "report"]);
}

/// A due time far in the future remains if the clock of Redis was ahead for some time.
#[tokio::test]
async fn a_due_time_that_the_schedule_does_not_have_is_replaced_without_a_run() {
    let queue = TestQueue::new().await;
    queue.tick().await;
    let due = queue.due_at(DIGEST).await;
    let year = 365 * 24 * 3_600_000;
    queue.redis::<u32>(&["HSET", "{}:cron", DIGEST, &(due + year).to_string()]).await;
    queue.tick().await;
    assert_eq!(queue.due_at(DIGEST).await, due);
    // A due time that is a later run of the schedule stays.
    let zone: chrono_tz::Tz = "Europe/Berlin".parse().unwrap();
    let next = chrono::DateTime::from_timestamp_millis(due).unwrap().with_timezone(&zone).naive_local();
    let second = (next + chrono::Days::new(7)).and_local_timezone(zone).unwrap().timestamp_millis();
    queue.redis::<u32>(&["HSET", "{}:cron", DIGEST, &second.to_string()]).await;
    queue.tick().await;
    assert_eq!(queue.due_at(DIGEST).await, second);
    assert!(queue.log.ran.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_unknown_schedule_is_deleted_an_hour_after_its_due_time() {
    let queue = TestQueue::new().await;
    queue.set_due_ago("digest|0 4 * * *|UTC", Duration::from_secs(3_000)).await;
    queue.set_due_ago("gone|0 4 * * *|UTC", Duration::from_secs(4_000)).await;
    queue.tick().await;
    let names: Vec<String> = queue.redis(&["HKEYS", "{}:cron"]).await;
    assert!(names.contains(&"digest|0 4 * * *|UTC".into()), "a version that declares it may be rolling out");
    assert!(!names.contains(&"gone|0 4 * * *|UTC".into()));
    assert!(queue.log.ran().is_empty());
}

#[tokio::test]
async fn an_invalid_schedule_is_rejected_by_name() {
    let queue = TestQueue::new().await;
    const BROKEN: &[JobType<Log>] = &[JobType::of::<Broken>()];
    const NOWHERE: &[JobType<Log>] = &[JobType::of::<Nowhere>()];
    for (jobs, words) in [(BROKEN, ["broken", "every day"]), (NOWHERE, ["nowhere", "Mars/Olympus"])] {
        let worker = Worker::new(&queue.queue, jobs, queue.log.clone(), options(&["default"]));
        let error = format!("{:#}", worker.err().unwrap());
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[tokio::test]
async fn canceling_a_periodic_job_does_not_affect_the_next_run() {
    let queue = TestQueue::new().await;
    queue.queue.pause("default").await.unwrap();
    queue.tick().await;
    queue.set_due_ago(DIGEST, Duration::ZERO).await;
    queue.tick().await;
    let waiting = queue.queue.list("default", State::Queued, 0, 10).await.unwrap();
    assert_eq!(waiting.len(), 1);
    queue.queue.cancel(&waiting[0].id).await.unwrap();
    queue.queue.resume("default").await.unwrap();
    queue.set_due_ago(DIGEST, Duration::ZERO).await;
    let never = CancellationToken::new();
    let worker = Worker::new(&queue.queue, ALL, queue.log.clone(), options(&["default"])).unwrap();
    assert_eq!(worker.run(never.clone(), never).await.unwrap().finished, 1);
}

#[tokio::test]
async fn while_redis_is_full_delayed_jobs_run_and_periodic_jobs_wait() {
    let server = Server::redis(&test_dir().unwrap(), Purpose::Test).await.unwrap();
    let queue = TestQueue::on(server.url.expose_secret(), "rq");
    queue.tick().await;
    let soon = Duration::from_millis(1);
    let task = Report { what: "delayed".into() };
    queue.queue.enqueue_in(&task, Origin::default(), soon).await.unwrap();
    queue.set_due_ago(DIGEST, Duration::ZERO).await;
    queue.config("maxmemory", "1mb").await;
    eventually("the delayed job has run", || async {
        queue.tick().await;
        (queue.log.ran() == ["delayed"]).then_some(())
    })
    .await;
    queue.config("maxmemory", "0").await;
    queue.tick().await;
    assert_eq!(queue.log.ran(), ["delayed", "digest"], "the missed run follows when Redis has memory again");
    server.stop().await;
}
