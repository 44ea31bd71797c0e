//! Operations on queues: lists, totals, pause, requeue, purge, running workers.

use std::time::Duration;

use saas::queue::{Cancel, EnqueueOptions, Origin, QueueChanges, QueueInfo, Rate, State, When};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    eventually,
    queue::{Behavior, Task, TestQueue, steady},
};

impl TestQueue {
    async fn info(&self) -> QueueInfo {
        self.queue.queue("default").await.unwrap().unwrap()
    }

    async fn purge(&self, state: State) -> Result<u64, saas::queue::Error> {
        self.queue.purge(&self.info().await, state).await
    }
}

#[tokio::test]
async fn a_paused_queue_keeps_its_jobs() {
    let queue = TestQueue::new().await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
    queue.queue.pause("default").await.unwrap();
    let id = queue.push("one", Behavior::Succeed).await;
    assert_eq!(queue.drain().await.finished, 0);
    assert!(queue.info().await.paused);
    assert_eq!(queue.status(&id).await.state, State::Queued);
    queue.queue.resume("default").await.unwrap();
    eventually("the job has run", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn queue_settings_are_changed_only_if_they_are_as_expected() {
    let queue = TestQueue::new().await;
    queue.queue.limit_concurrency("default", Some(2)).await.unwrap();
    let seen = queue.info().await;
    let rate = Rate { jobs: 7, per: Duration::from_millis(1_500) };
    let pause = QueueChanges { paused: Some(true), rate_limit: Some(Some(rate)), ..QueueChanges::default() };
    let unlimit = QueueChanges { concurrency_limit: Some(None), ..QueueChanges::default() };
    // The client may repeat a call whose response was lost. So the same call succeeds twice.
    for _ in 0..2 {
        assert!(queue.queue.change("default", &pause, Some(&seen)).await.unwrap());
    }
    assert!(!queue.queue.change("default", &unlimit, Some(&seen)).await.unwrap());
    let info = queue.info().await;
    assert_eq!((info.paused, info.concurrency_limit, info.rate_limit), (true, Some(2), Some(rate)));
    assert!(queue.queue.change("default", &unlimit, Some(&info)).await.unwrap());
    assert_eq!(queue.info().await.concurrency_limit, None);
}

#[tokio::test]
async fn failed_jobs_can_be_requeued_or_purged() {
    let queue = TestQueue::new().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(queue.push(&n.to_string(), Behavior::FailForGood).await);
    }
    queue.drain().await;
    let failed = queue.queue.list("default", State::Failed, 0, 3).await.unwrap();
    assert_eq!(failed.len(), 3);
    assert_eq!(
        failed[0].payload,
        Some(json!({ "name": failed[0].payload.as_ref().unwrap()["name"], "behavior": "FailForGood" }))
    );
    assert_eq!(queue.queue.list("default", State::Failed, 3, 3).await.unwrap().len(), 2);
    assert!(queue.queue.requeue(&ids[0]).await.unwrap());
    assert!(!queue.queue.requeue(&ids[0]).await.unwrap(), "the job is already queued");
    let status = queue.status(&ids[0]).await;
    assert_eq!((status.state, status.attempts, status.error), (State::Queued, 0, None));
    assert_eq!(queue.queue.requeue_failed(&queue.info().await).await.unwrap(), 4);
    queue.drain().await;
    assert_eq!(queue.log.ran().len(), 10);
    let info = queue.info().await;
    assert_eq!((info.failed, info.totals.requeued, info.totals.failed), (5, 5, 10));
    assert_eq!(queue.purge(State::Failed).await.unwrap(), 5);
    assert!(queue.queue.status(&ids[0]).await.unwrap().is_none());
    queue.push("waits", Behavior::Succeed).await;
    let options = EnqueueOptions { group: Some("g".into()), ..EnqueueOptions::default() };
    let task = || Task { name: "waits too".into(), behavior: Behavior::Succeed };
    queue.queue.enqueue_with(&task(), Origin::default(), options).await.unwrap();
    queue.queue.enqueue_in(&task(), Origin::default(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(queue.purge(State::Queued).await.unwrap(), 2);
    assert_eq!(queue.purge(State::Scheduled).await.unwrap(), 1);
    assert!(queue.purge(State::Started).await.is_err());
    assert_eq!(queue.drain().await.finished, 0);
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:jobs"]).await);
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn the_totals_count_each_job_once() {
    let queue = TestQueue::new().await;
    for behavior in [Behavior::Succeed, Behavior::FailForGood, Behavior::Fail(1), Behavior::Panic] {
        queue.push("x", behavior).await;
    }
    queue.drain().await;
    let id = queue.push("x", Behavior::Succeed).await;
    assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Canceled);
    queue.push("x", Behavior::Succeed).await;
    let info = queue.info().await;
    let totals = info.totals;
    assert_eq!((totals.enqueued, totals.finished, totals.failed, totals.canceled), (6, 1, 1, 1));
    assert_eq!((info.queued, info.scheduled, info.started), (1, 2, 0));
    assert!(info.latency_seconds.is_some_and(|seconds| seconds < 60.0));
}

#[tokio::test]
async fn a_worker_is_listed_while_it_runs() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(7)).run(stop.clone(), CancellationToken::new()));
    let worker = eventually("the worker is listed with its job", || async {
        let workers = queue.queue.workers().await.unwrap();
        workers.into_iter().find(|worker| worker.running == 1)
    })
    .await;
    assert_eq!((worker.pid, worker.concurrency, worker.queues.as_str()), (std::process::id(), 7, "default"));
    assert!(!worker.host.is_empty() && worker.version == env!("CARGO_PKG_VERSION"));
    assert!(worker.started_at <= worker.last_beat_at);
    assert_eq!(queue.status(&id).await.worker, Some(worker.id));
    assert_eq!(queue.queue.list("default", State::Started, 0, 10).await.unwrap().len(), 1);
    queue.log.open.notify_one();
    stop.cancel();
    work.await.unwrap().unwrap();
    assert!(queue.queue.workers().await.unwrap().is_empty(), "the worker has signed off");
}

#[tokio::test]
async fn progress_is_visible_while_the_job_runs() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Report).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
    let progress =
        eventually("the job reports progress", || async { queue.status(&id).await.progress }).await;
    assert_eq!(progress, json!({ "percent": 40, "message": "four of ten" }));
    queue.log.open.notify_one();
    eventually("the job has finished", || async {
        (queue.status(&id).await.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    work.await.unwrap().unwrap();
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:prog"]).await);
}

#[tokio::test]
async fn a_failure_can_snooze_discard_or_delay_a_job() {
    let queue = TestQueue::new().await;
    let snoozed = queue.push("snooze", Behavior::Snooze).await;
    let dropped = queue.push("drop", Behavior::Discard).await;
    let later = queue.push("later", Behavior::RetryIn(3_600)).await;
    queue.drain().await;
    let status = queue.status(&snoozed).await;
    assert_eq!((status.state, status.attempts), (State::Scheduled, 0), "the attempt does not count");
    let status = queue.status(&dropped).await;
    assert_eq!((status.state, status.error.as_deref()), (State::Canceled, Some("The invoice is paid")));
    let status = queue.status(&later).await;
    assert_eq!((status.state, status.attempts), (State::Scheduled, 1));
    let away = (status.due_at.unwrap() - chrono::Utc::now()).num_seconds();
    assert!((3_500..=3_600).contains(&away), "{away}");
    assert_eq!(queue.info().await.failed, 0);
}

#[tokio::test]
async fn a_job_deep_in_a_long_queue_can_be_canceled() {
    let queue = TestQueue::new().await;
    let tasks: Vec<_> =
        (0..25_000).map(|n| Task { name: n.to_string(), behavior: Behavior::Succeed }).collect();
    let ids = queue.queue.enqueue_all(&tasks, Origin::default(), EnqueueOptions::default()).await.unwrap();
    for n in [0, 12_500, 24_999] {
        assert_eq!(queue.queue.cancel(&ids[n]).await.unwrap(), Cancel::Canceled);
        assert_eq!(queue.status(&ids[n]).await.state, State::Canceled);
    }
    assert_eq!(queue.purge(State::Queued).await.unwrap(), 24_997);
    let info = queue.info().await;
    assert_eq!((info.queued, info.totals.canceled), (0, 25_000));
}

#[tokio::test]
async fn a_purge_keeps_jobs_that_are_enqueued_after_it_started() {
    let queue = TestQueue::new().await;
    queue.push("old", Behavior::FailForGood).await;
    queue.drain().await;
    queue.push("old", Behavior::Succeed).await;
    let asked = queue.info().await;
    // Jobs with ids of the same millisecond count as old, so the test waits for the next millisecond.
    eventually("a millisecond has passed", || async {
        (queue.info().await.seen_at > asked.seen_at).then_some(())
    })
    .await;
    let new = queue.push("new", Behavior::Succeed).await;
    assert_eq!(queue.queue.purge(&asked, State::Queued).await.unwrap(), 1);
    assert_eq!(queue.queue.purge(&asked, State::Failed).await.unwrap(), 1);
    assert_eq!(queue.drain().await.finished, 1);
    assert_eq!(queue.status(&new).await.state, State::Finished);
}

#[tokio::test]
async fn a_purge_finds_old_jobs_behind_many_new_ones() {
    let queue = TestQueue::new().await;
    let tasks =
        |n: usize| (0..n).map(|_| Task { name: "x".into(), behavior: Behavior::Succeed }).collect::<Vec<_>>();
    let enqueue = async |n: usize, options: EnqueueOptions| {
        queue.queue.enqueue_all(&tasks(n), Origin::default(), options).await.unwrap()
    };
    let tenant = || EnqueueOptions { group: Some("tenant".into()), front: true, ..EnqueueOptions::default() };
    let due_in = |seconds| EnqueueOptions {
        when: When::In(Duration::from_secs(seconds)),
        ..EnqueueOptions::default()
    };
    for options in [EnqueueOptions::default(), tenant(), due_in(7_200)] {
        enqueue(2, options).await;
    }
    let asked = queue.info().await;
    eventually("a millisecond has passed", || async {
        (queue.info().await.seen_at > asked.seen_at).then_some(())
    })
    .await;
    let first = enqueue(1_500, EnqueueOptions { front: true, ..EnqueueOptions::default() }).await;
    let last = enqueue(1_500, EnqueueOptions::default()).await;
    for options in [tenant(), due_in(3_600)] {
        enqueue(1_500, options).await;
    }
    assert_eq!(queue.queue.purge(&asked, State::Queued).await.unwrap(), 4);
    assert_eq!(queue.queue.purge(&asked, State::Scheduled).await.unwrap(), 2);
    let info = queue.info().await;
    assert_eq!((info.queued, info.scheduled, info.totals.canceled), (4_500, 1_500, 6));
    let list: Vec<String> = queue.redis(&["LRANGE", "{}:queue:default", "0", "-1"]).await;
    assert!(list == [first, last].concat(), "the new jobs keep their order");
}

#[tokio::test]
async fn a_job_that_fails_after_a_cancel_request_is_canceled() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    let (_, taken, _): (i64, Vec<redis::Value>, u64) =
        queue.script("fetch", &["w", "t", "60000", "1", "1", "0", "0", "", "default"]).await;
    assert_eq!(taken.len(), 1);
    assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Requested);
    let settle = ["default", "0", "retry", &id, "t.0", "1", "0", "{}"];
    assert!(queue.script::<Vec<u32>>("settle", &settle).await.is_empty());
    assert_eq!(queue.status(&id).await.state, State::Canceled);
    assert_eq!(queue.drain().await.finished, 0);
}
