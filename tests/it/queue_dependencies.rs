//! Jobs that wait for other jobs.

use std::time::Duration;

use saas::queue::{Cancel, EnqueueOptions, Error, OnDuplicate, Origin, State};
use tokio_util::sync::CancellationToken;

use crate::{
    queue_enqueue::{task, unique},
    support::{
        eventually,
        queue::{Behavior, TestQueue, steady},
    },
};

impl TestQueue {
    /// Adds a job that waits for other jobs. Returns its id.
    async fn push_after(&self, name: &str, after: &[&String]) -> String {
        let after = after.iter().map(|id| (*id).clone()).collect();
        self.enqueue(name, EnqueueOptions { after, ..EnqueueOptions::default() }).await
    }
}

#[tokio::test]
async fn a_job_runs_after_its_dependencies() {
    let queue = TestQueue::new().await;
    let (one, two) = (queue.push("one", Behavior::Succeed).await, queue.push("two", Behavior::Fail(1)).await);
    let last = queue.push_after("last", &[&one, &two]).await;
    let after_that = queue.push_after("after that", &[&last]).await;
    assert_eq!(queue.status(&last).await.state, State::Deferred);
    assert_eq!(queue.queue.list("default", State::Deferred, 0, 10).await.unwrap().len(), 2);
    queue.drain().await;
    assert_eq!(
        queue.status(&last).await.state,
        State::Deferred,
        "one of the dependencies is still to be retried"
    );
    queue.drain_until(&after_that, State::Finished).await;
    assert_eq!(queue.log.ran(), ["one", "two", "two", "last", "after that"]);
    // A dependency that has already finished does not delay a job.
    let late = queue.push_after("late", &[&one]).await;
    assert_eq!(queue.status(&late).await.state, State::Queued);
    queue.drain().await;
    queue.assert_no_running_records().await;
    for key in ["waits", "then", "told"] {
        assert!(!queue.redis::<bool>(&["EXISTS", &format!("{{}}:{key}")]).await, "{key} is not empty");
    }
}

#[tokio::test]
async fn a_job_fails_with_its_dependencies_by_default() {
    let queue = TestQueue::new().await;
    let (bad, gone) =
        (queue.push("bad", Behavior::FailForGood).await, queue.push("gone", Behavior::Succeed).await);
    let child = queue.push_after("child", &[&bad]).await;
    let grandchild = queue.push_after("grandchild", &[&child]).await;
    let of_gone = queue.push_after("of gone", &[&gone]).await;
    let anyway = EnqueueOptions {
        after: vec![bad.clone(), gone.clone()],
        after_failures: true,
        ..EnqueueOptions::default()
    };
    let anyway = queue.enqueue("anyway", anyway).await;
    assert_eq!(queue.queue.cancel(&gone).await.unwrap(), Cancel::Canceled);
    queue.drain().await;
    for id in [&child, &grandchild, &of_gone] {
        let status = queue.status(id).await;
        assert_eq!(status.state, State::Failed);
        assert_eq!(status.error.as_deref(), Some("A job that this one waited for did not finish"));
    }
    queue.drain_until(&anyway, State::Finished).await;
    assert_eq!(queue.log.ran(), ["bad", "anyway"]);
    // A requeued job no longer waits for its dependencies.
    assert!(queue.queue.requeue(&child).await.unwrap());
    queue.drain_until(&child, State::Finished).await;
    let options = EnqueueOptions { after: vec!["0".repeat(32)], ..EnqueueOptions::default() };
    let error = queue.queue.enqueue_with(&task("orphan"), Origin::default(), options).await.unwrap_err();
    assert!(matches!(&error, Error::UnknownJob(_)) && error.to_string().contains("no job"), "{error}");
}

#[tokio::test]
async fn a_requeued_dependency_counts_once() {
    let queue = TestQueue::new().await;
    let bad = queue.push("bad", Behavior::FailForGood).await;
    queue.drain().await;
    let day = Duration::from_secs(86_400);
    let slow = queue.queue.enqueue_in(&task("slow"), Origin::default(), day).await.unwrap();
    let after = vec![bad.clone(), slow.clone()];
    let both = queue
        .enqueue("both", EnqueueOptions { after, after_failures: true, ..EnqueueOptions::default() })
        .await;
    assert!(queue.queue.requeue(&bad).await.unwrap());
    queue.drain().await;
    assert_eq!(queue.status(&both).await.state, State::Deferred, "the slow dependency has not started");
    assert_eq!(queue.queue.cancel(&slow).await.unwrap(), Cancel::Canceled);
    queue.drain_until(&both, State::Finished).await;
}

#[tokio::test]
async fn a_job_that_depends_on_the_job_it_replaces_fails() {
    let queue = TestQueue::new().await;
    let old = queue.enqueue("old", unique("key", OnDuplicate::Replace)).await;
    let new = queue
        .enqueue("new", EnqueueOptions { after: vec![old.clone()], ..unique("key", OnDuplicate::Replace) })
        .await;
    assert_eq!(queue.status(&old).await.state, State::Canceled);
    assert_eq!(queue.status(&new).await.state, State::Failed, "its dependency was canceled");
}

#[tokio::test]
async fn a_thousand_dependents_of_one_job_all_run() {
    let queue = TestQueue::new().await;
    let first = queue.push("first", Behavior::Succeed).await;
    for _ in 0..1_000 {
        queue.push_after("child", &[&first]).await;
    }
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(50)).run(stop.clone(), CancellationToken::new()));
    eventually("all jobs have run", || async { (queue.log.ran().len() == 1_001).then_some(()) }).await;
    stop.cancel();
    work.await.unwrap().unwrap();
    queue.assert_no_running_records().await;
}
