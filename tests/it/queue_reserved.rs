//! The reserved queue of a worker. Its jobs run first, and the worker keeps slots free for them.

use std::{sync::atomic::Ordering, time::Duration};

use saas::queue::{Options, ReservedQueue, State};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    queue::{Behavior, TestQueue, steady},
};

fn reserved(slots: usize) -> Option<ReservedQueue> {
    Some(ReservedQueue { name: "urgent".into(), slots })
}

impl TestQueue {
    /// Waits until exactly this number of jobs of the queue `default` is running.
    async fn wait_until_running(&self, jobs: u32) {
        let runs = || async { (self.log.running.load(Ordering::SeqCst) == jobs).then_some(()) };
        eventually(&format!("{jobs} jobs run"), runs).await;
    }

    async fn wait_until_finished(&self, id: &str) {
        let ended = || async { (self.status(id).await.state == State::Finished).then_some(()) };
        eventually("the job has finished", ended).await;
    }
}

#[tokio::test]
async fn jobs_of_the_reserved_queue_run_first() {
    for queues in ["default", "default,urgent", "default:1000,urgent:1", "urgent"] {
        let queue = TestQueue::new().await;
        for name in ["a", "b"] {
            queue.push(name, Behavior::Succeed).await;
        }
        queue.push_urgent("first").await;
        queue.push_urgent("second").await;
        let never = CancellationToken::new();
        let alone = Options { concurrency: 1, reserved: reserved(1), ..options(&[queues]) };
        queue.worker(alone).run(never.clone(), never).await.unwrap();
        let wanted = ["first", "second", "a", "b"];
        let wanted = if queues == "urgent" { &wanted[..2] } else { &wanted };
        assert_eq!(queue.log.ran(), wanted, "{queues}");
    }
}

#[tokio::test]
async fn a_slot_is_kept_for_the_reserved_queue() {
    let queue = TestQueue::new().await;
    for n in 0..8 {
        queue.push(&n.to_string(), Behavior::WaitForTest).await;
    }
    let stop = CancellationToken::new();
    let options = Options { reserved: reserved(1), ..steady(4) };
    let work = tokio::spawn(queue.worker(options).run(stop.clone(), CancellationToken::new()));
    queue.wait_until_running(3).await;
    for n in 0..3 {
        let id = queue.push_urgent(&n.to_string()).await;
        queue.wait_until_finished(&id).await;
    }
    assert_eq!(queue.log.max_running.load(Ordering::SeqCst), 3);
    for _ in 0..8 {
        queue.log.open.notify_one();
        tokio::task::yield_now().await;
    }
    eventually("all have run", || async {
        queue.log.open.notify_one();
        (queue.queue.queue("default").await.unwrap().unwrap().totals.finished == 8).then_some(())
    })
    .await;
    // Jobs of both queues wake an idle worker.
    for _ in 0..3 {
        let id = queue.push("last", Behavior::Succeed).await;
        queue.wait_until_finished(&id).await;
        let id = queue.push_urgent("last").await;
        queue.wait_until_finished(&id).await;
    }
    assert_eq!(queue.log.max_running.load(Ordering::SeqCst), 3);
    stop.cancel();
    work.await.unwrap().unwrap();
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_job_is_picked_up_at_once_after_the_slots_were_full() {
    let queue = TestQueue::new().await;
    let stop = CancellationToken::new();
    let options = Options { reserved: reserved(1), scheduler: false, ..steady(2) };
    let work = tokio::spawn(queue.worker(options).run(stop.clone(), CancellationToken::new()));
    for round in 0..5 {
        queue.push("long", Behavior::WaitForTest).await;
        queue.wait_until_running(1).await;
        queue.log.open.notify_one();
        queue.wait_until_running(0).await;
        let id = queue.push("short", Behavior::Succeed).await;
        // Without a wake-up, the worker fetches only every five seconds. In this test, only the new job can wake the
        // worker.
        let found = tokio::time::timeout(Duration::from_secs(4), queue.wait_until_finished(&id)).await;
        assert!(found.is_ok(), "round {round}");
    }
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_burst_worker_runs_the_reserved_queue_beside_long_jobs() {
    let queue = TestQueue::new().await;
    let id = queue.push("long", Behavior::WaitForTest).await;
    let never = CancellationToken::new();
    let options = Options { concurrency: 2, reserved: reserved(1), ..options(&["default"]) };
    let work = tokio::spawn(queue.worker(options).run(never.clone(), never));
    queue.wait_until_running(1).await;
    let urgent = queue.push_urgent("urgent").await;
    queue.wait_until_finished(&urgent).await;
    queue.log.open.notify_one();
    assert_eq!(work.await.unwrap().unwrap().finished, 2);
    queue.wait_until_finished(&id).await;
}

#[tokio::test]
async fn the_list_of_workers_names_the_reserved_queue() {
    let queue = TestQueue::new().await;
    let stop = CancellationToken::new();
    let options = Options { reserved: reserved(1), ..steady(2) };
    let work = tokio::spawn(queue.worker(options).run(stop.clone(), CancellationToken::new()));
    let queues = eventually("the worker is listed", || async {
        queue.queue.workers().await.unwrap().pop().map(|worker| worker.queues)
    })
    .await;
    assert_eq!(queues, "urgent,default");
    stop.cancel();
    work.await.unwrap().unwrap();
}
