//! Options of enqueuing: delays, front of the queue, groups and unique keys. Also the limits of queues.

use std::{collections::HashSet, time::Duration};

use chrono::Utc;
use saas::queue::{Cancel, EnqueueOptions, Error, OnDuplicate, Options, Origin, Rate, State, Unique, When};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    queue::{Behavior, Task, TestQueue, UrgentTask, steady},
};

pub fn task(name: &str) -> Task {
    Task { name: name.into(), behavior: Behavior::Succeed }
}

pub fn unique(key: &str, on_duplicate: OnDuplicate) -> EnqueueOptions {
    let unique = Unique { key: key.into(), window: Duration::from_secs(3_600), on_duplicate };
    EnqueueOptions { unique: Some(unique), ..EnqueueOptions::default() }
}

impl TestQueue {
    pub async fn enqueue(&self, name: &str, options: EnqueueOptions) -> String {
        self.queue.enqueue_with(&task(name), Origin::default(), options).await.unwrap()
    }

    /// Runs all jobs, one at a time. Returns the names of all jobs that have run so far, in order.
    async fn run_all_one_by_one(&self) -> Vec<String> {
        let never = CancellationToken::new();
        let alone = Options { concurrency: 1, ..options(&["urgent", "default"]) };
        self.worker(alone).run(never.clone(), never).await.unwrap();
        self.log.ran()
    }
}

#[tokio::test]
async fn a_delayed_job_starts_when_it_is_due_and_not_before() {
    let queue = TestQueue::new().await;
    let day = Duration::from_secs(86_400);
    let tomorrow = queue.queue.enqueue_in(&task("in"), Origin::default(), day).await.unwrap();
    let at = queue.queue.enqueue_at(&task("at"), Origin::default(), Utc::now() + day).await.unwrap();
    let past = queue.queue.enqueue_at(&task("past"), Origin::default(), Utc::now() - day).await.unwrap();
    queue.drain().await;
    for id in [&tomorrow, &at] {
        let status = queue.status(id).await;
        assert_eq!(status.state, State::Scheduled);
        let away = (status.due_at.unwrap() - Utc::now()).num_seconds();
        assert!((86_000..=86_400).contains(&away), "{away}");
    }
    assert_eq!(queue.status(&past).await.state, State::Finished);
    let soon =
        queue.queue.enqueue_in(&task("soon"), Origin::default(), Duration::from_millis(300)).await.unwrap();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
    let done = eventually("the job has finished", || async {
        Some(queue.status(&soon).await).filter(|status| status.state == State::Finished)
    })
    .await;
    let waited = done.started_at.unwrap() - done.enqueued_at.unwrap();
    assert!(waited.num_milliseconds() >= 299, "{waited}");
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn ten_thousand_jobs_due_at_once_all_run() {
    let queue = TestQueue::new().await;
    let tasks: Vec<_> = (0..10_000).map(|n| task(&n.to_string())).collect();
    let options =
        EnqueueOptions { when: When::At(Utc::now() + Duration::from_secs(1)), ..EnqueueOptions::default() };
    let ids = queue.queue.enqueue_all(&tasks, Origin::default(), options).await.unwrap();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 10_000);
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(200)).run(stop.clone(), CancellationToken::new()));
    eventually("all jobs have run", || async { (queue.log.ran().len() == 10_000).then_some(()) }).await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 10_000);
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn jobs_that_are_enqueued_in_front_run_first() {
    let queue = TestQueue::new().await;
    queue.enqueue("plain", EnqueueOptions::default()).await;
    queue.enqueue("urgent", EnqueueOptions { front: true, ..EnqueueOptions::default() }).await;
    let batch = [task("a"), task("b")];
    let options = EnqueueOptions { front: true, ..EnqueueOptions::default() };
    queue.queue.enqueue_all(&batch, Origin::default(), options).await.unwrap();
    assert_eq!(queue.run_all_one_by_one().await, ["a", "b", "urgent", "plain"]);
}

#[tokio::test]
async fn a_busy_group_does_not_delay_others() {
    let queue = TestQueue::new().await;
    let of = |group: &str| EnqueueOptions { group: Some(group.into()), ..EnqueueOptions::default() };
    let noise: Vec<_> = (0..50).map(|_| task("noisy")).collect();
    queue.queue.enqueue_all(&noise, Origin::default(), of("noisy")).await.unwrap();
    for name in ["quiet", "quiet", "calm"] {
        queue.enqueue(name, of(name)).await;
    }
    queue.enqueue("none", EnqueueOptions::default()).await;
    assert_eq!(queue.queue.queue("default").await.unwrap().unwrap().queued, 54);
    let order = queue.run_all_one_by_one().await;
    assert_eq!(order.len(), 54);
    for (name, latest) in [("none", 4), ("calm", 5), ("quiet", 8)] {
        let last = order.iter().rposition(|ran| ran == name).unwrap();
        assert!(last < latest, "{name} came {last} in {order:?}");
    }
    queue.assert_no_running_records().await;
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:group"]).await);
}

#[tokio::test]
async fn a_unique_key_keeps_the_first_or_the_last_job() {
    let queue = TestQueue::new().await;
    let first = queue.enqueue("first", unique("digest", OnDuplicate::KeepExisting)).await;
    assert_eq!(queue.enqueue("second", unique("digest", OnDuplicate::KeepExisting)).await, first);
    let other = queue.enqueue("other", unique("other", OnDuplicate::KeepExisting)).await;
    assert_ne!(other, first);
    let last = queue.enqueue("last", unique("digest", OnDuplicate::Replace)).await;
    assert_ne!(last, first);
    let status = queue.status(&first).await;
    assert_eq!((status.state, status.task.as_str()), (State::Canceled, "test_task"));
    assert_eq!(queue.run_all_one_by_one().await, ["other", "last"]);
    // A finished job keeps its unique key until the window has passed.
    assert_eq!(queue.enqueue("again", unique("digest", OnDuplicate::KeepExisting)).await, last);
    // A canceled job releases its unique key.
    let gone = queue.enqueue("gone", unique("third", OnDuplicate::KeepExisting)).await;
    assert_eq!(queue.queue.cancel(&gone).await.unwrap(), Cancel::Canceled);
    assert_ne!(queue.enqueue("new", unique("third", OnDuplicate::KeepExisting)).await, gone);
    let short_window = Unique {
        key: "short".into(),
        window: Duration::from_millis(1),
        on_duplicate: OnDuplicate::KeepExisting,
    };
    let options = EnqueueOptions { unique: Some(short_window), ..EnqueueOptions::default() };
    let short = queue.enqueue("short", options.clone()).await;
    eventually("the window is over", || async {
        (queue.enqueue("short", options.clone()).await != short).then_some(())
    })
    .await;
}

#[tokio::test]
async fn invalid_enqueue_options_are_rejected() {
    let queue = TestQueue::new().await;
    let long = "x".repeat(256);
    let key = |key: &str, window| Unique { key: key.into(), window, on_duplicate: OnDuplicate::KeepExisting };
    let second = Duration::from_secs(1);
    for (field, options) in [
        ("group", EnqueueOptions { group: Some(String::new()), ..EnqueueOptions::default() }),
        ("group", EnqueueOptions { group: Some(long.clone()), ..EnqueueOptions::default() }),
        ("unique", EnqueueOptions { unique: Some(key("", second)), ..EnqueueOptions::default() }),
        ("unique", EnqueueOptions { unique: Some(key(&long, second)), ..EnqueueOptions::default() }),
        ("unique", EnqueueOptions { unique: Some(key("k", Duration::ZERO)), ..EnqueueOptions::default() }),
        ("after", EnqueueOptions { after: vec!["x".into(); 101], ..EnqueueOptions::default() }),
    ] {
        let error = queue.queue.enqueue_with(&task("x"), Origin::default(), options).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid { field: f, .. } if *f == field), "{error}");
    }
    let two = [task("a"), task("b")];
    assert!(
        queue
            .queue
            .enqueue_all(&two, Origin::default(), unique("k", OnDuplicate::KeepExisting))
            .await
            .is_err()
    );
    assert_eq!(queue.drain().await.finished, 0);
}

#[tokio::test]
async fn a_concurrency_limit_applies_to_all_workers_together() {
    let queue = TestQueue::new().await;
    queue.queue.limit_concurrency("default", Some(2)).await.unwrap();
    for n in 0..6 {
        queue.push(&n.to_string(), Behavior::WaitForTest).await;
    }
    let stop = CancellationToken::new();
    let workers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(queue.worker(steady(5)).run(stop.clone(), CancellationToken::new())))
        .collect();
    for done in 0..6_usize {
        let running = (6 - done).min(2);
        let run = || async {
            (queue.log.running.load(std::sync::atomic::Ordering::SeqCst) as usize == running).then_some(())
        };
        eventually("as many jobs run as the limit allows", run).await;
        queue.log.open.notify_one();
    }
    eventually("all jobs have finished", || async {
        let info = queue.queue.queue("default").await.unwrap().unwrap();
        (info.totals.finished == 6).then_some(())
    })
    .await;
    assert_eq!(queue.log.max_running.load(std::sync::atomic::Ordering::SeqCst), 2);
    stop.cancel();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
    queue.queue.limit_concurrency("default", None).await.unwrap();
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:limits"]).await);
}

#[tokio::test]
async fn a_rate_limit_holds_jobs_back() {
    let queue = TestQueue::new().await;
    queue.queue.limit_rate("default", Some(Rate { jobs: 3, per: Duration::from_secs(3_600) })).await.unwrap();
    for n in 0..5 {
        queue.push(&n.to_string(), Behavior::Succeed).await;
    }
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(5)).run(stop.clone(), CancellationToken::new()));
    eventually("three jobs have run", || async { (queue.log.ran().len() == 3).then_some(()) }).await;
    let info = queue.queue.queue("default").await.unwrap().unwrap();
    assert_eq!((info.queued, info.rate_limit.map(|rate| rate.to_string())), (2, Some("3/3600s".into())));
    // With a higher rate, the other jobs run.
    queue.queue.limit_rate("default", Some(Rate { jobs: 1_000, per: Duration::from_secs(1) })).await.unwrap();
    eventually("all jobs have run", || async { (queue.log.ran().len() == 5).then_some(()) }).await;
    stop.cancel();
    work.await.unwrap().unwrap();
    // A burst worker waits for the rate limit before it exits.
    queue.queue.limit_rate("default", Some(Rate { jobs: 2, per: Duration::from_millis(200) })).await.unwrap();
    for n in 0..6 {
        queue.push(&n.to_string(), Behavior::Succeed).await;
    }
    assert_eq!(queue.drain().await.finished, 6);
}

#[tokio::test]
async fn a_worker_runs_the_jobs_of_weighted_queues_in_proportion() {
    let queue = TestQueue::new().await;
    let named = |kind: &str| (0..1_000).map(|n| format!("{kind} {n}")).collect::<Vec<_>>();
    let urgent: Vec<_> = named("urgent").into_iter().map(|name| UrgentTask { name }).collect();
    let default = named("default").into_iter().map(|name| Task { name, behavior: Behavior::Succeed });
    let default: Vec<_> = default.collect();
    queue.queue.enqueue_all(&urgent, Origin::default(), EnqueueOptions::default()).await.unwrap();
    queue.queue.enqueue_all(&default, Origin::default(), EnqueueOptions::default()).await.unwrap();
    let never = CancellationToken::new();
    let weighted =
        Options { concurrency: 1, queues: "urgent:3,default:1".parse().unwrap(), ..options(&["x"]) };
    queue.worker(weighted).run(never.clone(), never).await.unwrap();
    let half = queue.log.ran().into_iter().take(1_000).filter(|name| name.starts_with("urgent")).count();
    assert!((550..950).contains(&half), "{half} of the first 1,000 were urgent, about 750 should be");
}
