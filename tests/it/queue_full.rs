//! The queue while Redis is full.

use saas::{
    dev::{Purpose, Server, test_dir},
    queue::{Origin, State},
};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::support::{
    eventually,
    own_redis::OwnRedis,
    queue::{Behavior, Task, TestQueue, steady},
};

#[tokio::test]
async fn a_full_redis_rejects_new_jobs_and_drains() {
    let dir = test_dir().unwrap();
    let server = Server::redis(&dir, Purpose::Test).await.unwrap();
    let queue = TestQueue::at(server.url.expose_secret()).await;
    let client = redis::Client::open(server.url.expose_secret()).unwrap();
    let mut conn = client.get_multiplexed_async_connection().await.unwrap();
    let ids: Vec<_> =
        futures_util::future::join_all((0..20).map(|_| queue.push("x", Behavior::Succeed))).await;
    let set = |bytes: &'static str| redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).to_owned();
    set("1mb").query_async::<()>(&mut conn).await.unwrap();
    let task = Task { name: "one too many".into(), behavior: Behavior::Succeed };
    let error = queue.queue.enqueue(&task, Origin::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "Redis is unavailable");
    assert_eq!(queue.drain().await.finished, 20);
    for id in &ids {
        assert_eq!(queue.status(id).await.state, State::Finished);
    }
    set("0").query_async::<()>(&mut conn).await.unwrap();
    queue.push("again", Behavior::Succeed).await;
    assert_eq!(queue.drain().await.finished, 1);
    server.stop().await;
}

/// The outcomes of these jobs are larger than their envelopes, so Redis is still full after the jobs have run.
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

/// A worker whose Redis user may not run INFO learns from a refused command that Redis is full.
#[tokio::test]
async fn while_redis_is_full_states_of_ended_jobs_are_deleted_if_no_results_are_left() {
    for may_run_info in [true, false] {
        let redis = OwnRedis::start(&[]).await;
        let queue = redis.queue();
        queue.push("one", Behavior::Succeed).await;
        queue.drain().await;
        let buckets: Vec<String> = queue.redis(&["ZRANGE", "{}:ended", "0", "-1"]).await;
        for n in 0..3_000 {
            queue.redis::<u32>(&["HSET", &buckets[0], &format!("ended {n}"), "f"]).await;
        }
        let outcomes: Vec<String> = queue.redis(&["ZRANGE", "{}:done", "0", "-1"]).await;
        queue.redis::<u32>(&["DEL", "{}:done", &outcomes[0]]).await;
        let permission = if may_run_info { "+info" } else { "-info" };
        redis.command::<()>(&["ACL", "SETUSER", "default", permission]).await.unwrap();
        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
        // Redis stays above the limit, so the worker deletes all states.
        queue.drain().await;
        assert!(!queue.redis::<bool>(&["EXISTS", "{}:ended"]).await, "{permission}");
        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
        let id = queue.push("two", Behavior::Succeed).await;
        queue.drain_until(&id, State::Finished).await;
    }
}
