//! `saas queue move`: moves jobs that are left under another prefix or on another server.

use std::{collections::BTreeMap, time::Duration};

use saas::queue::{EnqueueOptions, OnDuplicate, Origin, Rate, State, Unique};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    eventually,
    own_redis::OwnRedis,
    process::{production_command, run},
    queue::{Behavior, Task, TestQueue, steady},
    servers::{TestDatabase, servers},
};

fn task(name: &str) -> Task {
    Task { name: name.into(), behavior: Behavior::Succeed }
}

fn unique(key: &str) -> EnqueueOptions {
    let on_duplicate = OnDuplicate::KeepExisting;
    let unique = Unique { key: key.into(), window: Duration::from_secs(600), on_duplicate };
    EnqueueOptions { unique: Some(unique), ..EnqueueOptions::default() }
}

impl TestQueue {
    async fn push_with(&self, name: &str, options: EnqueueOptions) -> String {
        self.queue.enqueue_with(&task(name), Origin::default(), options).await.unwrap()
    }

    pub async fn keys(&self) -> Vec<String> {
        self.redis(&["KEYS", "{}:*"]).await
    }

    /// Runs all jobs. Returns the number of runs of each job.
    pub async fn run_counts(&self) -> BTreeMap<String, usize> {
        self.drain().await;
        let mut runs = BTreeMap::new();
        for name in self.log.ran() {
            *runs.entry(name).or_default() += 1;
        }
        runs
    }
}

/// Adds jobs in different states, limits and a schedule. Returns the id of each job and its expected state after the move.
async fn fill(old: &TestQueue) -> BTreeMap<&'static str, (String, State)> {
    let failed = old.push_failed("failed").await;
    let double = old.push("ab", Behavior::Double).await;
    let once = old.push_with("ended", unique("ended")).await;
    old.drain().await;
    let crashed = old.push("crashed", Behavior::Succeed).await;
    // Simulates a worker that fetched a job and was killed before its first heartbeat.
    let fetch = ["w", "t", "60000", "1", "1", "0", "0", "", "default"];
    old.script::<redis::Value>("fetch", &fetch).await;
    let first = old.push("first", Behavior::Succeed).await;
    let second = old.push("second", Behavior::Succeed).await;
    let group = EnqueueOptions { group: Some("tenant".into()), ..EnqueueOptions::default() };
    let grouped = old.push_with("grouped", group).await;
    let owner = Origin { owner: Some(7), ..Origin::default() };
    let owned = old.queue.enqueue(&task("owned"), owner).await.unwrap();
    let waits = EnqueueOptions { after: vec![first.clone()], ..EnqueueOptions::default() };
    let child = old.push_with("child", waits).await;
    let kept = old.push_with("kept", unique("k")).await;
    let later = old.push_scheduled("later").await;
    old.queue.pause("urgent").await.unwrap();
    old.queue.limit_concurrency("default", Some(5)).await.unwrap();
    old.queue.limit_rate("urgent", Some(Rate { jobs: 7, per: Duration::from_secs(60) })).await.unwrap();
    old.redis::<u32>(&["HSET", "{}:cron", "weekly|0 3 * * 1|UTC", "1764000000000"]).await;
    old.redis::<String>(&["SET", "{}:forgotten", "1764000000000", "PX", "86400000"]).await;
    BTreeMap::from([
        ("failed", (failed, State::Failed)),
        ("ab", (double, State::Finished)),
        ("ended", (once, State::Finished)),
        ("crashed", (crashed, State::Queued)),
        ("first", (first, State::Queued)),
        ("second", (second, State::Queued)),
        ("grouped", (grouped, State::Queued)),
        ("owned", (owned, State::Queued)),
        ("child", (child, State::Deferred)),
        ("kept", (kept, State::Queued)),
        ("later", (later, State::Scheduled)),
    ])
}

/// Asserts that the queue has everything that [`fill`] has added, and runs the jobs.
async fn assert_moved(new: &TestQueue, jobs: &BTreeMap<&'static str, (String, State)>) {
    for (name, (id, state)) in jobs {
        assert_eq!(new.status(id).await.state, *state, "{name}");
    }
    assert_eq!(new.status(&jobs["ab"].0).await.result, Some(json!("abab")));
    for (key, name) in [("k", "kept"), ("ended", "ended")] {
        assert_eq!(new.push_with("a duplicate", unique(key)).await, jobs[name].0, "{key}");
    }
    let urgent = new.queue.queue("urgent").await.unwrap().unwrap();
    assert!(urgent.paused && urgent.rate_limit.is_some() && urgent.scheduled == 1, "{urgent:?}");
    let default = new.queue.queue("default").await.unwrap().unwrap();
    assert_eq!((default.concurrency_limit, default.started, default.failed), (Some(5), 0, 1), "{default:?}");
    assert_eq!((default.totals.enqueued, default.totals.finished, default.totals.failed), (10, 2, 1));
    let due: Option<String> = new.redis(&["HGET", "{}:cron", "weekly|0 3 * * 1|UTC"]).await;
    assert_eq!(due.as_deref(), Some("1764000000000"));
    // The states of jobs that ended before this time may be deleted. A repeated push must not enqueue such a job again.
    let forgotten: Option<String> = new.redis(&["GET", "{}:forgotten"]).await;
    assert_eq!(forgotten.as_deref(), Some("1764000000000"));
    let waiting: Option<u64> = new.redis(&["HGET", "{}:owner:7", "jobs"]).await;
    assert_eq!(waiting, Some(1));

    new.drain_until(&jobs["child"].0, State::Finished).await;
    let names = ["child", "crashed", "first", "grouped", "kept", "owned", "second"];
    assert_eq!(new.run_counts().await, BTreeMap::from(names.map(|name| (name.to_owned(), 1))));
    assert!(new.queue.requeue(&jobs["failed"].0).await.unwrap());
}

#[tokio::test]
async fn jobs_of_every_state_are_moved_to_another_prefix_and_run() {
    let (old, new) = (TestQueue::new().await, TestQueue::new().await);
    let jobs = fill(&old).await;
    let before = old.keys().await;
    let would = new.stdout_of(&["move", "--from", &old.prefix, "--dry-run"]).await;
    assert!(would.contains("would move 9 jobs") && would.contains("SCHEDULED"), "{would}");
    assert_eq!(old.keys().await.len(), before.len(), "--dry-run changes nothing");
    let moved = new.stdout_of(&["move", "--from", &old.prefix]).await;
    assert!(moved.contains("moved 9 jobs and 2 ended jobs from"), "{moved}");
    assert_eq!(old.keys().await, [""; 0]);
    assert_moved(&new, &jobs).await;
    let again = new.stdout_of(&["move", "--from", &old.prefix]).await;
    assert!(again.contains("there is nothing to move"), "{again}");
    assert_eq!(old.keys().await, [""; 0]);
}

#[tokio::test]
async fn jobs_are_moved_to_another_server_that_already_has_jobs() {
    let (old, redis) = (TestQueue::new().await, OwnRedis::start(&[]).await);
    let new = TestQueue::on(&redis.url(), "{rq}");
    let there = new.queue.enqueue(&task("there"), Origin::default()).await.unwrap();
    new.drain().await;
    new.queue.pause("other").await.unwrap();
    let jobs = fill(&old).await;
    let mut command = new.command(&["move", "--from", &old.prefix]).await;
    command.env("REDIS_URL", redis.url()).env("MOVE_FROM_REDIS_URL", servers().await.redis_url());
    let moved = run(command).await.succeeded().stdout;
    assert!(moved.contains("moved 9 jobs and 2 ended jobs"), "{moved}");
    assert_eq!(old.keys().await, [""; 0]);
    assert_eq!(new.status(&there).await.state, State::Finished);
    assert!(new.queue.queue("other").await.unwrap().unwrap().paused);
    for (name, (id, state)) in &jobs {
        assert_eq!(new.status(id).await.state, *state, "{name}");
    }
    new.drain_until(&jobs["child"].0, State::Finished).await;
    let names = ["child", "crashed", "first", "grouped", "kept", "owned", "second", "there"];
    assert_eq!(new.run_counts().await, BTreeMap::from(names.map(|name| (name.to_owned(), 1))));
}

#[tokio::test]
async fn a_move_is_refused_with_running_workers_to_itself_or_into_an_evicting_redis() {
    let (old, new) = (TestQueue::new().await, TestQueue::new().await);
    let id = old.push("one", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(old.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
    eventually("the worker is listed and runs the job", || async {
        let is_listed = !old.queue.workers().await.unwrap().is_empty();
        (is_listed && old.status(&id).await.state == State::Started).then_some(())
    })
    .await;
    old.push("two", Behavior::Succeed).await;
    let refused = new.run_cli(&["move", "--from", &old.prefix]).await;
    refused.failed(1, &["workers of", "are running: stop them first", &std::process::id().to_string()]);
    // The move is also refused if a worker starts in the middle of it.
    let answer: (String, String, Vec<Vec<u8>>, String) =
        old.script("move_out", &["jobs", "m", "0", "30000", ""]).await;
    assert_eq!((answer.2.len(), answer.3.as_str()), (0, "workers"));
    assert_eq!(new.keys().await, [""; 0], "nothing was moved");
    old.log.open.notify_one();
    stop.cancel();
    work.await.unwrap().unwrap();

    let same = old.run_cli(&["move", "--from", &old.prefix]).await;
    same.failed(1, &["there already", "Set REDIS_KEY_PREFIX or REDIS_URL"]);
    let mut same = old.command(&["move", "--from", &old.prefix]).await;
    same.env("MOVE_FROM_REDIS_URL", servers().await.redis_url());
    run(same).await.failed(1, &["there already"]);
    let away = ["move", "--from", "rq", "--from-url", "redis://:hunter2@127.0.0.1:9/0"];
    let mut command = new.command(&away).await;
    command.env("REDIS_TIMEOUT_MS", "200");
    let unavailable = ["cannot use Redis: check --from-url", "127.0.0.1:9"];
    let ended = run(command).await.failed(1, &unavailable).failed(1, &[".env instead of --from-url"]);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    let evicting = OwnRedis::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let mut command = new.command(&["move", "--from", "rq"]).await;
    command.env("REDIS_URL", evicting.url()).env("REDIS_KEY_PREFIX", "p");
    run(command).await.failed(1, &["refusing to move jobs into this Redis", "allkeys-lru"]);
}

#[tokio::test]
async fn doctor_finds_the_jobs_of_another_prefix() {
    let (database, redis) = (TestDatabase::migrated().await, OwnRedis::start(&["--appendonly", "yes"]).await);
    let old = redis.queue();
    let doctor = async || {
        let mut command = production_command(&["doctor"], &database, "{rq}").await;
        command.env("REDIS_URL", redis.url());
        run(command).await.succeeded().stdout
    };
    redis.command::<u32>(&["HSET", "another:jobs", "a", "b"]).await.unwrap();
    assert!(!doctor().await.contains("queue move"));
    let id = old.push("one", Behavior::Succeed).await;
    let found = doctor().await;
    let line = found.lines().find(|line| line.contains("saas queue move --from rq")).unwrap_or_default();
    assert!(line.starts_with("warn  redis") && line.contains("the prefix rq has jobs (1)"), "{found}");
    // A prefix with running workers is in use, such as by another product, so `saas doctor` does not report its jobs.
    let stop = CancellationToken::new();
    old.queue.pause("default").await.unwrap();
    let work = tokio::spawn(old.worker(steady(1)).run(stop.clone(), CancellationToken::new()));
    eventually("the worker is listed", || async {
        (!old.queue.workers().await.unwrap().is_empty()).then_some(())
    })
    .await;
    assert!(!doctor().await.contains("queue move"));
    stop.cancel();
    work.await.unwrap().unwrap();

    redis.command::<u32>(&["DEL", "rq:alive"]).await.unwrap();
    let new = TestQueue::on(&redis.url(), "{rq}");
    let mut command = new.command(&["move", "--from", "rq"]).await;
    command.env("REDIS_URL", redis.url());
    run(command).await.succeeded();
    assert!(!doctor().await.contains("queue move"));
    new.queue.resume("default").await.unwrap();
    assert_eq!(new.drain().await.finished, 1);
    assert_eq!(new.status(&id).await.state, State::Finished);
}
