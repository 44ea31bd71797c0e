//! Faults of Redis: crash, hang, flush, read-only replica; and Redis Cluster.

use std::{process::Command, sync::atomic::Ordering, time::Duration};

use saas::queue::{EnqueueOptions, Options, Origin, State, Unique};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::SECRET,
    eventually,
    process::{Running, TempDir, run, saas},
    proxy::Proxy,
    queue::{Behavior, Task, TestQueue, connect, steady},
    servers::{TestDatabase, servers},
};

/// A Redis server that a test may kill and restart with its data and address.
struct OwnRedis {
    dir: TempDir,
    process: Running,
    settings: Vec<&'static str>,
}

impl OwnRedis {
    async fn start(settings: &[&'static str]) -> Self {
        // With a slow disk, `everysec` answers before it writes: it postpones a write while an fsync is running.
        let dir = TempDir::in_memory();
        let process = Self::spawn(&dir, settings);
        let redis = Self { dir, process, settings: settings.to_vec() };
        redis.until_up().await;
        redis
    }

    fn spawn(dir: &TempDir, settings: &[&str]) -> Running {
        let there = |name: &&str| Command::new(name).arg("--version").output().is_ok();
        let mut command = Command::new(["redis-server", "valkey-server"].into_iter().find(there).unwrap());
        command.args(["--port", "0", "--save", "", "--dir"]).arg(dir.path());
        command.arg("--unixsocket").arg(dir.path().join("socket")).args(settings);
        Running::start(command)
    }

    fn url(&self) -> String {
        format!("unix://{}/socket", self.dir.path().display())
    }

    async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut conn = connect(&self.url()).await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut conn).await
    }

    /// How many commands the server has run, including those of scripts.
    async fn commands(&self) -> u64 {
        let info: String = self.command(&["INFO", "commandstats"]).await.unwrap();
        let calls = info
            .lines()
            .filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok());
        calls.sum()
    }

    async fn until_up(&self) {
        eventually("Redis is up", || async { self.command::<String>(&["PING"]).await.ok() }).await;
    }

    async fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.end().await;
    }

    async fn restart(&mut self) {
        self.process = Self::spawn(&self.dir, &self.settings);
        self.until_up().await;
    }

    fn queue(&self) -> TestQueue {
        TestQueue::on(&self.url(), "rq")
    }
}

fn task(name: &str) -> Task {
    Task { name: name.into(), behavior: Behavior::Succeed }
}

async fn restart_under_load(fsync: &'static str) {
    let mut redis = OwnRedis::start(&["--appendonly", "yes", "--appendfsync", fsync]).await;
    let queue = redis.queue();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(10)).run(stop.clone(), CancellationToken::new()));
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for round in 0..3 {
        let (client, enough) = (queue.queue.clone(), CancellationToken::new());
        let over = enough.clone();
        // A request that was in flight at the kill may succeed or fail; only accepted jobs must exist.
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
    restart_under_load("always").await;
}

/// Only the process is killed, not the machine, so the operating system still writes what the process has written.
#[tokio::test]
async fn no_accepted_job_is_lost_when_redis_is_killed_with_fsync_everysec() {
    restart_under_load("everysec").await;
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
    eventually("the job has ended", || async { (queue.log.now.load(Ordering::SeqCst) == 0).then_some(()) })
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
    // Only the answer to a push is an empty array.
    proxy.lose_answer("*0");
    let id = queue.push("one", Behavior::Succeed).await;
    assert!(proxy.has_lost_it());
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
    assert!(proxy.has_lost_it());
    assert_eq!(queue.drain().await.finished, 3);
    for id in [&id, &unique] {
        assert_eq!(queue.status(id).await.state, State::Finished);
    }
}

#[tokio::test]
async fn many_jobs_that_fail_at_once_all_fail() {
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

/// The cost is the number of commands; the benchmark measures time.
#[tokio::test]
async fn the_cost_of_a_fetch_is_independent_of_queue_length() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let full = if std::env::var_os("TEST_FULL").is_some() { 1_000_000 } else { 30_000 };
    let mut costs = Vec::new();
    // The first fetch loads the script.
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

/// The outcomes of these jobs are larger than their envelopes, so Redis stays full when they have run.
#[tokio::test]
async fn a_full_redis_accepts_jobs_again_when_the_queue_is_drained() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let info: String = redis.command(&["INFO", "memory"]).await.unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim();
    let limit = (used.parse::<u64>().unwrap() + 8_000_000).to_string();
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", &limit]).await.unwrap();
    let large = |n: usize| Task { name: format!("{n}{}", "x".repeat(2_000)), behavior: Behavior::Double };
    let mut ids = Vec::new();
    while let Ok(id) = queue.queue.enqueue(&large(ids.len()), Origin::default()).await {
        ids.push(id);
    }
    assert!(ids.len() > 500, "{} jobs", ids.len());
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(10)).run(stop.clone(), CancellationToken::new()));
    eventually("the queue is drained", || async {
        (queue.redis::<u64>(&["HLEN", "{}:jobs"]).await == 0).then_some(())
    })
    .await;
    let new = eventually("Redis accepts jobs again", || async {
        queue.queue.enqueue(&large(0), Origin::default()).await.ok()
    })
    .await;
    queue.until(&new, State::Finished).await;
    stop.cancel();
    work.await.unwrap().unwrap();
    let ran = queue.log.ran().len();
    assert_eq!(ran, ids.len() + 1, "each job ran once");
}
