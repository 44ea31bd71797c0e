//! Redis Sentinel and Redis Cluster: the product finds the server that accepts writes, also after a failover.

use std::net::TcpListener;

use reqwest::Method;
use saas::queue::{Origin, State};
use tokio_util::sync::CancellationToken;

use crate::support::{
    TEST_TIMEOUT, TestApp, eventually,
    process::{production_command, run},
    queue::{Behavior, Task, TestQueue, client_with, steady},
    redis_topology::{CLUSTER_PREFIX, Cluster, MASTER_NAME, SentinelGroup},
    servers::TestDatabase,
};

fn task(name: &str) -> Task {
    Task { name: name.into(), behavior: Behavior::Succeed }
}

/// Enqueues a job as soon as that works, and waits until a worker has finished it. Returns its id.
async fn run_job(queue: &TestQueue, name: &str) -> String {
    let id = eventually("a job is enqueued", || async {
        queue.queue.enqueue(&task(name), Origin::default()).await.ok()
    })
    .await;
    until_finished(queue, &id).await;
    id
}

async fn until_finished(queue: &TestQueue, id: &str) {
    eventually("the job has finished", || async {
        let status = queue.queue.status(id).await.ok().flatten()?;
        (status.state == State::Finished).then_some(())
    })
    .await;
}

#[tokio::test]
async fn workers_and_the_api_follow_a_failover_of_sentinel() {
    let mut group = SentinelGroup::start(1, 1).await;
    // The first Sentinel in the URL accepts connections and never answers.
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = group.url().replace("://", &format!("://{},", frozen.local_addr().unwrap()));
    let app = TestApp::with(&[&format!("--redis-url={url}"), "--redis-timeout-ms=900"]).await;
    eventually("the API uses Redis", || async {
        (app.get("/health/redis", None).await.status == 200).then_some(())
    })
    .await;

    let queue = TestQueue::on(&url, "rq");
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
    let before = run_job(&queue, "before").await;
    group.servers[0].replicate().await;
    group.servers[0].process.signal("KILL");
    group.servers[0].process.end().await;
    group.fail_over_soon().await;
    run_job(&queue, "after").await;
    assert!(group.servers[1].is_primary().await);
    until_finished(&queue, &before).await;
    assert_eq!(queue.log.ran().iter().filter(|name| *name == "before").count(), 1);
    eventually("the API uses the new primary", || async {
        (app.get("/health/redis", None).await.status == 200).then_some(())
    })
    .await;
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_planned_failover_of_sentinel_is_followed_before_the_old_primary_refuses_writes() {
    let group = SentinelGroup::start(1, 1).await;
    let (old, new) = (&group.servers[0], &group.servers[1]);
    let queue = TestQueue::on(&group.url(), "rq");
    let stop = CancellationToken::new();
    let work = tokio::spawn(queue.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
    run_job(&queue, "before").await;
    old.replicate().await;
    // Sentinel demotes the old primary about ten seconds after the promotion. The ACL prevents that here.
    old.command::<()>(&["ACL", "SETUSER", "default", "-slaveof", "-replicaof"]).await.unwrap();
    let finished = || async { new.command::<u64>(&["HGET", "rq:stats", "default:finished"]).await.ok() };
    let finished_before = finished().await.unwrap();
    group.sentinels[0].command::<()>(&["SENTINEL", "FAILOVER", MASTER_NAME]).await.unwrap();
    eventually("the new primary has the jobs", || async {
        if !new.is_primary().await {
            return None;
        }
        // A job that the old primary still accepts after the promotion is lost.
        let _ = queue.queue.enqueue(&task("meanwhile"), Origin::default()).await;
        (finished().await? > finished_before).then_some(())
    })
    .await;
    assert!(old.is_primary().await);
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn calls_that_wait_for_a_frozen_primary_are_repeated_on_the_new_one() {
    let group = SentinelGroup::start(2, 1).await;
    // The time limit of a command is longer than the test may take.
    let queue = client_with(&group.url(), "rq", &["--redis-timeout-ms=600000"]);
    let replicated = queue.clone().wait_for_replicas(1);
    let id = replicated.enqueue(&task("before"), Origin::default()).await.unwrap();
    queue.status(&id).await.unwrap();
    group.servers[0].process.signal("STOP");
    group.fail_over_soon().await;
    let (enqueued, frozen) = (task("meanwhile"), task("replicated"));
    let calls = async {
        tokio::join!(
            queue.status(&id),
            queue.enqueue(&enqueued, Origin::default()),
            replicated.enqueue(&frozen, Origin::default()),
        )
    };
    let answers =
        tokio::time::timeout(TEST_TIMEOUT, calls).await.expect("the calls wait for the old primary");
    answers.0.unwrap();
    for id in [answers.1.unwrap(), answers.2.unwrap()] {
        assert_eq!(queue.status(&id).await.unwrap().unwrap().state, State::Queued);
    }
}

#[tokio::test]
async fn a_cluster_is_used_from_any_node_also_after_another_node_owns_the_slot() {
    let mut cluster = Cluster::start().await;
    let urls = [
        cluster.url(),
        cluster.owner().url(),
        cluster.replica().url(),
        cluster.nodes[1].url(),
        // The first node in the URL is down.
        format!("redis-cluster://127.0.0.1:9,{}", cluster.nodes[2].address()),
    ];
    let queues: Vec<_> = urls.iter().map(|url| TestQueue::on(url, CLUSTER_PREFIX)).collect();
    let worker = &queues[1];
    let stop = CancellationToken::new();
    let work = tokio::spawn(worker.worker(steady(2)).run(stop.clone(), CancellationToken::new()));
    for queue in &queues {
        run_job(queue, "before").await;
    }
    cluster.replica().command::<()>(&["CLUSTER", "FAILOVER"]).await.unwrap();
    eventually("the replica is the owner", || async {
        let (old, new) = (cluster.owner().is_primary().await, cluster.replica().is_primary().await);
        (!old && new).then_some(())
    })
    .await;
    for queue in &queues {
        run_job(queue, "after").await;
    }
    // Kills the node that owns the slot, which is the only node in the URL of one queue. After that, the first node owns the
    // slot again.
    cluster.nodes[3].replicate().await;
    cluster.nodes[3].process.signal("KILL");
    cluster.nodes[3].process.end().await;
    cluster.fail_over_soon().await;
    for queue in &queues {
        run_job(queue, "at last").await;
    }
    stop.cancel();
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_primary_that_does_not_know_of_its_replacement_is_not_used() {
    let cluster = Cluster::start().await;
    let isolated = cluster.isolated_owner().await;
    let queue = TestQueue::on(&isolated.url(), CLUSTER_PREFIX);
    let id = eventually("a job is enqueued", || async {
        queue.queue.enqueue(&task("elsewhere"), Origin::default()).await.ok()
    })
    .await;
    let is_queued: bool = cluster.owner().command(&["HEXISTS", "{rq}:jobs", &id]).await.unwrap();
    assert!(is_queued && isolated.is_primary().await);
}

#[tokio::test]
async fn a_server_that_stores_nothing_is_refused_with_the_fix() {
    let group = SentinelGroup::start(1, 1).await;
    let database = TestDatabase::migrated().await;
    let (primary, replica, sentinel) = (&group.servers[0], &group.servers[1], &group.sentinels[0]);
    let is_sentinel = format!("stores no data: set REDIS_URL=redis+sentinel://{}/", sentinel.address());
    let is_replica = format!("set REDIS_URL to its primary {}", primary.address());
    let no_sentinel = format!("redis+sentinel://{}/{MASTER_NAME}", primary.address());
    let unknown_master = format!("redis+sentinel://{}/other", sentinel.address());
    let no_cluster = format!("redis-cluster://{}", primary.address());
    for (url, prefix, problem, is_permanent) in [
        (&sentinel.url(), "rq", is_sentinel.as_str(), true),
        (&replica.url(), "rq", is_replica.as_str(), false),
        (&unknown_master, "rq", "no master with the name \"other\"", true),
        (&no_sentinel, "rq", "is none", true),
        (&no_cluster, "{rq}", "is not in cluster mode", true),
        (&no_cluster, "rq", "set REDIS_KEY_PREFIX={rq}", true),
    ] {
        let mut doctor = production_command(&["doctor"], &database, prefix).await;
        doctor.env("REDIS_URL", url);
        let doctor = run(doctor).await;
        let line = doctor.stdout.lines().find(|line| line.starts_with("FAIL") && line.contains(problem));
        assert!(doctor.code == Some(1) && line.is_some(), "{url}: {}", doctor.stdout);
        // The worker retries if the server is a replica, because the replica may be promoted.
        if is_permanent {
            let mut worker = production_command(&["worker", "--burst"], &database, prefix).await;
            worker.env("REDIS_URL", url);
            run(worker).await.failed(1, &[problem]);
        }
    }
}

#[tokio::test]
async fn the_api_reports_a_server_that_stores_nothing() {
    let group = SentinelGroup::start(1, 1).await;
    for server in [&group.servers[1], &group.sentinels[0]] {
        let app = TestApp::with(&[&format!("--redis-url={}", server.url()), "--redis-timeout-ms=900"]).await;
        let user = app.user().await;
        assert_eq!(app.get("/health/redis", None).await.status, 503);
        let enqueued = app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
        enqueued.is_some_problem(503, "unavailable");
    }
}
