//! `QUEUE_WAIT_REPLICAS`: Redis replicas have every accepted job.

use std::time::Duration;

use reqwest::Method;
use saas::queue::{EnqueueOptions, Error, OnDuplicate, Origin, State, Unique};

use crate::support::{
    TestApp, eventually,
    own_redis::OwnRedis,
    process::{production_command, run},
    queue::{Behavior, Task, TestQueue, client_with, connect},
    servers::TestDatabase,
};

/// A primary with one replica.
struct Pair {
    primary: OwnRedis,
    replica: OwnRedis,
}

impl Pair {
    async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port: &'static str = port.to_string().leak();
        let primary = OwnRedis::start(&["--port", port, "--repl-diskless-sync-delay", "0"]).await;
        let replica = OwnRedis::start(&[]).await;
        replica.command::<()>(&["REPLICAOF", "127.0.0.1", port]).await.unwrap();
        let pair = Self { primary, replica };
        pair.until_connected().await;
        pair
    }

    async fn until_connected(&self) {
        let mut conn = connect(&self.primary.url()).await.unwrap();
        eventually("the replica has confirmed a write", || {
            let mut conn = conn.clone();
            async move {
                let mut commands = redis::pipe();
                commands.cmd("SET").arg("confirmed").arg("").ignore().cmd("WAIT").arg(1).arg(100);
                let (replicas,): (u32,) = commands.query_async(&mut conn).await.unwrap();
                (replicas == 1).then_some(())
            }
        })
        .await;
        redis::cmd("DEL").arg("confirmed").query_async::<()>(&mut conn).await.unwrap();
    }

    /// Returns a queue that accepts a job only after the replica has it. Its time limit is longer than the default, because a
    /// replica on a busy machine may confirm late.
    fn queue(&self) -> TestQueue {
        let mut queue = self.primary.queue();
        queue.queue =
            client_with(&self.primary.url(), "rq", &["--redis-timeout-ms=3000"]).wait_for_replicas(1);
        queue
    }

    async fn replica_has(&self, id: &str) -> bool {
        self.replica.command(&["HEXISTS", "rq:jobs", id]).await.unwrap()
    }
}

fn task(name: &str) -> Task {
    Task { name: name.into(), behavior: Behavior::Succeed }
}

/// Enqueue options with a unique key. A duplicate returns the existing job.
fn unique() -> EnqueueOptions {
    let on_duplicate = OnDuplicate::KeepExisting;
    let unique = Unique { key: "k".into(), window: Duration::from_secs(600), on_duplicate };
    EnqueueOptions { unique: Some(unique), ..EnqueueOptions::default() }
}

#[tokio::test]
async fn an_accepted_job_is_on_the_replica() {
    let pair = Pair::start().await;
    let queue = pair.queue();
    let client = &queue.queue;
    for round in 0..20 {
        let id = queue.push(&format!("single {round}"), Behavior::Succeed).await;
        assert!(pair.replica_has(&id).await, "a single job in round {round}");
        let later = EnqueueOptions { front: true, ..EnqueueOptions::default() };
        let id = client.enqueue_with(&task("front"), Origin::default(), later).await.unwrap();
        assert!(pair.replica_has(&id).await, "a job with options in round {round}");
    }
    let many: Vec<_> = (0..600).map(|n| task(&n.to_string())).collect();
    let ids = client.enqueue_all(&many, Origin::default(), EnqueueOptions::default()).await.unwrap();
    for id in [&ids[0], &ids[599]] {
        assert!(pair.replica_has(id).await);
    }
    // Concurrent callers may share one wait for the replica.
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..50 {
        let client = client.clone();
        callers.spawn(async move {
            let origin = Origin { owner: Some(n % 7), ..Origin::default() };
            client.enqueue(&task(&n.to_string()), origin).await.unwrap()
        });
    }
    for id in callers.join_all().await {
        assert!(pair.replica_has(&id).await);
    }
}

#[tokio::test]
async fn a_job_is_refused_while_too_few_replicas_have_it() {
    let pair = Pair::start().await;
    let queue = pair.queue();
    let client = &queue.queue;
    pair.replica.process.signal("STOP");
    let many = [task("many")];
    let refused = [
        client.enqueue(&task("one"), Origin::default()).await.unwrap_err(),
        client.enqueue_with(&task("two"), Origin::default(), unique()).await.unwrap_err(),
        // This duplicate of the job `two` writes nothing, and is refused too.
        client.enqueue_with(&task("three"), Origin::default(), unique()).await.unwrap_err(),
        client.enqueue_all(&many, Origin::default(), EnqueueOptions::default()).await.unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
        let text = saas::error::chain(&error);
        assert!(text.contains("0 of 1 replicas of Redis have the job") && text.contains("may run"), "{text}");
    }
    // Without `QUEUE_WAIT_REPLICAS`, a job is accepted.
    pair.primary.queue().push("accepted", Behavior::Succeed).await;
    pair.replica.process.signal("CONT");
    let id = eventually("jobs are accepted again", || async {
        client.enqueue(&task("four"), Origin::default()).await.ok()
    })
    .await;
    assert!(pair.replica_has(&id).await);
    let id = client.enqueue_with(&task("five"), Origin::default(), unique()).await.unwrap();
    assert!(pair.replica_has(&id).await);
    queue.drain().await;
    assert_eq!(queue.status(&id).await.state, State::Finished);
    for name in ["one", "two", "many", "accepted"] {
        assert_eq!(queue.log.ran().iter().filter(|ran| *ran == name).count(), 1, "{name}");
    }
    assert!(!queue.log.ran().iter().any(|ran| ran == "three" || ran == "five"), "they are duplicates");
}

#[tokio::test]
async fn a_call_that_times_out_before_it_waits_for_the_replicas_names_the_setting() {
    let pair = Pair::start().await;
    let queue = pair.queue();
    pair.replica.process.signal("STOP");
    // At most eight calls wait for the replica at a time. A wait takes a third of the time limit of a call, so the last
    // calls time out before their wait starts.
    let tasks: Vec<_> = (0..40).map(|n| task(&n.to_string())).collect();
    let client = &queue.queue;
    let calls =
        tasks.iter().map(|task| client.enqueue_with(task, Origin::default(), EnqueueOptions::default()));
    let answers = futures_util::future::join_all(calls).await;
    let texts: Vec<_> = answers.into_iter().map(|answer| saas::error::chain(&answer.unwrap_err())).collect();
    let is_late =
        |text: &String| text.contains("1 replicas (QUEUE_WAIT_REPLICAS) have not confirmed the job");
    assert!(texts.iter().any(is_late), "{texts:?}");
}

#[tokio::test]
async fn an_accepted_job_survives_a_promotion() {
    let mut pair = Pair::start().await;
    let queue = pair.queue();
    let mut accepted = Vec::new();
    for round in 0..10 {
        let tasks: Vec<_> = (0..40).map(|n| task(&format!("{round} {n}"))).collect();
        let pushes = tasks.iter().map(|task| queue.queue.enqueue(task, Origin::default()));
        accepted.extend(futures_util::future::join_all(pushes).await.into_iter().map(Result::unwrap));
    }
    pair.primary.kill().await;
    pair.replica.command::<()>(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    let promoted = pair.replica.queue();
    for id in &accepted {
        assert_eq!(promoted.status(id).await.state, State::Queued);
    }
    assert_eq!(promoted.drain().await.finished, accepted.len() as u64);
}

#[tokio::test]
async fn a_push_replaces_a_closed_connection() {
    let pair = Pair::start().await;
    let queue = pair.queue();
    for round in 0..5 {
        queue.push(&round.to_string(), Behavior::Succeed).await;
        // Closes all connections of clients, also those of the pool.
        pair.primary.command::<u32>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
    }
    assert_eq!(queue.drain().await.finished, 5);
}

#[tokio::test]
async fn the_api_answers_503_and_doctor_warns_without_the_replicas() {
    let redis = OwnRedis::start(&["--appendonly", "yes"]).await;
    let redis_url = format!("--redis-url={}", redis.url());
    let flags = ["--queue-wait-replicas=1", "--redis-timeout-ms=500", &redis_url];
    let app = TestApp::with(&flags).await;
    let user = app.user().await;
    let answer = app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
    assert_eq!(answer.status, 503, "{}", answer.text);

    let database = TestDatabase::migrated().await;
    let mut command = production_command(&["doctor"], &database, "rq").await;
    command.env("REDIS_URL", redis.url()).env("QUEUE_WAIT_REPLICAS", "2");
    let doctor = run(command).await.succeeded().stdout;
    let warning = "QUEUE_WAIT_REPLICAS is 2, and Redis has 0 replicas";
    assert!(doctor.lines().any(|line| line.starts_with("warn  redis") && line.contains(warning)), "{doctor}");
}
