//! The life of a job.

use std::{sync::atomic::Ordering, time::Duration};

use saas::queue::{Cancel, Options, Origin, State, Summary};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    queue::{Behaviour, EndlessTask, TestQueue, UrgentTask, steady},
};

#[tokio::test]
async fn smoke_a_job_runs_and_its_result_is_kept() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
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
    queue.is_clean().await;
}

#[tokio::test]
async fn results_are_gone_when_their_time_is_over() {
    let queue = TestQueue::new().await;
    queue.push("one", Behaviour::Succeed).await;
    queue.drain().await;
    let buckets: Vec<String> = queue.redis(&["ZRANGE", "{}:buckets", "0", "-1"]).await;
    assert_eq!(buckets.len(), 1);
    let day: i64 = queue.redis(&["TTL", &buckets[0]]).await;
    assert!((86_400..86_400 + 86_400 / 8 + 120).contains(&day), "{day}");
    // What is over is freed by whoever ticks.
    queue.redis::<u32>(&["ZADD", "{}:buckets", "1", &buckets[0]]).await;
    queue.drain().await;
    assert!(!queue.redis::<bool>(&["EXISTS", &buckets[0]]).await);
}

#[tokio::test]
async fn a_failure_is_tried_again_and_then_forgotten() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Fail(2)).await;
    assert_eq!(queue.drain().await.failed, 1);
    let waiting = queue.status(&id).await;
    assert_eq!((waiting.state, waiting.attempts), (State::Scheduled, 1));
    assert_eq!(waiting.error.as_deref(), Some("The job failed"), "the owner is not told of disks");
    assert_eq!(waiting.error_detail.as_deref(), Some("the disk at /srv is full"));
    let done = queue.drain_until(&id, State::Finished).await;
    assert_eq!((done.attempts, done.error), (3, None));
    assert_eq!(queue.log.ran(), ["one"; 3]);
    queue.is_clean().await;
}

#[tokio::test]
async fn when_its_attempts_are_used_up_a_job_has_failed() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Fail(99)).await;
    let failed = queue.drain_until(&id, State::Failed).await;
    assert_eq!((failed.attempts, failed.error_detail.as_deref()), (3, Some("the disk at /srv is full")));
    assert!(failed.ended_at.is_some());
    assert_eq!(queue.drain().await, Summary::default());
    assert_eq!(queue.log.ran().len(), 3);
    assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Ended);
}

#[tokio::test]
async fn a_failure_for_good_is_not_tried_again() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::FailForGood).await;
    queue.drain().await;
    let failed = queue.status(&id).await;
    assert_eq!((failed.state, failed.attempts), (State::Failed, 1));
    assert_eq!(failed.error.as_deref(), Some("There is no such invoice"));
}

#[tokio::test]
async fn a_panic_is_a_failure_like_any_other() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Panic).await;
    let other = queue.push("two", Behaviour::Succeed).await;
    queue.drain().await;
    assert_eq!(queue.status(&other).await.state, State::Finished);
    let failed = queue.drain_until(&id, State::Failed).await;
    assert!(failed.error_detail.unwrap().contains("out of cheese"));
}

#[tokio::test]
async fn a_job_that_takes_too_long_is_stopped() {
    let queue = TestQueue::new().await;
    let id = queue.queue.enqueue(&EndlessTask, Origin::default()).await.unwrap();
    queue.drain().await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.attempts), (State::Scheduled, 1));
    assert_eq!(status.error.as_deref(), Some("The job took longer than 0.05 s"));
}

#[tokio::test]
async fn queues_come_in_the_order_they_are_named() {
    let queue = TestQueue::new().await;
    for n in 0..3 {
        queue.push(&format!("default {n}"), Behaviour::Succeed).await;
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
async fn a_worker_leaves_other_queues_alone() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    let never = CancellationToken::new();
    queue.worker(options(&["urgent"])).run(never.clone(), never).await.unwrap();
    assert_eq!(queue.status(&id).await.state, State::Queued);
}

#[tokio::test]
async fn no_more_jobs_run_at_once_than_were_asked_for() {
    let queue = TestQueue::new().await;
    for n in 0..12 {
        queue.push(&n.to_string(), Behaviour::WaitForTest).await;
    }
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(4)).run(stop.clone(), CancellationToken::new()));
    for done in 0..12_usize {
        let running = (12 - done).min(4);
        let all_run = || async { (queue.log.now.load(Ordering::SeqCst) as usize == running).then_some(()) };
        eventually("as many run as may", all_run).await;
        queue.log.open.notify_one();
    }
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 12);
    assert_eq!(queue.log.most.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn workers_that_share_a_queue_run_each_job_once() {
    let queue = TestQueue::new().await;
    for n in 0..300 {
        queue.push(&n.to_string(), Behaviour::Succeed).await;
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
    queue.is_clean().await;
}

#[tokio::test]
async fn an_idle_worker_takes_a_new_job_up() {
    let queue = TestQueue::new().await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
    for n in 0..20 {
        let id = queue.push(&n.to_string(), Behaviour::Succeed).await;
        eventually("it is done", || async {
            (queue.status(&id).await.state == State::Finished).then_some(())
        })
        .await;
    }
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 20);
}

#[tokio::test]
async fn a_job_that_was_cancelled_while_it_waited_never_runs() {
    let queue = TestQueue::new().await;
    let queued = queue.push("queued", Behaviour::Succeed).await;
    let scheduled = queue.push("scheduled", Behaviour::Fail(1)).await;
    assert_eq!(queue.queue.cancel(&queued).await.unwrap(), Cancel::Canceled);
    queue.drain().await;
    assert_eq!(queue.queue.cancel(&scheduled).await.unwrap(), Cancel::Canceled);
    for id in [&queued, &scheduled] {
        assert_eq!(queue.status(id).await.state, State::Canceled);
        assert_eq!(queue.queue.cancel(id).await.unwrap(), Cancel::Ended);
    }
    assert_eq!(queue.queue.cancel(&"0".repeat(32)).await.unwrap(), Cancel::Unknown);
    assert_eq!(queue.log.ran(), ["scheduled"]);
    queue.is_clean().await;
}

#[tokio::test]
async fn a_running_job_is_cancelled_whether_it_listens_or_not() {
    for behaviour in [Behaviour::Wait, Behaviour::WaitForTest] {
        let queue = TestQueue::new().await;
        let id = queue.push("one", behaviour.clone()).await;
        let stop = CancellationToken::new();
        let work = tokio::spawn(queue.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
        eventually("it runs", || async { (!queue.log.ran().is_empty()).then_some(()) }).await;
        assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Requested);
        let ended = eventually("it has ended", || async {
            Some(queue.status(&id).await.state).filter(|state| *state != State::Started)
        })
        .await;
        // One that stops in its own way, and in time, has finished.
        let expected = if behaviour == Behaviour::Wait { State::Finished } else { State::Canceled };
        assert_eq!(ended, expected);
        stop.cancel();
        work.await.unwrap().unwrap();
        queue.is_clean().await;
    }
}

#[tokio::test]
async fn a_stopping_worker_lets_its_jobs_finish() {
    let queue = TestQueue::new().await;
    let (running, waiting) =
        (queue.push("one", Behaviour::WaitForTest).await, queue.push("two", Behaviour::Succeed).await);
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
    eventually("it runs", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
    stop.cancel();
    queue.log.open.notify_one();
    let summary = work.await.unwrap().unwrap();
    assert_eq!((summary.finished, summary.released), (1, 0));
    assert_eq!(queue.status(&running).await.state, State::Finished);
    assert_eq!(queue.status(&waiting).await.state, State::Queued, "nothing new is begun");
}

#[tokio::test]
async fn jobs_that_outlast_the_grace_go_back_unharmed() {
    for hurried in [false, true] {
        let queue = TestQueue::new().await;
        let stubborn = queue.push("stubborn", Behaviour::WaitForTest).await;
        let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
        let grace = if hurried { Duration::from_secs(3_600) } else { Duration::from_millis(10) };
        let worker = queue.worker(Options { grace, ..steady(2) });
        let work = tokio::spawn(worker.run(stop.clone(), hurry.clone()));
        eventually("it runs", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
        stop.cancel();
        if hurried {
            hurry.cancel();
        }
        assert_eq!(work.await.unwrap().unwrap().released, 1);
        let status = queue.status(&stubborn).await;
        assert_eq!((status.state, status.attempts), (State::Queued, 0), "no attempt is burnt");
        queue.is_clean().await;
    }
}
