//! `saas queue` as a process: commands that change queues and jobs.

use saas::queue::{Origin, State};

use crate::support::queue::{Behavior, Task, TestQueue};

#[tokio::test]
async fn failed_jobs_are_requeued_by_id_or_by_queue() {
    let queue = TestQueue::new().await;
    let (one, two) = (queue.push_failed("one").await, queue.push_failed("two").await);
    let some = queue.run_cli(&["requeue", &one, "0000"]).await.failed(1, &["0000 is not a failed job"]);
    assert_eq!(some.stdout, "requeued 1 job\n");
    assert!(!some.stderr.contains(&one));
    assert_eq!(queue.status(&one).await.state, State::Queued);
    assert_eq!(queue.stdout_of(&["requeue", "--all", "default"]).await, "requeued 1 job\n");
    assert_eq!(queue.status(&two).await.state, State::Queued);
    assert_eq!(queue.stdout_of(&["requeue", "--all", "default"]).await, "requeued 0 jobs\n");
    queue.run_cli(&["requeue", &one]).await.failed(1, &[&one]);
    queue.run_cli(&["requeue"]).await.failed(2, &["Usage"]);
    queue.run_cli(&["requeue", "--all", "default", &one]).await.failed(2, &["--all"]);
}

#[tokio::test]
async fn cancel_reports_the_result_of_each_job() {
    let queue = TestQueue::new().await;
    let (one, two) = (queue.push("one", Behavior::Succeed).await, queue.push_scheduled("two").await);
    let both = queue.stdout_of(&["cancel", &one, &two]).await;
    assert_eq!(both, format!("{one}: canceled\n{two}: canceled\n"));
    let three = queue.push("three", Behavior::Succeed).await;
    let mixed = queue.run_cli(&["cancel", &one, "0000", &three]).await.failed(1, &[]);
    assert_eq!(mixed.stdout, format!("{one}: has already ended\n0000: unknown\n{three}: canceled\n"));
}

#[tokio::test]
async fn a_command_that_fails_at_one_job_reports_the_jobs_before_it() {
    let queue = TestQueue::new().await;
    let origin = Origin { owner: Some(7), ..Origin::default() };
    let owned = Task { name: "owned".into(), behavior: Behavior::FailForGood };
    let owned = queue.queue.enqueue(&owned, origin).await.unwrap();
    queue.drain_until(&owned, State::Failed).await;
    let (one, two) = (queue.push_failed("one").await, queue.push_failed("two").await);
    // The key now holds a string, so Redis refuses commands for other types on it.
    queue.redis::<()>(&["SET", "{}:owner:7:failed", "x"]).await;
    let stopped = queue.run_cli(&["requeue", &one, "0000", &owned, &two]).await;
    let stopped = stopped.failed(1, &["0000 is not a failed job", "cannot use Redis"]);
    assert_eq!(stopped.stdout, "requeued 1 job\n");
    assert_eq!(queue.status(&two).await.state, State::Failed);

    let urgent = queue.push_urgent("urgent").await;
    queue.redis::<()>(&["SET", "{}:scheduled:urgent", "x"]).await;
    let stopped = queue.run_cli(&["cancel", &one, &urgent, "0000"]).await.failed(1, &["cannot use Redis"]);
    assert_eq!(stopped.stdout, format!("{one}: canceled\n"));
}

#[tokio::test]
async fn queues_are_paused_and_resumed() {
    let queue = TestQueue::new().await;
    let id = queue.push("one", Behavior::Succeed).await;
    let paused = queue.run_cli(&["pause", "default"]).await.succeeded();
    assert_eq!((paused.stdout.as_str(), paused.stderr.as_str()), ("default is paused\n", ""));
    queue.drain().await;
    assert_eq!(queue.status(&id).await.state, State::Queued);
    assert_eq!(queue.stdout_of(&["resume", "default"]).await, "default is resumed\n");
    queue.drain().await;
    assert_eq!(queue.status(&id).await.state, State::Finished);

    let new = queue.run_cli(&["pause", "defualt"]).await.succeeded();
    assert!(new.stderr.contains("the queue \"defualt\" is new"), "{new:?}");
    for action in ["pause", "resume", "limit"] {
        queue.run_cli(&[action, "a b"]).await.failed(2, &["'a b'", "letters, digits"]);
    }
}

#[tokio::test]
async fn limits_are_set_shown_and_removed() {
    let queue = TestQueue::new().await;
    queue.push("one", Behavior::Succeed).await;
    assert_eq!(queue.stdout_of(&["limit", "default"]).await, "default: no limits\n");
    let set = queue.stdout_of(&["limit", "default", "--concurrency", "5", "--rate", "30/m"]).await;
    assert_eq!(set, "default: 5 at once, 30/60s\n");
    assert_eq!(queue.stdout_of(&["limit", "default"]).await, set);
    let info = queue.queue.queue("default").await.unwrap().unwrap();
    assert_eq!((info.concurrency_limit, info.rate_limit), (Some(5), Some("30/m".parse().unwrap())));
    let removed = queue.stdout_of(&["limit", "default", "--concurrency", "none"]).await;
    assert_eq!(removed, "default: 30/60s\n");
    assert_eq!(queue.stdout_of(&["limit", "default", "--rate", "none"]).await, "default: no limits\n");
    for wrong in ["0", "-1", "many"] {
        let flag = format!("--concurrency={wrong}");
        queue.run_cli(&["limit", "default", &flag]).await.failed(2, &[wrong, "from 1, or none"]);
    }
    queue.run_cli(&["limit", "default", "--rate", "5"]).await.failed(2, &["30/m"]);
}

#[tokio::test]
async fn smoke_purge_requires_confirmation() {
    let queue = TestQueue::new().await;
    let one = queue.push_failed("one").await;
    queue.push_failed("two").await;
    queue.push_scheduled("later").await;
    let waits = queue.push("waits", Behavior::Succeed).await;
    queue.run_cli(&["purge", "default"]).await.failed(1, &["2 failed jobs of default", "--yes"]);
    assert_eq!(queue.status(&one).await.state, State::Failed);

    assert_eq!(queue.stdout_of(&["purge", "default", "--yes"]).await, "deleted 2 failed jobs\n");
    assert!(queue.queue.status(&one).await.unwrap().is_none());
    assert_eq!(queue.stdout_of(&["purge", "default", "--yes"]).await, "deleted 0 failed jobs\n");
    let scheduled = queue.stdout_of(&["purge", "urgent", "--status", "scheduled", "--yes"]).await;
    assert_eq!(scheduled, "deleted 1 scheduled job\n");
    assert_eq!(queue.status(&waits).await.state, State::Queued);
    let queued = queue.stdout_of(&["purge", "default", "--status=queued", "--yes"]).await;
    assert_eq!(queued, "deleted 1 queued job\n");
    queue
        .run_cli(&["purge", "default", "--status=started", "--yes"])
        .await
        .failed(2, &["started", "deferred"]);
}

#[tokio::test]
async fn the_jobs_of_an_owner_are_purged_in_all_queues() {
    let queue = TestQueue::new().await;
    let owned = async |owner, behavior| {
        let origin = Origin { owner: Some(owner), ..Origin::default() };
        queue.queue.enqueue(&Task { name: "x".into(), behavior }, origin).await.unwrap()
    };
    let failed = owned(7, Behavior::FailForGood).await;
    queue.drain_until(&failed, State::Failed).await;
    owned(7, Behavior::Succeed).await;
    let (other, plain) = (owned(8, Behavior::Succeed).await, queue.push("plain", Behavior::Succeed).await);
    queue.run_cli(&["purge", "--owner", "7"]).await.failed(1, &["all jobs of user 7", "--yes"]);
    assert_eq!(queue.stdout_of(&["purge", "--owner", "7", "--yes"]).await, "deleted 2 jobs\n");
    let purged = queue.stdout_of(&["purge", "--owner=7", "--yes", "--json"]).await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&purged).unwrap(),
        serde_json::json!({ "deleted": 0, "stopping": 0 })
    );
    for id in [&other, &plain] {
        assert_eq!(queue.status(id).await.state, State::Queued);
    }
    queue.run_cli(&["purge", "default", "--owner", "7", "--yes"]).await.failed(2, &["--owner"]);
    queue.run_cli(&["purge", "--yes"]).await.failed(2, &["QUEUE", "--owner"]);
}
