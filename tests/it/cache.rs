//! The cache in Redis, which all replicas of the API share. While Redis is unavailable, no value is cached.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use redis::AsyncCommands;
use reqwest::Method;
use saas::error::Error;

use crate::support::{
    TestApp,
    own_redis::OwnRedis,
    process::{production_command, run},
    proxy::{Link, Proxy},
    queue::connect,
    servers::{TestDatabase, servers, unique},
};

const TTL: Duration = Duration::from_secs(3_600);

/// A replica that counts how many times it loads a value.
struct Replica {
    app: TestApp,
    loads: AtomicUsize,
}

impl Replica {
    async fn on(database: Arc<TestDatabase>, flags: &[&str]) -> Self {
        Self { app: TestApp::on(database, flags).await, loads: AtomicUsize::new(0) }
    }

    async fn get(&self, key: &str) -> String {
        let load = async || Ok(format!("load {}", self.loads.fetch_add(1, Ordering::SeqCst)));
        self.app.app.cache.get_or_load(key, TTL, load).await.unwrap()
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

async fn two_replicas() -> (Replica, Replica) {
    let database = Arc::new(TestDatabase::migrated().await);
    let prefix = format!("--redis-key-prefix=c{}", unique());
    (Replica::on(database.clone(), &[&prefix]).await, Replica::on(database, &[&prefix]).await)
}

#[tokio::test]
async fn smoke_replicas_share_a_value_until_it_is_invalidated() {
    let (one, other) = two_replicas().await;
    assert_eq!((one.get("a").await, one.get("a").await, other.get("a").await), {
        let first = || "load 0".to_owned();
        (first(), first(), first())
    });
    assert_eq!((one.loads(), other.loads()), (1, 0));
    assert_eq!(other.get("b").await, "load 0", "another key");
    other.app.app.cache.invalidate("a").await;
    assert_eq!(one.get("a").await, "load 1");
}

#[tokio::test]
async fn cached_values_have_the_key_prefix_and_expire() {
    let (one, _) = two_replicas().await;
    one.get("a").await;
    let mut redis = connect(&servers().await.redis_url()).await.unwrap();
    let key = format!("{}:cache:a", one.app.app.config.redis.redis_key_prefix);
    assert_eq!(redis.get::<_, String>(&key).await.unwrap(), "\"load 0\"");
    assert!((3_500..=3_600).contains(&redis.ttl::<_, i64>(&key).await.unwrap()));
    // Values that cannot be parsed: from another program, or from a release that stores another type.
    for other in ["{", "17"] {
        let () = redis.set(&key, other).await.unwrap();
        let before = one.loads();
        one.get("a").await;
        assert_eq!(one.loads(), before + 1, "{other}");
    }
}

#[tokio::test]
async fn concurrent_calls_share_one_load_and_its_failure() {
    let (one, _) = two_replicas().await;
    let answers = join_all((0..20).map(|_| one.get("a"))).await;
    assert!(answers.iter().all(|answer| answer == "load 0"));
    let failing = async || {
        one.loads.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Err::<String, _>(Error::unavailable("Database", "away"))
    };
    let cache = &one.app.app.cache;
    let answers = join_all((0..20).map(|_| cache.get_or_load("b", TTL, failing))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Unavailable { .. }))));
    assert_eq!(one.loads(), 2);
    assert_eq!(one.get("b").await, "load 2", "a failure is not cached");
}

#[tokio::test]
async fn no_value_is_cached_while_redis_is_unavailable() {
    let database = Arc::new(TestDatabase::migrated().await);
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    let one = Replica::on(database, &[&format!("--redis-url={url}"), "--redis-timeout-ms=900"]).await;
    for link in [Link::Cut, Link::Stalled] {
        proxy.set(link);
        let before = one.loads();
        one.get("a").await;
        one.get("a").await;
        one.app.app.cache.invalidate("a").await;
        assert_eq!(one.loads(), before + 2, "{link:?}");
    }
}

#[tokio::test]
async fn the_cache_may_use_a_separate_redis_server_that_evicts_keys() {
    let database = Arc::new(TestDatabase::migrated().await);
    let mut redis = OwnRedis::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let one = Replica::on(database.clone(), &[&format!("--cache-redis-url={}", redis.url())]).await;
    let (app, prefix) = (&one.app, &one.app.prefix);
    assert_eq!((one.get("a").await, one.get("a").await), ("load 0".to_owned(), "load 0".to_owned()));
    let user = app.user().await;
    app.login(&user.email, "wrong password").await;
    let enqueue = async || app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await.status;
    assert_eq!(enqueue().await, 200);
    let there: Vec<String> = redis.command(&["KEYS", "*"]).await.unwrap();
    let is_value = |key: &String| key.starts_with(&format!("{prefix}:cache:"));
    assert!(there.contains(&format!("{prefix}:cache:a")) && there.iter().all(is_value), "{there:?}");
    let mut main = connect(&servers().await.redis_url()).await.unwrap();
    let here: Vec<String> = main.keys(format!("{prefix}:*")).await.unwrap();
    for part in ["jobs", "throttle:"] {
        assert!(here.iter().any(|key| key.starts_with(&format!("{prefix}:{part}"))), "{part} in {here:?}");
    }
    assert!(!here.iter().any(is_value), "{here:?}");

    let url = redis.url();
    let doctor = async || {
        let mut command = production_command(&["doctor"], &database, prefix).await;
        command.env("CACHE_REDIS_URL", &url);
        run(command).await
    };
    let healthy = doctor().await.succeeded().stdout;
    assert!(healthy.contains("ok    cache") && !healthy.contains("allkeys-lru"), "{healthy}");
    redis.kill().await;
    assert_eq!((one.get("a").await, one.get("a").await), ("load 1".to_owned(), "load 2".to_owned()));
    assert_eq!(enqueue().await, 200, "the jobs are on the other server");
    let broken = doctor().await;
    let line = broken.stdout.lines().find(|line| line.starts_with("FAIL  cache")).unwrap_or_default();
    assert!(broken.code == Some(1) && line.contains("check CACHE_REDIS_URL"), "{broken:?}");
    assert!(broken.stdout.contains("ok    redis"), "{broken:?}");
}

#[tokio::test]
async fn the_number_of_users_is_cached_until_an_operation_changes_it() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    // The total is at least the number of users on the page, so the limit is 1.
    let total = async || app.get("/users?limit=1", Some(&admin)).await.body["total"].as_i64().unwrap();
    assert_eq!(total().await, 1);
    app.database.sql("INSERT INTO users (email) VALUES ('unseen@example.com')").await;
    assert_eq!(total().await, 1, "a change by SQL is visible when the value expires");
    let user = app.user().await;
    assert_eq!(total().await, 3);
    assert_eq!(
        app.post("/users", Some(&admin), serde_json::json!({ "email": "i@example.com" })).await.status,
        201
    );
    assert_eq!(total().await, 4);
    app.call(Method::DELETE, &format!("/users/{}", user.id), &admin).await;
    assert_eq!(total().await, 3);
}
