//! Faults of Redis: crash, hang, flush and read-only replica. Also Redis Cluster.

use std::{sync::atomic::Ordering, time::Duration};

use saas::queue::{EnqueueOptions, Options, Origin, State, Unique};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::SECRET,
    eventually,
    own_redis::OwnRedis,
    process::{run, saas},
    proxy::Proxy,
    queue::{Behavior, Task, TestQueue, steady},
    servers::{TestDatabase, servers},
};

fn task(name: &str) -> Task {
    Task { name: name.into(), behavior: Behavior::Succeed }
}

/// Kills and restarts Redis while jobs are enqueued and run. Asserts that every accepted job finishes.
async fn kill_redis_under_load(fsync: &'static str) {
    let mut redis = OwnRedis::start(&["--appendonly", "yes", "--appendfsync", fsync]).await;
    let queue = redis.queue();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(10)).run(stop.clone(), CancellationToken::new()));
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for round in 0..3 {
        let (client, enough) = (queue.queue.clone(), CancellationToken::new());
        let over = enough.clone();
        // A request that was in flight when Redis was killed may succeed or fail. The test requires that every accepted
        // job finishes, and nothing about the refused ones.
        let enqueuing = tokio::spawn(async move {
            let mut ids = Vec::new();
            while !over.is_cancelled() {
                ids.push(client.enqueue(&task(&format!("{round} {}", ids.len())), Origin::default()).await);
            }
            ids
        });
        let ran = queue.log.ran().len();
        eventually("some jobs have run", || async { (queue.log.ran().len() > ran + 50).then_some(()) }).await;
        redis.kill().await;
        redis.restart().await;
        enough.cancel();
        for id in enqueuing.await.unwrap() {
            match id {
                Ok(id) => accepted.push(id),
                Err(_) => refused += 1,
            }
        }
    }
    println!("{} accepted, {refused} refused", accepted.len());
    for id in &accepted {
        eventually("the job has finished", || async {
            let status = queue.queue.status(id).await.ok().flatten()?;
            (status.state == State::Finished).then_some(())
        })
        .await;
    }
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn no_accepted_job_is_lost_when_redis_is_killed_with_fsync_always() {
    kill_redis_under_load("always").await;
}

/// The test kills the process, not the machine, so the kernel keeps the bytes that Redis has written. [`OwnRedis::start`] says
/// why Redis writes each command before it responds.
#[tokio::test]
async fn no_accepted_job_is_lost_when_redis_is_killed_with_fsync_everysec() {
    kill_redis_under_load("everysec").await;
}

#[tokio::test]
async fn no_job_runs_twice_at_once_when_redis_hangs_for_longer_than_a_lease() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let id = queue.push("one", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let short = || Options { lease: Duration::from_secs(1), ..steady(1) };
    let workers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(queue.worker(short()).run(stop.clone(), CancellationToken::new())))
        .collect();
    eventually("the job is running", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
    redis.process.signal("STOP");
    eventually("the worker stops the job", || async {
        (queue.log.dropped.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    redis.process.signal("CONT");
    eventually("the job runs again", || async { (queue.log.ran().len() == 2).then_some(()) }).await;
    eventually("the job has finished", || async {
        queue.log.open.notify_waiters();
        let status = queue.queue.status(&id).await.ok().flatten()?;
        (status.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn workers_continue_after_a_flush() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(5)).run(stop.clone(), CancellationToken::new()));
    for round in 0..3 {
        let held = queue.push("held", Behavior::WaitForTest).await;
        eventually("the job is running", || async {
            (queue.status(&held).await.state == State::Started).then_some(())
        })
        .await;
        for n in 0..50 {
            queue.push(&n.to_string(), Behavior::Succeed).await;
            if n == 25 {
                redis.command::<()>(&["FLUSHALL"]).await.unwrap();
                redis.command::<()>(&["SCRIPT", "FLUSH"]).await.unwrap();
            }
        }
        queue.log.open.notify_waiters();
        let after = queue.push(&format!("after {round}"), Behavior::Succeed).await;
        eventually("the job has finished", || async {
            (queue.status(&after).await.state == State::Finished).then_some(())
        })
        .await;
    }
    queue.log.open.notify_waiters();
    stop.cancel();
    work.await.unwrap().unwrap();
    queue.assert_no_running_records().await;
}

#[tokio::test]
async fn a_replica_rejects_jobs_until_it_is_primary_again() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let id = queue.push("one", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(5)).run(stop.clone(), CancellationToken::new()));
    eventually("the job is running", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
    redis.command::<()>(&["REPLICAOF", "127.0.0.1", "9"]).await.unwrap();
    let error = queue.queue.enqueue(&task("two"), Origin::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "Redis is unavailable");
    queue.log.open.notify_one();
    eventually("the job has ended", || async {
        (queue.log.running.load(Ordering::SeqCst) == 0).then_some(())
    })
    .await;
    assert_eq!(queue.status(&id).await.state, State::Started, "the outcome is not stored yet");
    redis.command::<()>(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    eventually("the job has finished", || async {
        (queue.status(&id).await.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 1);
    assert_eq!(queue.log.ran(), ["one"]);
}

#[tokio::test]
async fn a_push_with_a_lost_answer_enqueues_one_job() {
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    let queue = TestQueue::at(&url).await;
    queue.push("before", Behavior::Succeed).await;
    // Of the responses on this connection, only the response to a push contains an empty array.
    proxy.lose_answer("*0");
    let id = queue.push("one", Behavior::Succeed).await;
    assert!(proxy.has_lost_answer());
    let options = EnqueueOptions {
        unique: Some(Unique {
            key: "k".into(),
            window: Duration::from_secs(60),
            on_duplicate: saas::queue::OnDuplicate::KeepExisting,
        }),
        ..EnqueueOptions::default()
    };
    proxy.lose_answer("*0");
    let unique = queue.queue.enqueue_with(&task("two"), Origin::default(), options).await.unwrap();
    assert!(proxy.has_lost_answer());
    assert_eq!(queue.drain().await.finished, 3);
    for id in [&id, &unique] {
        assert_eq!(queue.status(id).await.state, State::Finished);
    }
}

#[tokio::test]
async fn many_jobs_that_fail_at_once_are_all_retried_and_fail() {
    let queue = TestQueue::new().await;
    let tasks: Vec<_> =
        (0..500).map(|n| Task { name: n.to_string(), behavior: Behavior::Fail(99) }).collect();
    queue.queue.enqueue_all(&tasks, Origin::default(), EnqueueOptions::default()).await.unwrap();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(100)).run(stop.clone(), CancellationToken::new()));
    eventually("all jobs have failed", || async {
        let info = queue.queue.queue("default").await.unwrap().unwrap();
        (info.failed == 500).then_some(())
    })
    .await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().failed, 1_500);
    assert_eq!(queue.log.ran().len(), 1_500);
}

#[tokio::test]
async fn in_a_cluster_all_keys_are_in_one_slot() {
    let redis = OwnRedis::start(&["--cluster-enabled", "yes"]).await;
    redis.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.unwrap();
    eventually("the cluster is up", || async {
        redis
            .command::<String>(&["CLUSTER", "INFO"])
            .await
            .ok()
            .filter(|info| info.contains("cluster_state:ok"))
    })
    .await;
    let queue = TestQueue::on(&redis.url(), "{rq}");
    let options = EnqueueOptions { group: Some("tenant".into()), ..EnqueueOptions::default() };
    let first = queue.queue.enqueue_with(&task("one"), Origin::default(), options).await.unwrap();
    let options = EnqueueOptions { after: vec![first], ..EnqueueOptions::default() };
    let second = queue.queue.enqueue_with(&task("two"), Origin::default(), options).await.unwrap();
    let third = queue.push("three", Behavior::Fail(1)).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(5)).run(stop.clone(), CancellationToken::new()));
    for id in [&second, &third] {
        eventually("the job has finished", || async {
            (queue.status(id).await.state == State::Finished).then_some(())
        })
        .await;
    }
    stop.cancel();
    work.await.unwrap().unwrap();
    let server = redis.queue().queue.server().await.unwrap();
    assert!(server.problems.iter().any(|problem| problem.contains("REDIS_KEY_PREFIX={rq}")), "{server:?}");
    assert!(queue.queue.server().await.unwrap().problems.is_empty());
}

/// The cost is the number of Redis commands. The benchmark measures the time.
#[tokio::test]
async fn the_cost_of_a_fetch_is_independent_of_queue_length() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let full = if std::env::var_os("TEST_FULL").is_some() { 1_000_000 } else { 30_000 };
    let mut costs = Vec::new();
    // The first fetch also loads the script, so the test compares only the other two.
    for depth in [60, 100, full] {
        let tasks: Vec<_> = (0..depth).map(|_| task("x")).collect();
        queue.queue.enqueue_all(&tasks, Origin::default(), EnqueueOptions::default()).await.unwrap();
        let before = redis.commands().await;
        let (now, taken, _): (i64, Vec<redis::Value>, u64) = queue
            .script("fetch", &["w", &format!("t{depth}"), "60000", "50", "50", "0", "0", "", "default"])
            .await;
        assert!(now > 0 && taken.len() == 1);
        costs.push(redis.commands().await - before);
    }
    assert_eq!(costs[1], costs[2], "commands of a fetch from queues of 100 and {full} jobs");
}

#[tokio::test]
async fn a_redis_that_may_evict_jobs_is_rejected_with_the_fix() {
    let redis = OwnRedis::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let database = TestDatabase::migrated().await;
    for args in [&["worker"][..], &["serve", "--port", "0"], &["doctor"]] {
        let mut command = saas(args);
        command
            .env("DATABASE_URL", &database.url)
            .env("REDIS_URL", redis.url())
            .env("SECRET_KEY", SECRET)
            .env("FIRST_SUPERUSER_PASSWORD", "a password of ours");
        let ended = run(command).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("allkeys-lru") && said.contains("noeviction"), "{said}");
        assert!(said.contains("appendonly yes"), "the warning about persistence is missing: {said}");
    }
}
