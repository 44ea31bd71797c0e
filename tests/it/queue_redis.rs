//! What happens to jobs when Redis dies, hangs, forgets, refuses to write, or is one of a cluster.

use std::{process::Command, sync::atomic::Ordering, time::Duration};

use saas::queue::{EnqueueOptions, Options, Origin, State, Unique};
use tokio_util::sync::CancellationToken;

use crate::support::{
    app::SECRET,
    eventually,
    process::{Running, TempDir, run, saas},
    proxy::Proxy,
    queue::{Behaviour, Task, TestQueue, connect, steady},
    servers::{TestDatabase, servers},
};

/// A Redis that a test may kill; its data and its address survive that.
struct OwnRedis {
    dir: TempDir,
    process: Running,
    settings: Vec<&'static str>,
}

impl OwnRedis {
    async fn start(settings: &[&'static str]) -> Self {
        let dir = TempDir::new();
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

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut conn = connect(&self.url()).await?;
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut conn).await
    }

    /// How many commands it has run, those of scripts included.
    async fn commands(&self) -> u64 {
        let info: String = self.ask(&["INFO", "commandstats"]).await.unwrap();
        let calls = info
            .lines()
            .filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok());
        calls.sum()
    }

    async fn until_up(&self) {
        eventually("Redis is up", || async { self.ask::<String>(&["PING"]).await.ok() }).await;
    }

    async fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.end().await;
    }

    async fn start_again(&mut self) {
        self.process = Self::spawn(&self.dir, &self.settings);
        self.until_up().await;
    }

    fn queue(&self) -> TestQueue {
        TestQueue::on(&self.url(), "rq")
    }
}

fn task(name: &str) -> Task {
    Task { name: name.into(), behaviour: Behaviour::Succeed }
}

async fn killed_and_started_again(fsync: &'static str) {
    let mut redis = OwnRedis::start(&["--appendonly", "yes", "--appendfsync", fsync]).await;
    let queue = redis.queue();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(10)).run(stop.clone(), CancellationToken::new()));
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for round in 0..3 {
        let (client, enough) = (queue.queue.clone(), CancellationToken::new());
        let over = enough.clone();
        // What was under way when it died is accepted or refused; only what was accepted has to be there.
        let enqueuing = tokio::spawn(async move {
            let mut ids = Vec::new();
            while !over.is_cancelled() {
                ids.push(client.enqueue(&task(&format!("{round} {}", ids.len())), Origin::default()).await);
            }
            ids
        });
        let ran = queue.log.ran().len();
        eventually("some have run", || async { (queue.log.ran().len() > ran + 50).then_some(()) }).await;
        redis.kill().await;
        redis.start_again().await;
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
        eventually("it is done", || async {
            let status = queue.queue.status(id).await.ok().flatten()?;
            (status.state == State::Finished).then_some(())
        })
        .await;
    }
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_accepted_is_lost_when_redis_is_killed_with_fsync_always() {
    killed_and_started_again("always").await;
}

/// The process died, not the machine: what it has written is the system's to keep.
#[tokio::test]
async fn nothing_accepted_is_lost_when_redis_is_killed_with_fsync_everysec() {
    killed_and_started_again("everysec").await;
}

#[tokio::test]
async fn redis_that_hangs_for_longer_than_a_lease_runs_no_job_twice_at_once() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let id = queue.push("one", Behaviour::WaitForTest).await;
    let stop = CancellationToken::new();
    let short = || Options { lease: Duration::from_secs(1), ..steady(1) };
    let workers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(queue.worker(short()).run(stop.clone(), CancellationToken::new())))
        .collect();
    eventually("it runs", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
    redis.process.signal("STOP");
    eventually("its worker stops it", || async {
        (queue.log.dropped.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    redis.process.signal("CONT");
    eventually("it runs again", || async { (queue.log.ran().len() == 2).then_some(()) }).await;
    eventually("it has finished", || async {
        queue.log.open.notify_waiters();
        let status = queue.queue.status(&id).await.ok().flatten()?;
        (status.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
    queue.is_clean().await;
}

#[tokio::test]
async fn workers_go_on_after_everything_was_deleted() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(5)).run(stop.clone(), CancellationToken::new()));
    for round in 0..3 {
        let held = queue.push("held", Behaviour::WaitForTest).await;
        eventually("it runs", || async { (queue.status(&held).await.state == State::Started).then_some(()) })
            .await;
        for n in 0..50 {
            queue.push(&n.to_string(), Behaviour::Succeed).await;
            if n == 25 {
                redis.ask::<()>(&["FLUSHALL"]).await.unwrap();
                redis.ask::<()>(&["SCRIPT", "FLUSH"]).await.unwrap();
            }
        }
        queue.log.open.notify_waiters();
        let after = queue.push(&format!("after {round}"), Behaviour::Succeed).await;
        eventually("it is done", || async {
            (queue.status(&after).await.state == State::Finished).then_some(())
        })
        .await;
    }
    queue.log.open.notify_waiters();
    stop.cancel();
    work.await.unwrap().unwrap();
    queue.is_clean().await;
}

#[tokio::test]
async fn a_redis_that_became_a_replica_refuses_jobs_until_it_is_master_again() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let id = queue.push("one", Behaviour::WaitForTest).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(5)).run(stop.clone(), CancellationToken::new()));
    eventually("it runs", || async { (queue.log.ran().len() == 1).then_some(()) }).await;
    redis.ask::<()>(&["REPLICAOF", "127.0.0.1", "9"]).await.unwrap();
    let error = queue.queue.enqueue(&task("two"), Origin::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "Redis is unavailable");
    queue.log.open.notify_one();
    eventually("it has ended", || async { (queue.log.now.load(Ordering::SeqCst) == 0).then_some(()) }).await;
    assert_eq!(queue.status(&id).await.state, State::Started, "and nobody could be told");
    redis.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    eventually("it has finished", || async {
        (queue.status(&id).await.state == State::Finished).then_some(())
    })
    .await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().finished, 1);
    assert_eq!(queue.log.ran(), ["one"]);
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_makes_one_job() {
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    let queue = TestQueue::at(&url).await;
    queue.push("before", Behaviour::Succeed).await;
    // An empty answer, to the push alone.
    proxy.lose_answer("*0");
    let id = queue.push("one", Behaviour::Succeed).await;
    assert!(proxy.has_lost_it());
    let place = EnqueueOptions {
        unique: Some(Unique {
            key: "k".into(),
            window: Duration::from_secs(60),
            on_duplicate: saas::queue::OnDuplicate::KeepExisting,
        }),
        ..EnqueueOptions::default()
    };
    proxy.lose_answer("*0");
    let unique = queue.queue.enqueue_with(&task("two"), Origin::default(), place).await.unwrap();
    assert!(proxy.has_lost_it());
    assert_eq!(queue.drain().await.finished, 3);
    for id in [&id, &unique] {
        assert_eq!(queue.status(id).await.state, State::Finished);
    }
}

#[tokio::test]
async fn every_job_failing_at_once_ends_with_every_job_failed() {
    let queue = TestQueue::new().await;
    let tasks: Vec<_> =
        (0..500).map(|n| Task { name: n.to_string(), behaviour: Behaviour::Fail(99) }).collect();
    queue.queue.enqueue_all(&tasks, Origin::default(), EnqueueOptions::default()).await.unwrap();
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(100)).run(stop.clone(), CancellationToken::new()));
    eventually("all have failed", || async {
        let info = queue.queue.queue("default").await.unwrap().unwrap();
        (info.failed == 500).then_some(())
    })
    .await;
    stop.cancel();
    assert_eq!(work.await.unwrap().unwrap().failed, 1_500);
    assert_eq!(queue.log.ran().len(), 1_500);
}

#[tokio::test]
async fn in_a_cluster_everything_lies_in_one_slot() {
    let redis = OwnRedis::start(&["--cluster-enabled", "yes"]).await;
    redis.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await.unwrap();
    eventually("the cluster is up", || async {
        redis.ask::<String>(&["CLUSTER", "INFO"]).await.ok().filter(|info| info.contains("cluster_state:ok"))
    })
    .await;
    let queue = TestQueue::on(&redis.url(), "{rq}");
    let place = EnqueueOptions { group: Some("tenant".into()), ..EnqueueOptions::default() };
    let first = queue.queue.enqueue_with(&task("one"), Origin::default(), place).await.unwrap();
    let place = EnqueueOptions { after: vec![first], ..EnqueueOptions::default() };
    let second = queue.queue.enqueue_with(&task("two"), Origin::default(), place).await.unwrap();
    let third = queue.push("three", Behaviour::Fail(1)).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(5)).run(stop.clone(), CancellationToken::new()));
    for id in [&second, &third] {
        eventually("it is done", || async {
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

/// Counted in commands: what they take is for the benchmark to say.
#[tokio::test]
async fn a_fetch_costs_the_same_however_long_the_queue() {
    let redis = OwnRedis::start(&[]).await;
    let queue = redis.queue();
    let full = if std::env::var_os("TEST_FULL").is_some() { 1_000_000 } else { 30_000 };
    let mut costs = Vec::new();
    // The first brings the script.
    for depth in [60, 100, full] {
        let tasks: Vec<_> = (0..depth).map(|_| task("x")).collect();
        queue.queue.enqueue_all(&tasks, Origin::default(), EnqueueOptions::default()).await.unwrap();
        let before = redis.commands().await;
        let (now, taken, _): (i64, Vec<redis::Value>, u64) =
            queue.script("fetch", &["w", &format!("t{depth}"), "60000", "50", "default"]).await;
        assert!(now > 0 && taken.len() == 1);
        costs.push(redis.commands().await - before);
    }
    assert_eq!(costs[1], costs[2], "commands of a fetch from 100 and from {full}");
}

#[tokio::test]
async fn a_redis_that_may_drop_jobs_is_refused_with_the_mend() {
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
        assert!(said.contains("appendonly yes"), "persistence is off, and nobody says so: {said}");
    }
}
