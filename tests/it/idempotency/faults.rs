//! Equal requests at the same time, interrupted requests, and outages.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::future::join_all;
use reqwest::Client;
use tokio_postgres::NoTls;

use super::*;
use crate::support::{
    eventually,
    process::{production_command, start_server},
    proxy::{Link, Proxy},
    servers::{TestDatabase, servers, unique},
};

/// Counts the locks that requests hold for their idempotency keys.
const HELD_KEYS: &str = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
     WHERE locktype = 'advisory' AND datname = current_database()";

/// A transaction that locks the rows of all users until it is dropped. A request with an idempotency key waits for the row
/// of its caller while it holds the lock of its key.
struct HeldUsers {
    _client: tokio_postgres::Client,
}

impl HeldUsers {
    async fn lock(database: &TestDatabase) -> Self {
        let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN; SELECT id FROM users FOR UPDATE").await.unwrap();
        Self { _client: client }
    }
}

/// Waits until requests hold the locks of this number of idempotency keys.
async fn wait_for_held_keys(database: &TestDatabase, count: &str) {
    eventually(&format!("{count} keys are held"), || async {
        (column(database, HELD_KEYS).await == [count]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn fifty_equal_invitations_at_once_have_one_effect() {
    let here = TestApp::start().await;
    let there = TestApp::on(here.database.clone(), &[]).await;
    let admin = here.admin().await;
    let apps = [&here, &there];
    let answers = join_all((0..50).map(|n| apps[n % 2].invite_once(&admin, "k", bob()))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    let first: Vec<_> = made.iter().filter(|answer| answer.header(REPLAYED).is_empty()).collect();
    assert_eq!(first.len(), 1, "{answers:#?}");
    for answer in made.iter().filter(|answer| !answer.header(REPLAYED).is_empty()) {
        assert_replay(answer, first[0]);
    }
    for answer in refused {
        answer.is_some_problem(409, "idempotency_key_in_use");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_replay(&there.invite_once(&admin, "k", bob()).await, first[0]);
    assert_eq!(here.count_bobs().await, "1");
    assert_eq!(here.mails().await.len(), 1);
}

#[tokio::test]
async fn fifty_equal_jobs_at_once_are_one_job() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let answers = join_all((0..50).map(|_| app.enqueue_once(&user, "k"))).await;
    let made = answers.iter().filter(|answer| answer.status == 200);
    let ids: BTreeSet<_> = made.map(|answer| answer.body["job_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1, "{answers:#?}");
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.is_some_problem(409, "idempotency_key_in_use");
    }
    let (id, finished) = (ids.first().unwrap(), AtomicU64::new(0));
    eventually("the job has finished", || async {
        finished.fetch_add(app.run_jobs().await.finished, Ordering::Relaxed);
        (app.status(id, &user).await["status"] == "finished").then_some(())
    })
    .await;
    finished.fetch_add(app.run_jobs().await.finished, Ordering::Relaxed);
    assert_eq!(finished.into_inner(), 1);
}

#[tokio::test]
async fn a_request_does_not_wait_for_an_equal_one() {
    let here = Arc::new(TestApp::start().await);
    let there = TestApp::on(here.database.clone(), &[]).await;
    let admin = here.admin().await;
    let users = HeldUsers::lock(&here.database).await;
    let (app, caller) = (here.clone(), admin.clone());
    let first = tokio::spawn(async move { app.invite_once(&caller, "k", bob()).await });
    wait_for_held_keys(&here.database, "1").await;
    // The application that runs the first request and another replica both refuse the equal request.
    for app in [&*here, &there] {
        let refused = app.invite_once(&admin, "k", bob()).await;
        refused.is_some_problem(409, "idempotency_key_in_use");
        assert_eq!(refused.header("retry-after"), "1");
    }
    drop(users);
    let first = first.await.unwrap();
    assert_eq!(first.status, 201, "{}", first.text);
    assert_replay(&there.invite_once(&admin, "k", bob()).await, &first);
}

#[tokio::test]
async fn a_request_whose_client_disconnects_can_be_repeated() {
    let app = Arc::new(TestApp::start().await);
    let admin = app.admin().await;
    let users = HeldUsers::lock(&app.database).await;
    let (other, caller) = (app.clone(), admin.clone());
    let request = tokio::spawn(async move { other.invite_once(&caller, "k", bob()).await });
    wait_for_held_keys(&app.database, "1").await;
    request.abort();
    wait_for_held_keys(&app.database, "0").await;
    drop(users);
    assert_eq!((&*app.count_stored_answers().await, &*app.count_bobs().await), ("0", "0"));
    let made = app.invite_once(&admin, "k", bob()).await;
    assert_eq!((made.status.as_u16(), made.header(REPLAYED)), (201, ""), "{}", made.text);
}

#[tokio::test]
async fn a_request_whose_process_is_killed_can_be_repeated() {
    let (database, prefix) = (TestDatabase::migrated().await, format!("i{}", unique()));
    let start = async || {
        let mut command = production_command(&["serve", "--port", "0"], &database, &prefix).await;
        command.env("DATABASE_TIMEOUT_MS", "20000");
        let (process, address) = start_server(command).await;
        (process, format!("http://{address}/api/v1"))
    };
    let client = Client::new();
    let (mut killed, url) = start().await;
    let form = [("username", "admin@example.com"), ("password", "a password of ours")];
    let login = Answer::of(client.post(format!("{url}/auth/login")).form(&form)).await;
    let token = login.body["access_token"].as_str().unwrap().to_owned();
    let invite =
        |url: &str| client.post(format!("{url}/users")).bearer_auth(&token).header(KEY, "k").json(&bob());
    let users = HeldUsers::lock(&database).await;
    let request = tokio::spawn(invite(&url).send());
    wait_for_held_keys(&database, "1").await;
    killed.signal("KILL");
    killed.end().await;
    assert!(request.await.unwrap().is_err());
    drop(users);
    wait_for_held_keys(&database, "0").await;
    let (_process, url) = start().await;
    let made = Answer::of(invite(&url)).await;
    assert_eq!((made.status.as_u16(), made.header(REPLAYED)), (201, ""), "{}", made.text);
    assert_replay(&Answer::of(invite(&url)).await, &made);
    let bobs = format!("SELECT count(*) FROM users WHERE email = '{BOB}'");
    assert_eq!(column(&database, &bobs).await, ["1"]);
}

#[tokio::test]
async fn a_request_whose_commit_reply_was_lost_is_replayed() {
    let database = TestDatabase::migrated().await;
    let (proxy, url) = Proxy::before(&database.url).await;
    let app = TestApp::on(database.into(), &[&format!("--database-url={url}")]).await;
    let admin = app.admin().await;
    proxy.lose_answer("COMMIT");
    app.invite_once(&admin, "k", bob()).await.is_some_problem(503, "unavailable");
    assert!(proxy.has_lost_answer());
    let again = eventually("the database is reachable again", || async {
        let answer = app.invite_once(&admin, "k", bob()).await;
        (answer.status == 201).then_some(answer)
    })
    .await;
    assert_eq!((again.header(REPLAYED), &again.body["email"]), ("true", &json!(BOB)));
    assert_eq!(app.count_bobs().await, "1");
}

#[tokio::test]
async fn a_request_with_a_key_fails_without_the_database_or_redis_and_can_be_repeated() {
    let database = TestDatabase::migrated().await;
    let (postgres, database_url) = Proxy::before(&database.url).await;
    let (redis, redis_url) = Proxy::before(&servers().await.redis_url()).await;
    let app = TestApp::on(
        database.into(),
        &[
            &format!("--database-url={database_url}"),
            &format!("--redis-url={redis_url}"),
            "--database-timeout-ms=1400",
            "--redis-timeout-ms=900",
            "--identity-cache-ms=60000",
        ],
    )
    .await;
    let user = app.user().await;
    assert_eq!(app.enqueue_once(&user, "before").await.status, 200);
    for proxy in [&postgres, &redis] {
        proxy.set(Link::Cut);
        let refused = app.enqueue_once(&user, "k").await;
        refused.is_some_problem(503, "unavailable");
        assert!(!refused.header("retry-after").is_empty());
        proxy.set(Link::Up);
    }
    assert_eq!(app.count_stored_answers().await, "1");
    let made = eventually("both are reachable again", || async {
        let answer = app.enqueue_once(&user, "k").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(made.header(REPLAYED), "");
    assert_replay(&app.enqueue_once(&user, "k").await, &made);
}
