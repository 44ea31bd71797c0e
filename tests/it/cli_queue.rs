//! `saas queue` as a process: commands that inspect queues and jobs.

use std::{process::Command, time::Duration};

use saas::queue::{EnqueueOptions, Origin, State};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    eventually,
    process::{Ended, Running, run, saas},
    proxy::{Link, Proxy},
    queue::{Behavior, Task, TestQueue, UrgentTask, steady},
    servers::servers,
};

impl TestQueue {
    pub async fn command(&self, args: &[&str]) -> Command {
        let mut command = saas(&[&["queue"], args].concat());
        command.env("REDIS_URL", servers().await.redis_url()).env("REDIS_KEY_PREFIX", &self.prefix);
        // Longer than the default, so that tests do not fail on a loaded machine.
        command.env("REDIS_TIMEOUT_MS", "20000");
        command
    }

    pub async fn run_cli(&self, args: &[&str]) -> Ended {
        run(self.command(args).await).await
    }

    /// Returns the output of a command that must succeed.
    pub async fn stdout_of(&self, args: &[&str]) -> String {
        self.run_cli(args).await.succeeded().stdout
    }

    pub async fn json_of(&self, args: &[&str]) -> Value {
        let text = self.stdout_of(&[args, &["--json"]].concat()).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Adds a job, and runs it until it has failed permanently. Returns its id.
    pub async fn push_failed(&self, name: &str) -> String {
        let id = self.push(name, Behavior::FailForGood).await;
        self.drain_until(&id, State::Failed).await;
        id
    }

    pub async fn push_urgent(&self, name: &str) -> String {
        self.queue.enqueue(&UrgentTask { name: name.into() }, Origin::default()).await.unwrap()
    }

    /// Adds a job that is due in an hour to the queue `urgent`.
    pub async fn push_scheduled(&self, name: &str) -> String {
        let hour = Duration::from_secs(3_600);
        self.queue.enqueue_in(&UrgentTask { name: name.into() }, Origin::default(), hour).await.unwrap()
    }
}

/// Returns the words of the first line that begins with the word `first`.
fn find_row<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&first)).unwrap_or_else(|| panic!("no {first} in {text}"))
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|job| job["job_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_help_of_saas_queue_has_examples_and_settings() {
    let all = run(saas(&["queue", "--help"])).await.succeeded().stdout;
    assert!(all.contains("Examples:\n"), "{all}");
    for action in [
        "stats", "failed", "jobs", "show", "requeue", "cancel", "pause", "resume", "limit", "purge", "move",
        "workers",
    ] {
        assert!(all.contains(&format!("\n  {action} ")), "{action} is not in {all}");
        let help = run(saas(&["queue", action, "--help"])).await.succeeded().stdout;
        assert!(help.contains("REDIS_URL") && !help.contains("DATABASE_URL"), "{help}");
    }
    let limit = run(saas(&["queue", "limit", "--help"])).await.succeeded().stdout;
    assert!(limit.contains("100/s"), "{limit}");
}

#[tokio::test]
async fn smoke_stats_list_all_queues() {
    let queue = TestQueue::new().await;
    assert!(queue.stdout_of(&["stats"]).await.contains("there is no queue"));
    assert_eq!(queue.json_of(&["stats"]).await, json!([]));

    queue.push_failed("bad").await;
    queue.push("good", Behavior::Succeed).await;
    queue.drain().await;
    let first = queue.push("waits", Behavior::Succeed).await;
    let task = Task { name: "child".into(), behavior: Behavior::Succeed };
    let options = EnqueueOptions { after: vec![first], ..EnqueueOptions::default() };
    queue.queue.enqueue_with(&task, Origin::default(), options).await.unwrap();
    queue.push_scheduled("later").await;
    queue.stdout_of(&["pause", "urgent"]).await;
    queue.stdout_of(&["limit", "default", "--concurrency", "5", "--rate", "100/m"]).await;

    let table = queue.stdout_of(&["stats"]).await;
    let default = find_row(&table, "default");
    assert_eq!(default[..8], ["default", "-", "1", "0", "1", "0", "1", "1"], "{table}");
    assert!(default[8].ends_with(['s', 'm']), "{table}");
    assert_eq!(default[9..], ["5", "at", "once,", "100/60s"], "{table}");
    assert_eq!(find_row(&table, "urgent"), ["urgent", "paused", "0", "1", "0", "0", "0", "0", "-", "-"]);
    assert!(table.starts_with("QUEUE ") && !table.contains('\x1b'), "{table}");

    let list = queue.json_of(&["stats"]).await;
    assert_eq!((&list[0]["name"], &list[1]["name"]), (&json!("default"), &json!("urgent")));
    assert_eq!((&list[0]["queued"], &list[0]["totals"]["finished"]), (&json!(1), &json!(1)));
    assert_eq!(list[0]["rate_limit"], json!({ "jobs": 100, "per_seconds": 60.0 }));
}

#[tokio::test]
async fn watched_stats_repeat_until_a_signal() {
    let queue = TestQueue::new().await;
    queue.push("one", Behavior::Succeed).await;
    let mut watch = Running::start(queue.command(&["stats", "--watch", "0.1"]).await);
    eventually("there are two frames", || async {
        (watch.output().matches("QUEUED").count() >= 2).then_some(())
    })
    .await;
    assert!(!watch.output().contains('\x1b'), "only a terminal is cleared");
    assert_eq!(find_row(&watch.output(), "default")[2], "1");
    watch.signal("INT");
    assert_eq!(watch.end().await.code(), Some(0));

    let mut lines = Running::start(queue.command(&["stats", "--json", "--watch", "0.1"]).await);
    eventually("there are two lines", || async { (lines.output().matches('\n').count() >= 2).then_some(()) })
        .await;
    for line in lines.output().lines().take(2) {
        let list: Value = serde_json::from_str(line).unwrap();
        assert_eq!(list[0]["queued"], json!(1));
    }
    lines.signal("TERM");
    assert_eq!(lines.end().await.code(), Some(0));
}

#[tokio::test]
async fn watched_stats_continue_after_an_outage_of_redis() {
    let queue = TestQueue::new().await;
    queue.push("one", Behavior::Succeed).await;
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    let mut command = queue.command(&["stats", "--watch", "0.1"]).await;
    command.env("REDIS_URL", url).env("REDIS_TIMEOUT_MS", "500");
    let mut watch = Running::start(command);
    watch.wait_for_output("QUEUED").await;
    proxy.set(Link::Cut);
    watch.wait_for_output("error: cannot use Redis: check REDIS_URL").await;
    let before = watch.output().matches("QUEUED").count();
    proxy.set(Link::Up);
    eventually("there are frames again", || async {
        (watch.output().matches("QUEUED").count() > before).then_some(())
    })
    .await;
    assert!(!watch.has_ended());
}

#[tokio::test]
async fn failed_jobs_are_listed_latest_first() {
    let queue = TestQueue::new().await;
    let old = queue.push_failed("old").await;
    let urgent = queue.push_urgent("x").await;
    let envelope: String = queue.redis(&["HGET", "{}:jobs", &urgent]).await;
    let spoilt = envelope.replace("\"name\"", "\"nome\"");
    queue.redis::<u32>(&["HSET", "{}:jobs", &urgent, &spoilt]).await;
    queue.drain_until(&urgent, State::Failed).await;
    let new = queue.push_failed("new").await;

    assert_eq!(ids(&queue.json_of(&["failed"]).await), [&new, &urgent, &old]);
    assert_eq!(ids(&queue.json_of(&["failed", "default"]).await), [&new, &old]);
    assert_eq!(ids(&queue.json_of(&["failed", "--limit", "1", "--offset", "1"]).await), [&urgent]);
    assert_eq!(ids(&queue.json_of(&["failed", "default", "--limit", "1", "--offset", "1"]).await), [&old]);
    let list = queue.json_of(&["failed", "urgent"]).await;
    assert_eq!((&list[0]["status"], &list[0]["payload"]["nome"]), (&json!("failed"), &json!("x")));

    let table = queue.stdout_of(&["failed"]).await;
    let line = find_row(&table, &new);
    assert_eq!(line[1..4], ["test_task", "default", "1"]);
    assert!(table.contains("There is no such invoice") && table.contains("FAILED AT"), "{table}");
    assert_eq!(table.lines().count(), 4);
    assert_eq!(queue.stdout_of(&["failed", "--offset", "9"]).await, "no failed jobs after the first 9\n");
    queue.run_cli(&["failed", "--limit", "0"]).await.failed(2, &["--limit"]);
}

#[tokio::test]
async fn jobs_are_listed_by_state() {
    let queue = TestQueue::new().await;
    let first = queue.push("first", Behavior::Succeed).await;
    let second = queue.push("second", Behavior::Succeed).await;
    let task = Task { name: "child".into(), behavior: Behavior::Succeed };
    let options = EnqueueOptions { after: vec![first.clone()], ..EnqueueOptions::default() };
    let child = queue.queue.enqueue_with(&task, Origin::default(), options).await.unwrap();
    let later = queue.push_scheduled("later").await;

    assert_eq!(ids(&queue.json_of(&["jobs", "default"]).await), [&first, &second]);
    assert_eq!(ids(&queue.json_of(&["jobs", "default", "--offset", "1"]).await), [&second]);
    assert_eq!(ids(&queue.json_of(&["jobs", "default", "--status", "deferred"]).await), [&child]);
    assert_eq!(queue.json_of(&["jobs", "default", "--status", "failed"]).await, json!([]));
    let scheduled = queue.stdout_of(&["jobs", "urgent", "--status", "scheduled"]).await;
    assert!(scheduled.contains("DUE AT"), "{scheduled}");
    assert_eq!(find_row(&scheduled, &later)[1..4], ["urgent_task", "urgent", "0"]);
    assert_eq!(queue.stdout_of(&["jobs", "urgent"]).await, "no queued jobs\n");
    queue.run_cli(&["jobs", "default", "--status", "finished"]).await.failed(2, &["finished", "deferred"]);
}

#[tokio::test]
async fn a_running_job_and_its_worker_are_shown() {
    let queue = TestQueue::new().await;
    let idle = queue.stdout_of(&["workers"]).await;
    assert!(idle.contains("no worker has sent a heartbeat"), "{idle}");
    assert_eq!(queue.json_of(&["workers"]).await, json!([]));

    let id = queue.push("one", Behavior::WaitForTest).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
    eventually("the worker reports the running job", || async {
        let workers = queue.queue.workers().await.unwrap();
        workers.first().is_some_and(|worker| worker.running == 1).then_some(())
    })
    .await;
    let pid = std::process::id().to_string();
    let list = queue.json_of(&["workers"]).await;
    assert_eq!((list[0]["pid"].to_string(), &list[0]["concurrency"]), (pid.clone(), &json!(2)));
    let table = queue.stdout_of(&["workers"]).await;
    let worker = find_row(&table, list[0]["id"].as_str().unwrap());
    assert_eq!(worker[2..6], [pid.as_str(), env!("CARGO_PKG_VERSION"), "default", "1/2"], "{table}");

    let started = queue.json_of(&["jobs", "default", "--status", "started"]).await;
    assert_eq!((ids(&started), &started[0]["worker"]), (vec![id.as_str()], &list[0]["id"]));
    assert!(queue.stdout_of(&["show", &id]).await.contains("\nworker:   "));

    assert_eq!(queue.stdout_of(&["cancel", &id]).await, format!("{id}: asked to stop\n"));
    eventually("it is canceled", || async {
        (queue.status(&id).await.state == State::Canceled).then_some(())
    })
    .await;
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn show_prints_the_details_of_a_job() {
    let queue = TestQueue::new().await;
    let bad = queue.push_failed("bad").await;
    let text = queue.stdout_of(&["show", &bad]).await;
    let first = format!("id:       {bad}");
    for line in [
        first.as_str(),
        "status:   failed",
        "task:     test_task",
        "queue:    default",
        "attempts: 1",
        "error:    There is no such invoice",
        "payload:  {\"",
    ] {
        assert!(text.lines().any(|there| there.starts_with(line)), "{line} is not in {text}");
    }
    assert!(!text.contains("detail:") && !text.contains("result:"), "{text}");
    let shown = queue.json_of(&["show", &bad]).await;
    assert_eq!((&shown["job_id"], &shown["payload"]["name"]), (&json!(bad), &json!("bad")));

    let good = queue.push("good", Behavior::Succeed).await;
    queue.drain().await;
    let text = queue.stdout_of(&["show", &good]).await;
    assert!(text.contains("result:   {\"name\":\"good\"}"), "{text}");
    queue.run_cli(&["show", "0000"]).await.failed(1, &["no job 0000: it is unknown or has expired"]);
}

#[tokio::test]
async fn unknown_queues_are_reported() {
    let queue = TestQueue::new().await;
    let commands: [&[&str]; 4] = [
        &["failed", "nowhere"],
        &["jobs", "nowhere"],
        &["purge", "nowhere", "--yes"],
        &["requeue", "--all", "nowhere"],
    ];
    for args in commands {
        queue.run_cli(args).await.failed(1, &["there is no queue \"nowhere\": no job was enqueued yet"]);
    }
    queue.push("one", Behavior::Succeed).await;
    queue.push_scheduled("two").await;
    for args in commands {
        queue.run_cli(args).await.failed(1, &["there is no queue \"nowhere\". Queues: default, urgent"]);
    }
}

#[tokio::test]
async fn without_redis_the_error_says_what_to_check() {
    for args in [["queue", "stats"], ["queue", "workers"], ["queue", "failed"]] {
        let mut command = saas(&args);
        command.env("REDIS_URL", "redis://:hunter2@127.0.0.1:9/0").env("REDIS_TIMEOUT_MS", "200");
        let ended = run(command).await.failed(1, &["error: cannot use Redis", "REDIS_URL"]);
        assert!(!ended.stderr.contains("hunter2") && ended.stdout.is_empty(), "{ended:?}");
    }
    let away = "--redis-url=redis://:hunter2@127.0.0.1:9/0";
    let ended = run(saas(&["queue", "stats", "--redis-timeout-ms=200", away])).await;
    let ended = ended.failed(1, &["warning: every user", ".env instead of --redis-url", "error: cannot use"]);
    assert!(!ended.stderr.contains("hunter2"), "{ended:?}");
    let mut unreadable = saas(&["queue", "stats"]);
    unreadable.env("REDIS_URL", "http://:hunter2@host");
    run(unreadable).await.failed(1, &["REDIS_URL cannot be read"]);
}

#[tokio::test]
async fn tables_of_jobs_read_no_payloads_from_redis() {
    let queue = TestQueue::new().await;
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    for _ in 0..3 {
        queue.push(&"x".repeat(15_000), Behavior::FailForGood).await;
    }
    let read = async |args: &[&str]| {
        let before = proxy.bytes_answered();
        let mut command = queue.command(args).await;
        command.env("REDIS_URL", &url);
        run(command).await.succeeded();
        proxy.bytes_answered() - before
    };
    assert!(read(&["jobs", "default"]).await < 20_000);
    assert!(read(&["jobs", "default", "--json"]).await > 45_000);
    queue.drain().await;
    for args in [&["failed"][..], &["failed", "default"]] {
        assert!(read(args).await < 20_000, "{args:?}");
    }
    assert!(read(&["failed", "--json"]).await > 45_000);
}
