//! Jobs that are odd: unknown, unreadable, too large, too late.

use saas::queue::{Cancel, JobType, Origin, State, Worker};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    queue::{Behaviour, Forgetful, Log, Task, TaskOfTomorrow, TestQueue, Unforgetting},
};

#[tokio::test]
async fn a_task_that_is_not_known_yet_waits_for_a_worker_that_knows_it() {
    let queue = TestQueue::new().await;
    let id = queue.queue.enqueue(&TaskOfTomorrow, Origin::default()).await.unwrap();
    queue.drain().await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.attempts), (State::Scheduled, 0));
    const TOMORROW: &[JobType<Log>] = &[JobType::of::<TaskOfTomorrow>()];
    queue.redis::<u32>(&["ZADD", "{}:scheduled:default", "1", &id]).await;
    let never = CancellationToken::new();
    let worker = Worker::new(&queue.queue, TOMORROW, queue.log.clone(), options(&["default"])).unwrap();
    assert_eq!(worker.run(never.clone(), never).await.unwrap().finished, 1);
}

#[tokio::test]
async fn a_task_that_nobody_knows_fails_after_a_while() {
    let queue = TestQueue::new().await;
    let id = queue.queue.enqueue(&TaskOfTomorrow, Origin::default()).await.unwrap();
    // Looked at every 15 s for an hour.
    queue.redis::<u32>(&["HSET", "{}:unknown", &id, "239"]).await;
    queue.drain().await;
    assert_eq!(queue.status(&id).await.state, State::Scheduled);
    queue.redis::<u32>(&["ZADD", "{}:scheduled:default", "1", &id]).await;
    queue.drain().await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.error.as_deref()), (State::Failed, Some("No worker knows this task")));
}

#[tokio::test]
async fn what_cannot_be_read_fails_and_harms_nobody() {
    let queue = TestQueue::new().await;
    let (bad_arguments, bad_envelope) =
        (queue.push("a", Behaviour::Succeed).await, queue.push("b", Behaviour::Succeed).await);
    let fine = queue.push("c", Behaviour::Succeed).await;
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &bad_arguments]).await;
    let spoilt = envelope.replace("\"behaviour\"", "\"behavior\"");
    queue.redis::<u32>(&["HSET", "{}:jobs", &bad_arguments, &spoilt]).await;
    queue.redis_bytes(&bad_envelope, b"\xff{\"queue\"").await;
    let summary = queue.drain().await;
    assert_eq!((summary.finished, summary.failed), (1, 2));
    assert_eq!(queue.status(&fine).await.state, State::Finished);
    let status = queue.status(&bad_arguments).await;
    assert_eq!(status.error.as_deref(), Some("The job's arguments cannot be read"));
    assert_eq!(queue.redis::<u32>(&["ZCARD", "{}:failed:default"]).await, 2);
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_refused() {
    let queue = TestQueue::new().await;
    let task = Task { name: "x".repeat(1024 * 1024), behaviour: Behaviour::Succeed };
    let error = queue.queue.enqueue(&task, Origin::default()).await.unwrap_err();
    assert!(error.to_string().contains("1048576 bytes"), "{error}");
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:jobs"]).await);
}

#[tokio::test]
async fn a_result_that_is_too_large_is_refused() {
    let queue = TestQueue::new().await;
    let id = queue.push(&"x".repeat(700_000), Behaviour::Double).await;
    let other = queue.push("two", Behaviour::Succeed).await;
    queue.drain().await;
    assert_eq!(queue.status(&other).await.state, State::Finished);
    let failed = queue.status(&id).await;
    assert_eq!(
        (failed.state, failed.error.as_deref()),
        (State::Failed, Some("The job's result is too large"))
    );
}

#[tokio::test]
async fn no_life_of_a_result_harms_the_others_of_its_batch() {
    let queue = TestQueue::new().await;
    let mut ids = vec![queue.push("one", Behaviour::Succeed).await];
    ids.push(queue.queue.enqueue(&Forgetful, Origin::default()).await.unwrap());
    ids.push(queue.queue.enqueue(&Unforgetting, Origin::default()).await.unwrap());
    assert_eq!(queue.drain().await.finished, 3);
    for id in &ids {
        assert_eq!(queue.status(id).await.state, State::Finished);
    }
    queue.is_clean().await;
}

#[tokio::test]
async fn a_push_wakes_whoever_waits() {
    let queue = TestQueue::new().await;
    queue.push("one", Behaviour::Succeed).await;
    assert_eq!(queue.redis::<u32>(&["ZCARD", "{}:wake:default"]).await, 1);
}

#[tokio::test]
async fn a_push_that_arrives_when_the_job_has_ended_makes_no_second_one() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &id]).await;
    queue.drain().await;
    let known: Vec<String> = {
        let plain = ["default", "1", "0", "0", "", "", "0", "", "0", "good"];
        queue.script("push", &[&plain[..], &[&id, &envelope]].concat()).await
    };
    assert_eq!(known, [id]);
    assert_eq!(queue.drain().await.finished, 0);
}

#[tokio::test]
async fn a_cancellation_is_not_forgotten_when_the_job_comes_back() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behaviour::Succeed).await;
    // Asked to stop, and given back before it heard of it.
    queue.redis::<u32>(&["SADD", "{}:cancel", &id]).await;
    assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Canceled);
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:cancel"]).await);
}

#[tokio::test]
async fn of_the_failed_only_the_latest_are_kept() {
    let queue = TestQueue::new().await;
    let old = queue.push("old", Behaviour::FailForGood).await;
    let new = queue.push("new", Behaviour::FailForGood).await;
    queue.drain().await;
    queue.redis::<u32>(&["ZADD", "{}:failed:default", "1", &old]).await;
    queue.drain().await;
    assert!(queue.queue.status(&old).await.unwrap().is_none());
    assert_eq!(queue.status(&new).await.state, State::Failed);
    assert_eq!(queue.redis::<u32>(&["HLEN", "{}:jobs"]).await, 1);
}

#[tokio::test]
async fn the_owner_and_the_request_travel_with_the_job() {
    let queue = TestQueue::new().await;
    let task = Task { name: "one".into(), behaviour: Behaviour::Succeed };
    let origin = Origin { owner: Some(7), request_id: Some("request-1".into()), traceparent: None };
    let id = queue.queue.enqueue(&task, origin).await.unwrap();
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &id]).await;
    assert!(envelope.contains("\"req\":\"request-1\""), "{envelope}");
    assert_eq!(queue.status(&id).await.owner, Some(7));
    queue.drain().await;
    assert_eq!(queue.status(&id).await.owner, Some(7));
}
