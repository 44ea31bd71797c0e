//! Jobs with a scope. The engine stores the scope, scopes take turns, and each job still counts for its owner.

use saas::queue::{
    Cancel, EnqueueOptions, Error, Options, Origin, OwnerLimit, OwnerLimits, PurgedOwner, State,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    eventually,
    queue::{Behavior, Task, TestQueue, steady},
};

fn task(name: &str, behavior: Behavior) -> Task {
    Task { name: name.into(), behavior }
}

fn scoped(scope: &str, owner: i64) -> Origin {
    Origin { owner: Some(owner), scope: Some(scope.into()), ..Origin::default() }
}

impl TestQueue {
    async fn push_scoped(&self, scope: &str, owner: i64, name: &str, behavior: Behavior) -> String {
        self.queue.enqueue(&task(name, behavior), scoped(scope, owner)).await.unwrap()
    }

    /// Runs all due jobs in one slot. Returns the names of all jobs that have run so far, in order.
    async fn run_one_by_one(&self, max_running_per_owner: Option<u32>) -> Vec<String> {
        let never = CancellationToken::new();
        let alone = Options { concurrency: 1, max_running_per_owner, ..options(&["default"]) };
        self.worker(alone).run(never.clone(), never).await.unwrap();
        self.log.ran()
    }

    async fn origin_of(&self, id: &str) -> (Option<i64>, Option<String>) {
        let job = self.status(id).await;
        (job.owner, job.scope)
    }

    /// Returns the origins that were added to `Log::asked` since the last call of this function.
    fn take_asked(&self) -> Vec<Origin> {
        std::mem::take(&mut *self.log.asked.lock().unwrap())
    }
}

#[tokio::test]
async fn smoke_a_job_keeps_its_scope_until_its_record_expires() {
    let (old, queue) = (TestQueue::new().await, TestQueue::new().await);
    let origin = scoped("tenant:1", 7);
    let expected = (Some(7), Some("tenant:1".to_owned()));
    let id = old.queue.enqueue(&task("one", Behavior::FailForGood), origin.clone()).await.unwrap();
    let envelope: String = old.redis(&["HGET", "{}:jobs", &id]).await;
    assert!(envelope.contains(r#""owner":7,"scope":"tenant:1""#), "{envelope}");
    assert_eq!(old.status(&id).await.group.as_deref(), Some("scope:tenant:1"));
    old.drain_until(&id, State::Failed).await;
    assert_eq!(old.take_asked(), std::slice::from_ref(&origin));
    assert_eq!(old.origin_of(&id).await, expected, "failed");
    assert!(old.queue.requeue(&id).await.unwrap());
    queue.queue.move_from(&old.queue, |_| ()).await.unwrap();
    assert_eq!(queue.origin_of(&id).await, expected, "moved");
    assert_eq!(queue.redis::<u32>(&["HGET", "{}:owner:7", "jobs"]).await, 1, "the owner has the job there");
    queue.drain_until(&id, State::Failed).await;
    assert_eq!(queue.take_asked(), std::slice::from_ref(&origin));

    let retried = queue.push_scoped("tenant:1", 7, "two", Behavior::Fail(1)).await;
    queue.drain_until(&retried, State::Finished).await;
    assert_eq!(queue.take_asked(), [origin.clone(), origin]);
    let waiting = queue.push_scoped("tenant:1", 7, "three", Behavior::Succeed).await;
    assert_eq!(queue.queue.cancel(&waiting).await.unwrap(), Cancel::Canceled);
    for id in [&retried, &waiting] {
        assert_eq!(queue.origin_of(id).await, expected, "ended");
    }
    for bucket in queue.redis::<Vec<String>>(&["ZRANGE", "{}:done", "0", "-1"]).await {
        queue.redis::<u32>(&["DEL", &bucket]).await;
    }
    for id in [&retried, &waiting] {
        assert_eq!(queue.origin_of(id).await, expected, "only the state is left");
    }
}

#[tokio::test]
async fn envelopes_and_records_without_a_scope_or_with_unknown_fields_are_read() {
    let queue = TestQueue::new().await;
    for (fields, origin) in [
        ("", (None, None)),
        (r#""owner":7,"#, (Some(7), None)),
        (r#""scope":"tenant:1","#, (None, Some("tenant:1".to_owned()))),
        (r#""owner":7,"scope":"tenant:1","of_a_later_release":{},"#, (Some(7), Some("tenant:1".to_owned()))),
    ] {
        let id = queue.push("x", Behavior::Succeed).await;
        let envelope = format!(
            r#"{{"v":1,"task":"test_task","queue":"default",{fields}"ttl":60000,"at":1,"payload":{{"name":"x","behavior":"Succeed"}}}}"#
        );
        queue.overwrite_envelope(&id, envelope.as_bytes()).await;
        assert_eq!(queue.origin_of(&id).await, origin, "{fields}");
        queue.drain_until(&id, State::Finished).await;
        assert_eq!(queue.origin_of(&id).await, origin, "{fields}");
    }
    // Overwrites the record of an ended job with the format of an earlier release, which had no scopes.
    let id = queue.push("x", Behavior::Succeed).await;
    queue.drain().await;
    let bucket = queue.redis::<Vec<String>>(&["ZRANGE", "{}:ended", "0", "0"]).await.remove(0);
    queue.redis::<u32>(&["HSET", &bucket, &id[12..], "f7"]).await;
    assert_eq!(queue.origin_of(&id).await, (Some(7), None));
}

#[tokio::test]
async fn a_job_that_may_not_run_is_canceled_for_the_given_reason() {
    let queue = TestQueue::new().await;
    *queue.log.refusal.lock().unwrap() = Some("The tenant is suspended");
    let scope_alone = Origin { scope: Some("tenant:1".into()), ..Origin::default() };
    let refused =
        queue.queue.enqueue(&task("refused", Behavior::Succeed), scope_alone.clone()).await.unwrap();
    queue.push("a job of the product", Behavior::Succeed).await;
    queue.drain().await;
    let job = queue.status(&refused).await;
    assert_eq!((job.state, job.error.as_deref()), (State::Canceled, Some("The tenant is suspended")));
    assert_eq!(queue.log.ran(), ["a job of the product"]);
    assert_eq!(queue.take_asked(), [scope_alone]);
}

#[tokio::test]
async fn scopes_take_turns_with_any_number_of_owners() {
    let queue = TestQueue::new().await;
    for n in 0..20 {
        queue.push_scoped("tenant:1", n % 4, &format!("busy {n}"), Behavior::Succeed).await;
    }
    for n in 0..3 {
        queue.push_scoped("tenant:2", 9, &format!("other {n}"), Behavior::Succeed).await;
    }
    let ran = queue.run_one_by_one(Some(5)).await;
    let turns: Vec<_> = ran.iter().map(|name| name.split(' ').next().unwrap()).collect();
    assert_eq!(turns[..6], ["busy", "other", "busy", "other", "busy", "other"], "{ran:?}");
    assert_eq!(ran.len(), 23);
}

#[tokio::test]
async fn an_owner_at_the_limit_delays_no_other_owner_of_any_scope() {
    let queue = TestQueue::new().await;
    let mut held = Vec::new();
    for n in 0..150 {
        held.push(queue.push_scoped("tenant:1", 1, &format!("held {n}"), Behavior::WaitForTest).await);
    }
    held.push(queue.push_scoped("tenant:2", 1, "held elsewhere", Behavior::WaitForTest).await);
    let mut others = Vec::new();
    for (scope, owner) in [("tenant:1", 2), ("tenant:2", 3), ("tenant:1", 2)] {
        others.push(queue.push_scoped(scope, owner, "other", Behavior::Succeed).await);
    }
    let stop = CancellationToken::new();
    let worker = Options { max_running_per_owner: Some(1), scheduler: false, ..steady(3) };
    let work = tokio::spawn(queue.worker(worker).run(stop.clone(), CancellationToken::new()));
    for id in &others {
        eventually("the job of another owner has finished", || async {
            (queue.status(id).await.state == State::Finished).then_some(())
        })
        .await;
    }
    assert_eq!(queue.redis::<u32>(&["HGET", "{}:owner:1", "running"]).await, 1);
    let info = queue.queue.queue("default").await.unwrap().unwrap();
    assert_eq!((info.started, info.queued), (1, 150), "jobs that were set aside are counted");
    // The end of each job lets the next one run. A canceled job is removed from any list it waits in.
    assert_eq!(queue.queue.cancel(&held[149]).await.unwrap(), Cancel::Canceled);
    for done in 1..=3_u64 {
        queue.log.open.notify_one();
        eventually("the next job runs", || async {
            let info = queue.queue.queue("default").await.unwrap().unwrap();
            (info.totals.finished == 3 + done && info.started == 1).then_some(())
        })
        .await;
    }
    assert_eq!(queue.queue.purge_owner(1).await.unwrap(), PurgedOwner { deleted: 146, stopping: 1 });
    eventually("no job is left", || async {
        let info = queue.queue.queue("default").await.unwrap().unwrap();
        (info.queued == 0 && info.started == 0).then_some(())
    })
    .await;
    stop.cancel();
    work.await.unwrap().unwrap();
    for owner in 1..=3 {
        assert!(!queue.redis::<bool>(&["EXISTS", &format!("{{}}:owner:{owner}")]).await);
    }
}

#[tokio::test]
async fn jobs_of_all_scopes_count_for_their_owner() {
    let mut queue = TestQueue::new().await;
    let limits = OwnerLimits { jobs: 3, bytes: 100_000, per_hour: None };
    queue.queue = queue.queue.limit_owners(limits);
    let push = async |origin: Origin| queue.queue.enqueue(&task("x", Behavior::Succeed), origin).await;
    for origin in
        [scoped("tenant:1", 1), scoped("tenant:2", 1), Origin { owner: Some(1), ..Origin::default() }]
    {
        push(origin).await.unwrap();
    }
    let error = push(scoped("tenant:3", 1)).await.unwrap_err();
    assert!(matches!(error, Error::OwnerLimit(OwnerLimit::Jobs)), "{error}");
    push(scoped("tenant:1", 2)).await.unwrap();
    assert_eq!(queue.queue.purge_owner(1).await.unwrap(), PurgedOwner { deleted: 3, stopping: 0 });
    assert_eq!(queue.drain().await.finished, 1);
    push(scoped("tenant:3", 1)).await.unwrap();
}

#[tokio::test]
async fn an_invalid_scope_and_the_group_of_a_scope_are_refused() {
    let queue = TestQueue::new().await;
    let invalid = async |origin: Origin, group: Option<&str>, field: &str| {
        let options = EnqueueOptions { group: group.map(str::to_owned), ..EnqueueOptions::default() };
        let error =
            queue.queue.enqueue_with(&task("x", Behavior::Succeed), origin, options).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid { field: named, .. } if *named == field), "{error}");
    };
    let long = "x".repeat(101);
    for scope in ["", "a b", "a|owner:7", "é", long.as_str()] {
        invalid(scoped(scope, 7), None, "scope").await;
    }
    invalid(Origin::default(), Some("scope:tenant:1"), "group").await;
    invalid(scoped("tenant:1", 7), Some("another"), "group").await;
    assert_eq!(queue.drain().await.finished, 0);
}

#[tokio::test]
async fn many_statuses_are_read_without_payloads_and_results() {
    let queue = TestQueue::new().await;
    let name = "a name } ,\"n\":1, ".repeat(20);
    let ended = queue.push(&name, Behavior::Double).await;
    queue.drain().await;
    let waiting = queue.push(&name, Behavior::Succeed).await;
    let mut ids = vec![ended.clone(), "0".repeat(32), waiting.clone()];
    ids.extend((0..250).map(|n| format!("{n:032}")));
    ids.push(ended.clone());
    let jobs = queue.queue.statuses(&ids).await.unwrap();
    let seen: Vec<_> = jobs.iter().map(|job| (job.id.as_str(), job.state)).collect();
    assert_eq!(seen, [(&*ended, State::Finished), (&*waiting, State::Queued), (&*ended, State::Finished)]);
    assert!(jobs.iter().all(|job| job.payload.as_ref().is_none_or(serde_json::Value::is_null)));
    assert_eq!((&jobs[0].result, &*jobs[0].task), (&None, "test_task"));
    assert_eq!(queue.status(&ended).await.result, Some(json!(name.repeat(2))));
    assert!(jobs[0].ended_at.is_some());
}
