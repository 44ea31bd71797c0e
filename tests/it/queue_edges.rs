//! Edge cases: unknown tasks, malformed and oversized jobs, repeated and late calls.

use saas::queue::{Cancel, Error, JobType, Origin, State, Worker};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::options,
    queue::{Behavior, Log, MaxResultTtl, Task, TaskOfTomorrow, TestQueue, ZeroResultTtl},
};

#[tokio::test]
async fn a_job_of_an_unknown_task_waits_for_a_worker_that_knows_it() {
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
async fn a_job_of_an_unknown_task_fails_after_an_hour() {
    let queue = TestQueue::new().await;
    let id = queue.queue.enqueue(&TaskOfTomorrow, Origin::default()).await.unwrap();
    // A worker fetches the job every 15 s. The 241st fetch, after an hour, makes the job fail. This is the state after 239
    // fetches.
    queue.redis::<u32>(&["HSET", "{}:unknown", &id, "239"]).await;
    queue.drain().await;
    assert_eq!(queue.status(&id).await.state, State::Scheduled);
    queue.redis::<u32>(&["ZADD", "{}:scheduled:default", "1", &id]).await;
    queue.drain().await;
    let status = queue.status(&id).await;
    assert_eq!((status.state, status.error.as_deref()), (State::Failed, Some("No worker knows this task")));
}

#[tokio::test]
async fn malformed_jobs_fail_without_affecting_others() {
    let queue = TestQueue::new().await;
    let (bad_arguments, bad_envelope) =
        (queue.push("a", Behavior::Succeed).await, queue.push("b", Behavior::Succeed).await);
    let fine = queue.push("c", Behavior::Succeed).await;
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &bad_arguments]).await;
    let spoilt = envelope.replace("\"behavior\"", "\"conduct\"");
    queue.redis::<u32>(&["HSET", "{}:jobs", &bad_arguments, &spoilt]).await;
    queue.overwrite_envelope(&bad_envelope, b"\xff{\"queue\"").await;
    let summary = queue.drain().await;
    assert_eq!((summary.finished, summary.failed), (1, 2));
    assert_eq!(queue.status(&fine).await.state, State::Finished);
    let status = queue.status(&bad_arguments).await;
    assert_eq!(status.error.as_deref(), Some("The job's arguments cannot be read"));
    assert_eq!(queue.redis::<u32>(&["ZCARD", "{}:failed:default"]).await, 2);
}

#[tokio::test]
async fn concurrent_reads_of_statuses_return_each_job_by_itself() {
    let queue = TestQueue::new().await;
    let mut finished = Vec::new();
    for n in 10..40 {
        finished.push(queue.push(&n.to_string(), Behavior::Double).await);
    }
    queue.drain().await;
    let buckets: Vec<String> = queue.redis(&["ZRANGE", "{}:done", "0", "-1"]).await;
    // The field of an outcome is the id of the job without the time at its beginning.
    queue.redis::<u32>(&["HSET", &buckets[0], &finished[0][12..], "{\"a\":"]).await;
    // The result of this job is too large for a shared call, so it is read alone.
    let large = "x".repeat(20_000);
    let with_large = queue.push(&large, Behavior::Double).await;
    queue.drain().await;
    let waiting = queue.push("waiting", Behavior::Succeed).await;
    let unknown = "0".repeat(32);
    let ids: Vec<_> =
        finished.iter().chain([&with_large, &waiting, &unknown]).cycle().take(3 * finished.len()).collect();
    let reads = ids.iter().map(|id| queue.queue.status_without_payload(id));
    for (id, status) in ids.iter().zip(futures_util::future::join_all(reads).await) {
        if **id == finished[0] {
            assert!(matches!(status, Err(Error::Internal(_))), "{status:?}");
            continue;
        }
        let status = status.unwrap().map(|job| (job.id, job.state, job.result));
        let state = if **id == waiting { State::Queued } else { State::Finished };
        let name = finished.iter().position(|job| job == *id).map(|index| (index + 10).to_string());
        let name = name.or_else(|| (**id == with_large).then(|| large.clone()));
        let result = name.map(|name| json!(name.repeat(2)));
        let expected = (**id != unknown).then(|| (id.to_string(), state, result));
        assert_eq!(status, expected);
    }
}

#[tokio::test]
async fn a_payload_that_is_too_large_is_rejected() {
    let queue = TestQueue::new().await;
    let task = Task { name: "x".repeat(1024 * 1024), behavior: Behavior::Succeed };
    let error = queue.queue.enqueue(&task, Origin::default()).await.unwrap_err();
    assert!(error.to_string().contains("1048576 bytes"), "{error}");
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:jobs"]).await);
}

#[tokio::test]
async fn a_result_that_is_too_large_is_rejected() {
    let queue = TestQueue::new().await;
    let id = queue.push(&"x".repeat(700_000), Behavior::Double).await;
    let other = queue.push("two", Behavior::Succeed).await;
    queue.drain().await;
    assert_eq!(queue.status(&other).await.state, State::Finished);
    let failed = queue.status(&id).await;
    assert_eq!(
        (failed.state, failed.error.as_deref()),
        (State::Failed, Some("The job's result is too large"))
    );
}

#[tokio::test]
async fn extreme_result_ttls_do_not_affect_other_jobs_of_a_batch() {
    let queue = TestQueue::new().await;
    let mut ids = vec![queue.push("one", Behavior::Succeed).await];
    ids.push(queue.queue.enqueue(&ZeroResultTtl, Origin::default()).await.unwrap());
    ids.push(queue.queue.enqueue(&MaxResultTtl, Origin::default()).await.unwrap());
    assert_eq!(queue.drain().await.finished, 3);
    for id in &ids {
        assert_eq!(queue.status(id).await.state, State::Finished);
    }
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_push_leaves_a_wake_up_for_an_idle_worker() {
    let queue = TestQueue::new().await;
    queue.push("one", Behavior::Succeed).await;
    assert_eq!(queue.redis::<u32>(&["ZCARD", "{}:wake:default"]).await, 1);
}

#[tokio::test]
async fn a_push_repeated_after_the_job_has_ended_is_ignored() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &id]).await;
    queue.drain().await;
    let known: Vec<String> = {
        let plain = ["default", "1", "0", "0", "", "", "0", "", "0", "good", "", "", "", ""];
        queue.script("push", &[&plain[..], &[&id, &envelope]].concat()).await
    };
    assert_eq!(known, [id]);
    assert_eq!(queue.drain().await.finished, 0);
}

#[tokio::test]
async fn record_buckets_that_are_not_listed_are_listed_again_and_expire() {
    let queue = TestQueue::new().await;
    queue.push("one", Behavior::Double).await;
    queue.drain().await;
    for kind in ["{}:ended", "{}:done"] {
        for bucket in queue.redis::<Vec<String>>(&["ZRANGE", kind, "0", "-1"]).await {
            queue.redis::<u32>(&["PERSIST", &bucket]).await;
        }
        queue.redis::<u32>(&["DEL", kind]).await;
    }
    let id = queue.push("two", Behavior::Double).await;
    queue.drain().await;
    assert_eq!(queue.status(&id).await.result, Some(json!("twotwo")));
    for kind in ["{}:ended", "{}:done"] {
        let buckets: Vec<String> = queue.redis(&["ZRANGE", kind, "0", "-1"]).await;
        assert_eq!(buckets.len(), 1, "{kind}");
        assert!(queue.redis::<i64>(&["TTL", &buckets[0]]).await > 0, "{kind} expires");
    }
}

#[tokio::test]
async fn a_job_that_is_released_before_its_stop_signal_arrives_can_be_canceled() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    // Simulates a job that was signaled to stop, and that its worker released before the signal arrived.
    queue.redis::<u32>(&["SADD", "{}:cancel", &id]).await;
    assert_eq!(queue.queue.cancel(&id).await.unwrap(), Cancel::Canceled);
    assert!(!queue.redis::<bool>(&["EXISTS", "{}:cancel"]).await);
}

#[tokio::test]
async fn a_failed_job_is_deleted_when_it_is_too_old() {
    let queue = TestQueue::new().await;
    let old = queue.push("old", Behavior::FailForGood).await;
    let new = queue.push("new", Behavior::FailForGood).await;
    queue.drain().await;
    queue.redis::<u32>(&["ZADD", "{}:failed:default", "1", &old]).await;
    queue.drain().await;
    assert!(queue.queue.status(&old).await.unwrap().is_none());
    assert_eq!(queue.status(&new).await.state, State::Failed);
    assert_eq!(queue.redis::<u32>(&["HLEN", "{}:jobs"]).await, 1);
}

#[tokio::test]
async fn a_job_keeps_its_owner_and_request_id() {
    let queue = TestQueue::new().await;
    let task = Task { name: "one".into(), behavior: Behavior::Succeed };
    let origin = Origin { owner: Some(7), request_id: Some("request-1".into()), ..Origin::default() };
    let id = queue.queue.enqueue(&task, origin).await.unwrap();
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &id]).await;
    assert!(envelope.contains("\"req\":\"request-1\""), "{envelope}");
    assert_eq!(queue.status(&id).await.owner, Some(7));
    queue.drain().await;
    assert_eq!(queue.status(&id).await.owner, Some(7));
}
