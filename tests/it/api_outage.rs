//! Outages of PostgreSQL and Redis, and the recovery from them.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use saas::{jobs::ExampleTask, queue::Origin};

use crate::support::{
    TestApp, eventually,
    proxy::{Link, Proxy},
    servers::{TestDatabase, servers},
};

/// Time limit of the responses that a test awaits during an outage. The tests add [`SLOW_MACHINE_ALLOWANCE`], because they
/// check only that no request hangs.
const MAX_RESPONSE_TIME: Duration = Duration::from_secs(3);
const SLOW_MACHINE_ALLOWANCE: Duration = Duration::from_secs(12);
/// The default time limits for PostgreSQL and Redis. [`TestApp`] uses longer ones unless a test sets them.
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
async fn smoke_an_unreachable_database_is_answered_with_503() {
    let app = TestApp::with(&["--database-url=postgres://x:y@127.0.0.1:9/z", TIMEOUTS[0]]).await;
    let begun = Instant::now();
    let health = app.get("/health/db", None).await;
    assert_eq!(health.status, 503);
    assert_eq!(health.body, serde_json::json!({ "status": "unhealthy", "database": "error" }));
    assert!(begun.elapsed() < MAX_RESPONSE_TIME + SLOW_MACHINE_ALLOWANCE);
    assert!(!health.header("retry-after").is_empty());
    let login = app.login("a@example.com", "whatever it is").await;
    login.is_problem(503, "unavailable", "Database is unavailable, try again in a moment");
    assert!(!login.header("retry-after").is_empty());
    assert_eq!(app.get("/health", None).await.status, 200);
    assert_eq!(app.get("/health/ready", None).await.status, 503);
}

#[tokio::test]
async fn requests_recover_after_a_database_outage() {
    for link in [Link::Cut, Link::Stalled] {
        let (proxy, app) = with_proxied_database().await;
        let user = app.user().await;
        assert_eq!(app.get("/users/me", Some(&user)).await.status, 200);
        proxy.set(link);
        // The server may answer from copies of the user and the session for up to 100 ms.
        eventually("requests fail", || async {
            (app.get("/users/me", Some(&user)).await.status == 503).then_some(())
        })
        .await;
        // The pool may return a connection that is broken but seems usable. The request must then fail, not hang.
        for _ in 0..3 {
            tokio::time::timeout(MAX_RESPONSE_TIME + SLOW_MACHINE_ALLOWANCE, async {
                app.get("/users/me", Some(&user)).await.is_some_problem(503, "unavailable");
            })
            .await
            .unwrap_or_else(|_| panic!("a request hangs while the link is {link:?}"));
        }
        proxy.set(Link::Up);
        eventually("requests succeed again", || async {
            (app.get("/users/me", Some(&user)).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_pool_recovers_after_a_database_restart() {
    let (proxy, app) = with_proxied_database().await;
    let user = app.user().await;
    proxy.set(Link::Cut);
    proxy.set(Link::Up);
    // A request may fail until the pool has replaced the closed connections.
    eventually("all connections are usable", || async {
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
async fn connecting_to_an_unresponsive_server_times_out() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://x:y@{}/z", silent.local_addr().unwrap());
    let error = saas::db::connect(&crate::support::servers::database_settings(&url)).await.err().unwrap();
    assert!(format!("{error:#}").contains("no answer within 5.0 seconds"), "{error:#}");
}

#[tokio::test]
async fn a_query_that_times_out_is_canceled_on_the_server() {
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
    eventually("the server runs no such query", || async {
        (client.query_one(sleeping, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_exhausted_pool_is_answered_with_503() {
    let app = TestApp::with(&["--database-pool-size=1", TIMEOUTS[0]]).await;
    let user = app.user().await;
    let held = app.app.db.get().await.unwrap();
    // `/users/me` may be answered from a copy. The list of sessions is always queried.
    app.get("/users/me/sessions", Some(&user)).await.is_some_problem(503, "unavailable");
    drop(held);
    assert_eq!(app.get("/users/me/sessions", Some(&user)).await.status, 200);
}

#[tokio::test]
async fn without_redis_users_can_sign_in_but_not_enqueue_jobs() {
    for link in [Link::Cut, Link::Stalled] {
        let (proxy, app) = with_proxied_redis().await;
        let user = app.user().await;
        assert_eq!(app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await.status, 200);
        proxy.set(link);
        tokio::time::timeout(MAX_RESPONSE_TIME + SLOW_MACHINE_ALLOWANCE, async {
            let answer = app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await;
            answer.is_problem(503, "unavailable", "Redis is unavailable, try again in a moment");
            assert!(!answer.header("retry-after").is_empty());
            let health = app.get("/health/redis", None).await;
            assert_eq!(health.status, 503);
            assert_eq!(health.body, serde_json::json!({ "status": "unhealthy", "redis": "error" }));
        })
        .await
        .unwrap_or_else(|_| panic!("a request hangs while the link is {link:?}"));
        assert_eq!(app.get("/users/me", Some(&user)).await.status, 200);
        assert_eq!(app.login(&user.email, crate::support::app::PASSWORD).await.status, 200);
        let begun = Instant::now();
        let ready = app.get("/health/ready", None).await;
        assert_eq!((ready.status.as_u16(), &ready.body["status"]), (200, &"healthy".into()));
        assert_eq!(ready.body["redis"], "degraded");
        assert!(begun.elapsed() < MAX_RESPONSE_TIME + SLOW_MACHINE_ALLOWANCE);
        proxy.set(Link::Up);
        eventually("enqueuing succeeds again", || async {
            (app.call(Method::POST, "/jobs/example?name=x&duration=0", &user).await.status == 200)
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn no_command_fails_after_redis_connections_were_closed() {
    let (proxy, app) = with_proxied_redis().await;
    let redis = &app.app.redis;
    // Concurrent commands make the pool open several connections.
    for result in join_all((0..64).map(|_| redis.ping())).await {
        result.unwrap();
    }
    proxy.set(Link::Cut);
    tokio::time::sleep(Duration::from_millis(50)).await;
    proxy.set(Link::Up);
    for _ in 0..4 {
        redis.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_response_of_redis_does_not_enqueue_a_job_twice() {
    let (proxy, app) = with_proxied_redis().await;
    assert_eq!(app.get("/health/redis", None).await.status, 200);
    proxy.lose_answer("");
    // Enqueues without HTTP. A request could send another command to Redis first, and the response to that command
    // would be lost.
    let job = ExampleTask { name: "x".into(), duration: 0 };
    app.app.queue.enqueue(&job, Origin::default()).await.unwrap();
    assert!(proxy.has_lost_answer());
    proxy.set(Link::Up);
    assert_eq!(app.run_jobs().await.finished, 1);
}
