//! PostgreSQL or Redis goes away, in each of the ways in which they do, and comes back.

use std::time::{Duration, Instant};

use reqwest::Method;
use saas::{jobs::ExampleTask, queue::Origin};

use crate::support::{
    TestApp, eventually,
    proxy::{Link, Proxy},
    servers::{TestDatabase, servers},
};

/// What the contract promises. The tests allow for a busy machine on top; what they are about is that nothing
/// hangs.
const PROMISED: Duration = Duration::from_secs(3);
const BUSY: Duration = Duration::from_secs(12);
/// The settings that keep it: their defaults.
const TIMEOUTS: [&str; 2] = ["--database-timeout-ms=1400", "--redis-timeout-ms=900"];

async fn with_proxied_database() -> (Proxy, TestApp) {
    let database = TestDatabase::migrated().await;
    let (proxy, url) = Proxy::before(&database.url).await;
    let url = format!("--database-url={url}");
    let app = TestApp::on(database.into(), &[&url, "--database-pool-size=4", TIMEOUTS[0]]).await;
    (proxy, app)
}

async fn with_proxied_redis() -> (Proxy, TestApp) {
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    (proxy, TestApp::with(&[&format!("--redis-url={url}"), TIMEOUTS[1]]).await)
}

#[tokio::test]
async fn smoke_a_database_that_was_never_there() {
    let app = TestApp::with(&["--database-url=postgres://x:y@127.0.0.1:9/z", TIMEOUTS[0]]).await;
    let begun = Instant::now();
    let health = app.get("/health/db", None).await;
    assert_eq!(health.status, 503);
    assert_eq!(health.body, serde_json::json!({ "status": "unhealthy", "database": "error" }));
    assert!(begun.elapsed() < PROMISED + BUSY);
    assert!(!health.header("retry-after").is_empty());
    let login = app.login("a@example.com", "whatever it is").await;
    login.is_problem(503, "unavailable", "Database is unavailable, try again in a moment");
    assert!(!login.header("retry-after").is_empty());
    assert_eq!(app.get("/health", None).await.status, 200);
    assert_eq!(app.get("/health/ready", None).await.status, 503);
}

#[tokio::test]
async fn the_database_goes_and_comes_back() {
    for link in [Link::Cut, Link::Stalled] {
        let (proxy, app) = with_proxied_database().await;
        let user = app.user().await;
        assert_eq!(app.get("/users/me", Some(&user)).await.status, 200);
        proxy.set(link);
        // Copies are used for a moment more.
        eventually("it is away", || async {
            (app.get("/users/me", Some(&user)).await.status == 503).then_some(())
        })
        .await;
        // The first may be on its way over a connection that seemed good; none may hang.
        for _ in 0..3 {
            tokio::time::timeout(PROMISED + BUSY, async {
                app.get("/users/me", Some(&user)).await.is_some_problem(503, "unavailable");
            })
            .await
            .unwrap_or_else(|_| panic!("hangs while the link is {link:?}"));
        }
        proxy.set(Link::Up);
        eventually("the database is back", || async {
            (app.get("/users/me", Some(&user)).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_restarted_database_costs_no_more_than_a_moment() {
    let (proxy, app) = with_proxied_database().await;
    let user = app.user().await;
    proxy.set(Link::Cut);
    proxy.set(Link::Up);
    // Connections that the server has closed are seen and replaced, not handed out again and again.
    eventually("the pool is whole again", || async {
        for _ in 0..8 {
            if app.get("/users/me", Some(&user)).await.status != 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://x:y@{}/z", silent.local_addr().unwrap());
    let error = saas::db::connect(&crate::support::servers::database_settings(&url)).await.err().unwrap();
    assert!(format!("{error:#}").contains("does not answer"), "{error:#}");
}

#[tokio::test]
async fn a_query_that_nobody_waits_for_any_more_is_stopped() {
    let app = TestApp::with(&["--database-timeout-ms=300", "--database-pool-size=2"]).await;
    let sleep = async |conn: &mut diesel_async::AsyncPgConnection| {
        use diesel_async::SimpleAsyncConnection;
        Ok(conn.batch_execute("SELECT pg_sleep(3600)").await?)
    };
    for _ in 0..4 {
        let error = app.app.db.run(sleep).await.unwrap_err();
        assert_eq!(error.to_string(), "Database is unavailable");
    }
    let (client, connection) =
        tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sleeping =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'
                    AND datname = current_database()";
    eventually("the server sleeps no more", || async {
        (client.query_one(sleeping, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pool_that_is_exhausted_says_so() {
    let app = TestApp::with(&["--database-pool-size=1", TIMEOUTS[0]]).await;
    let user = app.user().await;
    let held = app.app.db.get().await.unwrap();
    // Whoever asks may be known from a copy; this is not.
    app.get("/users/me/sessions", Some(&user)).await.is_some_problem(503, "unavailable");
    drop(held);
    assert_eq!(app.get("/users/me/sessions", Some(&user)).await.status, 200);
}

#[tokio::test]
async fn without_redis_people_still_read_their_account() {
    for link in [Link::Cut, Link::Stalled] {
        let (proxy, app) = with_proxied_redis().await;
        let user = app.user().await;
        assert_eq!(app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await.status, 200);
        proxy.set(link);
        tokio::time::timeout(PROMISED + BUSY, async {
            let answer = app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
            answer.is_problem(503, "unavailable", "Redis is unavailable, try again in a moment");
            assert!(!answer.header("retry-after").is_empty());
            let health = app.get("/health/redis", None).await;
            assert_eq!(health.status, 503);
            assert_eq!(health.body, serde_json::json!({ "status": "unhealthy", "redis": "error" }));
        })
        .await
        .unwrap_or_else(|_| panic!("hangs while the link is {link:?}"));
        assert_eq!(app.get("/users/me", Some(&user)).await.status, 200);
        assert_eq!(app.login(&user.email, crate::support::app::PASSWORD).await.status, 200);
        assert_eq!(app.get("/health/ready", None).await.body["redis"], "error");
        proxy.set(Link::Up);
        eventually("Redis is back", || async {
            (app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await.status == 200)
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_makes_one_job() {
    let (proxy, app) = with_proxied_redis().await;
    assert_eq!(app.get("/health/redis", None).await.status, 200);
    proxy.lose_answer("");
    // Not over HTTP, where something else may be asked of Redis before.
    let job = ExampleTask { name: "x".into(), duration: 0 };
    app.app.queue.enqueue(&job, Origin::default()).await.unwrap();
    assert!(proxy.has_lost_it());
    proxy.set(Link::Up);
    assert_eq!(app.run_jobs().await.finished, 1);
}
