//! Jobs with an owner. Owners take turns, and each owner has limits.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use saas::queue::{
    Cancel, EnqueueOptions, Error, Options, Origin, OwnerLimit, OwnerLimits, PurgedOwner, Queue, State,
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    queue::{Behavior, Task, TestQueue, UrgentTask, client, steady},
    servers::servers,
};

fn task(name: &str, behavior: Behavior) -> Task {
    Task { name: name.into(), behavior }
}

fn owned_by(owner: i64) -> Origin {
    Origin { owner: Some(owner), ..Origin::default() }
}

fn limits(jobs: u64, bytes: u64) -> OwnerLimits {
    OwnerLimits { jobs, bytes, per_hour: None }
}

async fn enqueue(queue: &Queue, owner: i64) -> Result<String, OwnerLimit> {
    match queue.enqueue(&task("x", Behavior::Succeed), owned_by(owner)).await {
        Ok(id) => Ok(id),
        Err(Error::OwnerLimit(limit)) => Err(limit),
        Err(error) => panic!("{error}"),
    }
}

impl TestQueue {
    /// Creates a test queue with limits for each owner.
    async fn with_limits(limits: OwnerLimits) -> Self {
        let mut queue = Self::new().await;
        queue.queue = queue.queue.limit_owners(limits);
        queue
    }

    async fn push_owned(&self, owner: i64, name: &str, behavior: Behavior) -> String {
        self.queue.enqueue(&task(name, behavior), owned_by(owner)).await.unwrap()
    }

    /// Asserts that Redis has no records of an owner: no counts of jobs, and no list of failed jobs.
    async fn assert_no_owner_records(&self, owner: i64) {
        for key in [format!("{{}}:owner:{owner}"), format!("{{}}:owner:{owner}:failed")] {
            assert!(!self.redis::<bool>(&["EXISTS", &key]).await, "{key} is left over");
        }
    }
}

#[tokio::test]
async fn an_owner_has_a_limit_of_jobs_and_others_have_their_own() {
    let queue = TestQueue::with_limits(limits(3, 1_000_000)).await;
    for _ in 0..3 {
        enqueue(&queue.queue, 1).await.unwrap();
    }
    assert_eq!(enqueue(&queue.queue, 1).await, Err(OwnerLimit::Jobs));
    assert!(enqueue(&queue.queue, 2).await.is_ok());
    queue.push("without an owner", Behavior::Succeed).await;
    let later =
        queue.queue.enqueue_in(&task("x", Behavior::Succeed), owned_by(1), Duration::from_secs(60)).await;
    assert!(matches!(later, Err(Error::OwnerLimit(_))), "scheduled jobs count too");
    let many: Vec<_> = (0..4).map(|_| task("x", Behavior::Succeed)).collect();
    let all = queue.queue.enqueue_all(&many, owned_by(3), EnqueueOptions::default()).await;
    assert!(matches!(all, Err(Error::OwnerLimit(_))), "a batch counts as a whole");
    queue.drain().await;
    assert!(enqueue(&queue.queue, 1).await.is_ok());
    queue.drain().await;
    for owner in [1, 2, 3] {
        queue.assert_no_owner_records(owner).await;
    }
}

#[tokio::test]
async fn an_owner_has_a_limit_of_bytes() {
    let queue = TestQueue::with_limits(limits(1_000, 2_000)).await;
    let mut accepted = 0;
    while enqueue(&queue.queue, 1).await.is_ok() {
        accepted += 1;
    }
    assert_eq!(enqueue(&queue.queue, 1).await, Err(OwnerLimit::Bytes));
    assert!((5..20).contains(&accepted), "{accepted}");
    queue.drain().await;
    queue.assert_no_owner_records(1).await;
}

#[tokio::test]
async fn an_owner_has_a_limit_of_jobs_an_hour() {
    let queue = TestQueue::with_limits(OwnerLimits { per_hour: Some(3), ..limits(100, 1_000_000) }).await;
    for _ in 0..3 {
        enqueue(&queue.queue, 1).await.unwrap();
        queue.drain().await;
    }
    let Err(OwnerLimit::Rate { wait }) = enqueue(&queue.queue, 1).await else { panic!("a fourth job") };
    assert!((1_190..=1_200).contains(&wait.as_secs()), "{wait:?} is a third of an hour");
    assert!(enqueue(&queue.queue, 2).await.is_ok());
    // Simulates that more than a third of an hour has passed, so that one more job is allowed.
    let full: f64 = queue.redis(&["GET", "{}:owner:1:pace"]).await;
    queue.redis::<String>(&["SET", "{}:owner:1:pace", &(full - 1_300_000.0).to_string()]).await;
    assert!(enqueue(&queue.queue, 1).await.is_ok());
    assert!(enqueue(&queue.queue, 1).await.is_err());
}

#[tokio::test]
async fn replicas_share_the_limits_of_an_owner() {
    let queue = TestQueue::new().await;
    let url = servers().await.redis_url();
    let replicas = [0, 1, 2].map(|_| client(&url, &queue.prefix).limit_owners(limits(20, 1_000_000)));
    let attempts = (0..90).map(|n| enqueue(&replicas[n % 3], 1));
    let accepted = join_all(attempts).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(accepted, 20);
    assert_eq!(queue.drain().await.finished, 20);
    queue.assert_no_owner_records(1).await;
}

#[tokio::test]
async fn every_end_of_a_job_frees_its_place_in_the_limit_of_its_owner() {
    let queue = TestQueue::with_limits(limits(1, 1_000_000)).await;
    let place_is_taken = || async { enqueue(&queue.queue, 1).await == Err(OwnerLimit::Jobs) };

    let canceled = queue.push_owned(1, "canceled", Behavior::Succeed).await;
    assert!(place_is_taken().await);
    assert_eq!(queue.queue.cancel(&canceled).await.unwrap(), Cancel::Canceled);
    queue.assert_no_owner_records(1).await;

    let retried = queue.push_owned(1, "retried", Behavior::RetryIn(3_600)).await;
    queue.drain().await;
    assert!(place_is_taken().await, "a job that waits for a retry counts");
    let info = queue.queue.queue("default").await.unwrap().unwrap();
    assert_eq!(queue.queue.purge(&info, State::Scheduled).await.unwrap(), 1);
    queue.assert_no_owner_records(1).await;
    assert!(queue.queue.status(&retried).await.unwrap().is_none());

    let failed = queue.push_owned(1, "failed", Behavior::FailForGood).await;
    queue.drain().await;
    let next = queue.push_owned(1, "a failed job does not count", Behavior::Succeed).await;
    assert!(queue.queue.requeue(&failed).await.unwrap(), "an operator is not limited");
    assert!(place_is_taken().await);
    queue.drain_until(&next, State::Finished).await;
    assert_eq!(queue.status(&failed).await.state, State::Failed);
    let info = queue.queue.queue("default").await.unwrap().unwrap();
    assert_eq!(queue.queue.purge(&info, State::Failed).await.unwrap(), 1);
    queue.assert_no_owner_records(1).await;

    let expired = queue.push_owned(1, "expired", Behavior::FailForGood).await;
    queue.drain().await;
    queue.redis::<u32>(&["ZADD", "{}:failed:default", "1", &expired]).await;
    queue.drain().await;
    queue.assert_no_owner_records(1).await;
}

#[tokio::test]
async fn jobs_of_different_owners_take_turns() {
    let queue = TestQueue::new().await;
    for n in 0..20 {
        queue.push_owned(1, &format!("busy {n}"), Behavior::Succeed).await;
    }
    queue.push_owned(2, "other", Behavior::Succeed).await;
    queue.push("unowned", Behavior::Succeed).await;
    let never = CancellationToken::new();
    let alone = Options { concurrency: 1, ..options(&["default"]) };
    queue.worker(alone).run(never.clone(), never).await.unwrap();
    let ran = queue.log.ran();
    let place = |name: &str| ran.iter().position(|ran| ran == name).unwrap();
    assert!(place("other") < 4 && place("unowned") < 4, "{ran:?}");
}

#[tokio::test]
async fn the_running_jobs_of_an_owner_are_limited_over_all_workers() {
    let queue = TestQueue::new().await;
    for n in 0..6 {
        queue.push_owned(1, &n.to_string(), Behavior::WaitForTest).await;
    }
    let stop = CancellationToken::new();
    let worker = || Options { max_running_per_owner: Some(2), scheduler: false, ..steady(5) };
    let workers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(queue.worker(worker()).run(stop.clone(), CancellationToken::new())))
        .collect();
    for done in 0..6_u32 {
        let running = (6 - done).min(2);
        let runs = || async { (queue.log.running.load(Ordering::SeqCst) == running).then_some(()) };
        eventually("the owner runs as many jobs as the limit allows", runs).await;
        // The waiting jobs of owner 1 do not delay those of owner 2.
        let id = queue.push_owned(2, "other", Behavior::Succeed).await;
        eventually("another owner's job runs", || async {
            (queue.status(&id).await.state == State::Finished).then_some(())
        })
        .await;
        queue.log.open.notify_one();
    }
    eventually("all jobs have finished", || async {
        let info = queue.queue.queue("default").await.unwrap().unwrap();
        (info.totals.finished == 12).then_some(())
    })
    .await;
    assert!(queue.log.max_running.load(Ordering::SeqCst) <= 3, "two of one owner and one of the other");
    stop.cancel();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
    queue.assert_no_owner_records(1).await;
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:held"]).await);
}

#[tokio::test]
async fn jobs_that_wait_for_their_turn_do_not_keep_workers_busy() {
    let queue = TestQueue::new().await;
    for n in 0..3 {
        queue.push_owned(1, &n.to_string(), Behavior::WaitForTest).await;
    }
    let stop = CancellationToken::new();
    let worker = Options { max_running_per_owner: Some(1), scheduler: false, ..steady(5) };
    let work = tokio::spawn(queue.worker(worker).run(stop.clone(), CancellationToken::new()));
    eventually("one runs", || async { (queue.log.running.load(Ordering::SeqCst) == 1).then_some(()) }).await;
    eventually("the queue is noted as held back", || async {
        queue.redis::<bool>(&["EXISTS", "{}:held"]).await.then_some(())
    })
    .await;
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:wake:default"]).await, "the worker would be woken in vain");
    for _ in 0..3 {
        queue.log.open.notify_one();
    }
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn only_the_latest_failed_jobs_of_an_owner_are_kept() {
    let queue = TestQueue::new().await;
    let first = queue.push_owned(1, "first", Behavior::FailForGood).await;
    queue.drain().await;
    let others = queue.push_failed("not owned").await;
    let jobs: Vec<_> = (0..120).map(|n| task(&n.to_string(), Behavior::FailForGood)).collect();
    let ids = queue.queue.enqueue_all(&jobs, owned_by(1), EnqueueOptions::default()).await.unwrap();
    queue.drain().await;
    assert!(queue.queue.status(&first).await.unwrap().is_none());
    assert_eq!(queue.status(ids.last().unwrap()).await.state, State::Failed);
    assert_eq!(queue.status(&others).await.state, State::Failed);
    assert_eq!(queue.queue.queue("default").await.unwrap().unwrap().failed, 101);
    assert_eq!(queue.queue.purge_owner(1).await.unwrap(), PurgedOwner { deleted: 100, stopping: 0 });
    queue.assert_no_owner_records(1).await;
}

#[tokio::test]
async fn a_purge_of_an_owner_deletes_jobs_that_fail_because_of_it() {
    let queue = TestQueue::new().await;
    let enqueue_after = async |id: &String| {
        let options = EnqueueOptions { after: vec![id.clone()], ..EnqueueOptions::default() };
        queue.queue.enqueue_with(&task("after", Behavior::Succeed), owned_by(1), options).await.unwrap()
    };
    let first = queue.push_owned(1, "first", Behavior::Succeed).await;
    let second = enqueue_after(&enqueue_after(&first).await).await;
    // These are more dependents than one call of the script handles.
    for _ in 0..120 {
        enqueue_after(&second).await;
    }
    assert_eq!(queue.queue.purge_owner(1).await.unwrap(), PurgedOwner { deleted: 123, stopping: 0 });
    assert_eq!(queue.queue.queue("default").await.unwrap().unwrap().failed, 0);
    queue.assert_no_owner_records(1).await;
}

#[tokio::test]
async fn a_purge_of_an_owner_leaves_the_jobs_of_others() {
    let queue = TestQueue::new().await;
    let running = queue.push_owned(1, "running", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let one = Options { scheduler: false, ..steady(1) };
    let work = tokio::spawn(queue.worker(one).run(stop.clone(), CancellationToken::new()));
    eventually("it runs", || async { (queue.log.running.load(Ordering::SeqCst) == 1).then_some(()) }).await;
    let hour = Duration::from_secs(3_600);
    let many: Vec<_> = (0..2_500).map(|n| task(&n.to_string(), Behavior::Succeed)).collect();
    let waiting = queue.queue.enqueue_all(&many, owned_by(1), EnqueueOptions::default()).await.unwrap();
    let scheduled =
        queue.queue.enqueue_in(&task("later", Behavior::Succeed), owned_by(1), hour).await.unwrap();
    let options = EnqueueOptions { after: vec![running.clone()], ..EnqueueOptions::default() };
    let deferred =
        queue.queue.enqueue_with(&task("after", Behavior::Succeed), owned_by(1), options).await.unwrap();
    let other = queue.push_owned(2, "other", Behavior::Succeed).await;
    let plain = queue.push("plain", Behavior::Succeed).await;

    assert_eq!(queue.queue.purge_owner(1).await.unwrap(), PurgedOwner { deleted: 2_502, stopping: 1 });
    for id in waiting.iter().take(3).chain([&scheduled, &deferred]) {
        assert!(queue.queue.status(id).await.unwrap().is_none(), "{id} is left");
    }
    eventually("the running job is canceled", || async {
        (queue.status(&running).await.state == State::Canceled).then_some(())
    })
    .await;
    for id in [&other, &plain] {
        eventually("the others run", || async {
            (queue.status(id).await.state == State::Finished).then_some(())
        })
        .await;
    }
    assert_eq!(queue.queue.purge_owner(1).await.unwrap(), PurgedOwner::default(), "again");
    let totals = queue.queue.queue("default").await.unwrap().unwrap().totals;
    assert_eq!((totals.enqueued, totals.finished, totals.canceled), (2_505, 2, 2_503));
    stop.cancel();
    work.await.unwrap().unwrap();
    queue.assert_no_owner_records(1).await;
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn wrong_job_counts_of_an_owner_are_corrected() {
    let queue = TestQueue::with_limits(limits(2, 1_000_000)).await;
    // Simulates that a worker of an earlier release has ended jobs without updating the counts of their owner.
    for id in ["gone", "gone too"] {
        queue.redis::<u32>(&["HSET", "{}:owner:1", id, "100"]).await;
    }
    queue.redis::<u32>(&["HSET", "{}:owner:1", "jobs", "2", "bytes", "200", "running", "2"]).await;
    enqueue(&queue.queue, 1).await.unwrap();
    let never = CancellationToken::new();
    let one = Options { max_running_per_owner: Some(1), ..options(&["default"]) };
    assert_eq!(queue.worker(one).run(never.clone(), never).await.unwrap().finished, 1);
    queue.assert_no_owner_records(1).await;
}

#[tokio::test]
async fn an_owner_cannot_enqueue_internal_tasks_large_payloads_or_reserved_groups() {
    let queue = TestQueue::new().await;
    let error = queue.queue.enqueue(&UrgentTask { name: "x".into() }, owned_by(1)).await.unwrap_err();
    assert!(matches!(error, Error::Internal(_)), "{error}");
    let large = task(&"x".repeat(1_001), Behavior::Succeed);
    let error = queue.queue.enqueue(&large, owned_by(1)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1_000 }), "{error}");
    let group = || EnqueueOptions { group: Some("owner:2".into()), ..EnqueueOptions::default() };
    for origin in [owned_by(1), Origin::default()] {
        let error =
            queue.queue.enqueue_with(&task("x", Behavior::Succeed), origin, group()).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid { field: "group", .. }), "{error}");
    }
    assert_eq!(queue.drain().await.finished, 0);
}
