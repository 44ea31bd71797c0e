//! The life cycle of a job.

use std::{sync::atomic::Ordering, time::Duration};

use saas::queue::{Cancel, Options, Origin, Retention, State, Summary};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    queue::{Behavior, EndlessTask, TestQueue, UrgentTask, steady},
};

#[tokio::test]
async fn smoke_a_job_runs_and_its_result_is_stored() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    assert_eq!(queue.status(&id).await.state, State::Queued);
    assert_eq!(queue.redis::<u32>(&["LLEN", "{}:queue:default"]).await, 1);
    assert_eq!(queue.drain().await, Summary { finished: 1, ..Summary::default() });
    let status = queue.status(&id).await;
    assert_eq!(
        (status.state, status.result, status.attempts),
        (State::Finished, Some(json!({ "name": "one" })), 1)
    );
    assert!(status.enqueued_at <= status.ended_at && status.started_at <= status.ended_at);
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:jobs"]).await);
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn results_and_states_of_ended_jobs_expire() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    let enqueued_at = queue.status(&id).await.enqueued_at;
    queue.drain().await;
    for (kind, seconds) in [("{}:done", 3_600), ("{}:ended", 86_400)] {
        let buckets: Vec<String> = queue.redis(&["ZRANGE", kind, "0", "-1"]).await;
        assert_eq!(buckets.len(), 1);
        let left: i64 = queue.redis(&["TTL", &buckets[0]]).await;
        assert!((seconds..seconds + seconds / 8 + 120).contains(&left), "{kind}: {left}");
        let status = queue.status(&id).await;
        assert_eq!((status.state, status.result.is_some()), (State::Finished, kind == "{}:done"));
        assert_eq!(status.enqueued_at, enqueued_at);
        // Sets the time of the bucket to 1970, so that the next tick of the scheduler deletes it.
        queue.redis::<u32>(&["ZADD", kind, "1", &buckets[0]]).await;
        queue.drain().await;
        assert!(!queue.redis::<bool>(&["EXISTS", &buckets[0]]).await);
    }
    assert!(queue.queue.status(&id).await.unwrap().is_none());
}

/// Each result has 600 kB. A bucket of 8 MiB is full with 14 results, and 33 results fit into the limit of 20 MB.
#[tokio::test]
async fn the_oldest_results_are_deleted_when_they_are_too_large_in_total() {
    let queue = TestQueue::new().await;
    let name = "x".repeat(300_000);
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(queue.push(&name, Behavior::Double).await);
    }
    let retention = Retention { outcome_bytes: 20_000_000, ..Retention::default() };
    for _ in 0..2 {
        // The scheduler ticks before the worker runs the jobs, so the second worker deletes the results.
        let options = Options { retention, concurrency: 1, ..options(&["default"]) };
        queue.worker(options).run(CancellationToken::new(), CancellationToken::new()).await.unwrap();
    }
    let mut kept = Vec::new();
    for id in &ids {
        let status = queue.status(id).await;
        assert_eq!(status.state, State::Finished);
        kept.push(status.result.is_some());
    }
    assert!(kept.is_sorted() && !kept[0], "the oldest are deleted: {kept:?}");
    let n = kept.iter().filter(|kept| **kept).count();
    assert!((20..=33).contains(&n), "{n} results are kept");
}

#[tokio::test]
async fn the_oldest_states_are_deleted_when_there_are_too_many() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    queue.drain().await;
    let buckets: Vec<(String, u64)> = queue.redis(&["ZRANGE", "{}:ended", "0", "-1", "WITHSCORES"]).await;
    let (bucket, latest) = &buckets[0];
    // Renames the bucket as if it were full, so that the next job begins another bucket.
    let full = format!("{bucket}.1");
    queue.redis::<String>(&["RENAME", bucket, &full]).await;
    queue.redis::<u32>(&["ZREM", "{}:ended", bucket]).await;
    queue.redis::<u32>(&["ZADD", "{}:ended", &(latest - 1).to_string(), &full]).await;
    let newer = queue.push("two", Behavior::Succeed).await;
    queue.drain().await;
    assert_eq!(queue.status(&id).await.state, State::Finished);
    let retention = Retention { states: 1, ..Retention::default() };
    let options = Options { retention, ..options(&["default"]) };
    queue.worker(options).run(CancellationToken::new(), CancellationToken::new()).await.unwrap();
    assert_eq!(queue.status(&newer).await.state, State::Finished);
    assert!(queue.queue.status(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn the_oldest_results_are_deleted_first_whatever_their_ttl() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Double).await;
    queue.drain().await;
    // Adds a bucket that was written six days ago and is kept for a week.
    let (week, written_at) = (604_800_000, chrono::Utc::now().timestamp_millis() - 518_400_000);
    let old = format!("{}:done:{week}:1", queue.prefix);
    for n in 0..10 {
        queue.redis::<u32>(&["HSET", &old, &format!("old {n}"), "{}"]).await;
    }
    queue.redis::<u32>(&["ZADD", "{}:done", &written_at.to_string(), &old]).await;
    queue.drain().await;
    assert!(queue.redis::<bool>(&["EXISTS", &old]).await, "there is room for them");
    let retention = Retention { outcomes: 5, ..Retention::default() };
    let options = Options { retention, ..options(&["default"]) };
    queue.worker(options).run(CancellationToken::new(), CancellationToken::new()).await.unwrap();
    assert!(!queue.redis::<bool>(&["EXISTS", &old]).await);
    assert!(queue.status(&id).await.result.is_some());
}

#[tokio::test]
async fn a_failed_attempt_is_retried() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Fail(2)).await;
    assert_eq!(queue.drain().await.failed, 1);
    let waiting = queue.status(&id).await;
    assert_eq!((waiting.state, waiting.attempts), (State::Scheduled, 1));
    assert_eq!(waiting.error.as_deref(), Some("The job failed"), "details are for admins only");
    assert_eq!(waiting.error_detail.as_deref(), Some("the disk at /srv is full"));
    let done = queue.drain_until(&id, State::Finished).await;
    assert_eq!((done.attempts, done.error), (3, None));
    assert_eq!(queue.log.ran(), ["one"; 3]);
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_job_fails_after_its_last_attempt() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Fail(99)).await;
    let failed = queue.drain_until(&id, State::Failed).await;
    assert_eq!((failed.attempts, failed.error_detail.as_deref()), (3, Some("the disk at /srv is full")));
    assert!(failed.ended_at.is_some());
    assert_eq!(queue.drain().await, Summary::default());
    assert_eq!(queue.log.ran().len(), 3);
    assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Ended);
}

#[tokio::test]
async fn a_permanent_failure_is_not_retried() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::FailForGood).await;
    queue.drain().await;
    let failed = queue.status(&id).await;
    assert_eq!((failed.state, failed.attempts), (State::Failed, 1));
    assert_eq!(failed.error.as_deref(), Some("There is no such invoice"));
}

#[tokio::test]
async fn a_panic_of_a_job_is_a_failure() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Panic).await;
    let other = queue.push("two", Behavior::Succeed).await;
    queue.drain().await;
    assert_eq!(queue.status(&other).await.state, State::Finished);
    let failed = queue.drain_until(&id, State::Failed).await;
    assert!(failed.error_detail.unwrap().contains("out of cheese"));
}

#[tokio::test]
async fn a_job_is_stopped_after_its_timeout() {
    let queue = TestQueue::new().await;
    let id = queue.queue.enqueue(&EndlessTask, Origin::default()).await.unwrap();
    queue.drain().await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.attempts), (State::Scheduled, 1));
    assert_eq!(status.error.as_deref(), Some("The job took longer than 0.05 s"));
}

#[tokio::test]
async fn a_worker_serves_its_queues_in_the_given_order() {
    let queue = TestQueue::new().await;
    for n in 0..3 {
        queue.push(&format!("default {n}"), Behavior::Succeed).await;
    }
    for n in 0..3 {
        queue.queue.enqueue(&UrgentTask { name: format!("urgent {n}") }, Origin::default()).await.unwrap();
    }
    let never = CancellationToken::new();
    let one_by_one = Options { concurrency: 1, ..options(&["urgent", "default"]) };
    queue.worker(one_by_one).run(never.clone(), never).await.unwrap();
    let order = ["urgent 0", "urgent 1", "urgent 2", "default 0", "default 1", "default 2"];
    assert_eq!(queue.log.ran(), order);
}

#[tokio::test]
async fn a_worker_fetches_only_from_its_queues() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    let never = CancellationToken::new();
    queue.worker(options(&["urgent"])).run(never.clone(), never).await.unwrap();
    assert_eq!(queue.status(&id).await.state, State::Queued);
}

#[tokio::test]
async fn a_worker_respects_its_concurrency() {
    let queue = TestQueue::new().await;
    for n in 0..12 {
        queue.push(&n.to_string(), Behavior::WaitForTest).await;
    }
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(4)).run(stop.clone(), CancellationToken::new()));
    for done in 0..12_usize {
        let running = (12 - done).min(4);
        let all_run =
            || async { (queue.log.running.load(Ordering::SeqCst) as usize == running).then_some(()) };
        eventually("all slots run a job", all_run).await;
        queue.log.open.notify_one();
    }
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 12);
    assert_eq!(queue.log.max_running.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn workers_that_share_a_queue_run_each_job_once() {
    let queue = TestQueue::new().await;
    for n in 0..300 {
        queue.push(&n.to_string(), Behavior::Succeed).await;
    }
    let never = CancellationToken::new();
    let workers =
        (0..4).map(|_| tokio::spawn(queue.worker(options(&["default"])).run(never.clone(), never.clone())));
    let mut finished = 0;
    for worker in workers.collect::<Vec<_>>() {
        finished += worker.await.unwrap().unwrap().finished;
    }
    let mut ran = queue.log.ran();
    ran.sort();
    ran.dedup();
    assert_eq!((finished, ran.len()), (300, 300));
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn an_idle_worker_starts_a_new_job() {
    let queue = TestQueue::new().await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
    for n in 0..20 {
        let id = queue.push(&n.to_string(), Behavior::Succeed).await;
        eventually("the job has finished", || async {
            (queue.status(&id).await.state == State::Finished).then_some(())
        })
        .await;
    }
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 20);
}

#[tokio::test]
async fn a_job_that_is_canceled_while_it_waits_never_runs() {
    let queue = TestQueue::new().await;
    let queued = queue.push("queued", Behavior::Succeed).await;
    let scheduled = queue.push("scheduled", Behavior::Fail(1)).await;
    assert_eq!(queue.queue.cancel(&queued).await.unwrap(), Cancel::Canceled);
    queue.drain().await;
    assert_eq!(queue.queue.cancel(&scheduled).await.unwrap(), Cancel::Canceled);
    for id in [&queued, &scheduled] {
        assert_eq!(queue.status(id).await.state, State::Canceled);
        assert_eq!(queue.queue.cancel(id).await.unwrap(), Cancel::Ended);
    }
    assert_eq!(queue.queue.cancel(&"0".repeat(32)).await.unwrap(), Cancel::Unknown);
    assert_eq!(queue.log.ran(), ["scheduled"]);
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_cancel_stops_a_running_job_with_or_without_its_cooperation() {
    for behavior in [Behavior::Wait, Behavior::WaitForTest] {
        let queue = TestQueue::new().await;
        let id = queue.push("one", behavior.clone()).await;
        let stop = CancellationToken::new();
        let work = tokio::spawn(queue.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
        eventually("the job runs", || async { (!queue.log.ran().is_empty()).then_some(()) }).await;
        assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Requested);
        let ended = eventually("the job has ended", || async {
            Some(queue.status(&id).await.state).filter(|state| *state != State::Started)
        })
        .await;
        // A job that stops by itself in time counts as finished.
        let expected = if behavior == Behavior::Wait { State::Finished } else { State::Canceled };
        assert_eq!(ended, expected);
        stop.cancel();
        work.await.unwrap().unwrap();
        queue.assert_no_running_records().await;
    }
}

#[tokio::test]
async fn a_stopping_worker_lets_running_jobs_finish() {
    let queue = TestQueue::new().await;
    let (running, waiting) =
        (queue.push("one", Behavior::WaitForTest).await, queue.push("two", Behavior::Succeed).await);
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
    eventually("the job runs", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
    stop.cancel();
    queue.log.open.notify_one();
    let summary = work.await.unwrap().unwrap();
    assert_eq!((summary.finished, summary.released), (1, 0));
    assert_eq!(queue.status(&running).await.state, State::Finished);
    assert_eq!(queue.status(&waiting).await.state, State::Queued, "no new job is started");
}

#[tokio::test]
async fn jobs_that_outlast_the_grace_period_are_released() {
    for hurried in [false, true] {
        let queue = TestQueue::new().await;
        let stubborn = queue.push("stubborn", Behavior::WaitForTest).await;
        let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
        let grace = if hurried { Duration::from_secs(3_600) } else { Duration::from_millis(10) };
        let worker = queue.worker(Options { grace, ..steady(2) });
        let work = tokio::spawn(worker.run(stop.clone(), hurry.clone()));
        eventually("the job runs", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
        stop.cancel();
        if hurried {
            hurry.cancel();
        }
        assert_eq!(work.await.unwrap().unwrap().released, 1);
        let status = queue.status(&stubborn).await;
        assert_eq!((status.state, status.attempts), (State::Queued, 0), "the attempt does not count");
        queue.assert_no_running_records().await;
    }
}
