//! A failover from a failed primary to a standby: failed requests, the length of the outage, and lost data.

use std::time::Instant;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    TestApp, User,
    app::PASSWORD,
    eventually,
    postgres_pair::PostgresPair,
    process::{production_command, run},
    proxy::Proxy,
    records::column_at,
    servers::{TestDatabase, unique},
};

/// The default `DATABASE_TIMEOUT_MS`, and no cached identities, so that each request reads the database.
const SETTINGS: [&str; 2] = ["--database-timeout-ms=1400", "--identity-cache-ms=0"];
/// The default `DATABASE_POOL_SIZE`.
const POOL_SIZE: usize = 10;

async fn app_on(url: &str) -> TestApp {
    TestApp::with(&[&[&*format!("--database-url={url}")], &SETTINGS[..]].concat()).await
}

async fn sign_up(app: &TestApp) -> User {
    let email = format!("failover{}@example.com", unique());
    let made = app.post("/auth/register", None, json!({ "email": email, "password": PASSWORD })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    User::signed_in(made.body["id"].as_i64().unwrap(), &email, &app.login(&email, PASSWORD).await)
}

async fn status_of_me(app: &TestApp, user: &User) -> u16 {
    app.get("/users/me", Some(user)).await.status.as_u16()
}

/// Opens all connections of the pool.
async fn fill_pool(app: &TestApp) {
    for conn in join_all((0..POOL_SIZE).map(|_| app.app.db.get())).await {
        conn.unwrap();
    }
}

/// Prints a measured row for the table in docs/scaling.md.
fn print_row(fault: &str, outage: &str, lost: usize) {
    println!("| {fault} | {outage} | {lost} |");
}

#[tokio::test]
async fn a_killed_primary_is_replaced_by_the_promoted_standby() {
    let mut pair = PostgresPair::start().await;
    let app = app_on(&pair.url()).await;
    let (user, revoked) = (sign_up(&app).await, sign_up(&app).await);
    assert_eq!(app.call(Method::POST, "/auth/logout", &revoked).await.status, 204);
    fill_pool(&app).await;
    pair.until_replicated().await;

    pair.primary.kill().await;
    // The standby accepts connections, but no writes. So the application does not use it, not even for reads.
    assert_eq!((status_of_me(&app, &user).await, status_of_me(&app, &revoked).await), (503, 503));
    assert_eq!(app.get("/health/ready", None).await.status, 503);
    app.login(&user.email, PASSWORD).await.is_some_problem(503, "unavailable");

    pair.promote().await;
    let promoted = Instant::now();
    eventually("requests succeed again", || async {
        let status = status_of_me(&app, &revoked).await;
        assert!([401, 503].contains(&status), "a revoked session is honored: {status}");
        (status_of_me(&app, &user).await == 200).then_some(())
    })
    .await;
    let outage = format!("until {:.1} s after the promotion", promoted.elapsed().as_secs_f64());
    assert_eq!(status_of_me(&app, &revoked).await, 401);
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    assert_eq!(app.get("/health/ready", None).await.status, 200);
    let found = column_at(&pair.standby.url(), "SELECT id FROM users").await.unwrap();
    let lost = [&user, &revoked].iter().filter(|user| !found.contains(&user.id.to_string())).count();
    print_row("primary killed, standby promoted", &outage, lost);
    assert_eq!(lost, 0);
}

#[tokio::test]
async fn a_frozen_primary_fails_few_requests_after_the_standby_is_promoted() {
    let mut pair = PostgresPair::start().await;
    let app = app_on(&pair.url()).await;
    let user = sign_up(&app).await;
    fill_pool(&app).await;
    pair.until_replicated().await;

    pair.primary.freeze().await;
    pair.promote().await;
    let promoted = Instant::now();
    // Only the first requests fail: fewer than half of the number of pooled connections.
    let mut failed = 0;
    loop {
        let status = status_of_me(&app, &user).await;
        if status == 200 {
            break;
        }
        failed += 1;
        assert!(status == 503 && failed < POOL_SIZE / 2, "{status} after {failed} failed requests");
    }
    print_row(
        "primary frozen, standby promoted",
        &format!("{failed} requests in turn, {:.1} s", promoted.elapsed().as_secs_f64()),
        0,
    );
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    // A new process tries the frozen server first.
    let other = app_on(&pair.url()).await;
    eventually("a new process uses the other server", || async {
        (other.login(&user.email, PASSWORD).await.status == 200).then_some(())
    })
    .await;
    let mut status = production_command(&["migrate", "status"], &TestDatabase::empty().await, "p").await;
    status.env("DATABASE_URL", pair.url());
    run(status).await.succeeded();
}

#[tokio::test]
async fn a_standby_is_refused_and_left_as_soon_as_the_primary_can_be_reached() {
    let pair = PostgresPair::start().await;
    let user = sign_up(&app_on(&pair.primary.url()).await).await;
    pair.until_replicated().await;

    let database = TestDatabase::empty().await;
    for (query, words) in [
        ("", ["FAIL  database", "does not accept writes", "Name the primary in DATABASE_URL"]),
        (
            "?target_session_attrs=any",
            ["FAIL  database", "it is a standby or read-only", "Name the primary in DATABASE_URL"],
        ),
    ] {
        let mut doctor = production_command(&["doctor"], &database, "p").await;
        doctor.env("DATABASE_URL", format!("{}{query}", pair.standby.url()));
        let found = run(doctor).await;
        let has_all = words.iter().all(|word| found.stdout.contains(word));
        assert!(found.code == Some(1) && has_all, "{query}: {found:?}");
    }

    // The host name first leads to the standby, and then to the primary. Open connections stay open.
    let (proxy, url) = Proxy::before(&pair.standby.url()).await;
    let strict = app_on(&url).await;
    let lenient = app_on(&format!("{url}?target_session_attrs=any")).await;
    for app in [&strict, &lenient] {
        app.login(&user.email, PASSWORD).await.is_some_problem(503, "unavailable");
        let ready = app.get("/health/ready", None).await;
        assert_eq!((ready.status.as_u16(), &ready.body["database"]), (503, &json!("error")));
    }
    fill_pool(&lenient).await;
    proxy.repoint(pair.primary.address());
    // The first write that the standby refuses makes the pool discard all open connections.
    assert_unavailable_once(&lenient, &user).await;
    eventually("the primary is used", || async {
        (strict.login(&user.email, PASSWORD).await.status == 200).then_some(())
    })
    .await;
    for app in [&strict, &lenient] {
        assert_eq!(status_of_me(app, &user).await, 200);
        assert_eq!(app.get("/health/ready", None).await.status, 200);
    }
    print_row("name of the server led to the standby, then to the primary", "1 request of each process", 0);
}

async fn assert_unavailable_once(app: &TestApp, user: &User) {
    app.login(&user.email, PASSWORD).await.is_some_problem(503, "unavailable");
    for _ in 0..POOL_SIZE {
        assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    }
}
