//! The last use of sessions: the process collects uses, and writes them in batches.

use reqwest::Client;
use saas::{security::TokenSubject, services::session_uses::flush};
use serde_json::Value;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::support::{
    TestApp, User, eventually,
    process::{Running, production_command, start_server},
    proxy::{Link, Proxy},
    records::column,
    servers::{TestDatabase, unique},
};

/// Inserts sessions of a user into the database, each with a last use an hour ago. Returns the ids of the sessions.
async fn insert_sessions(app: &TestApp, user: &User, count: usize) -> Vec<Uuid> {
    let insert = format!(
        "INSERT INTO sessions (id, user_id, last_seen_at, expires_at)
         SELECT gen_random_uuid(), {}, now() - interval '1 hour', now() + interval '60 days'
         FROM generate_series(1, {count}) RETURNING id",
        user.id
    );
    column(&app.database, &insert).await.iter().map(|id| id.parse().unwrap()).collect()
}

fn with_session(app: &TestApp, user: &User, session_id: Uuid) -> User {
    let (token, _) = app.app.tokens.issue(TokenSubject { user_id: user.id, session_id }).unwrap();
    User { token, ..user.clone() }
}

/// Returns the id, the row version (`ctid`) and the last use of each session. Every update of a row changes its version.
async fn versions(app: &TestApp) -> Vec<String> {
    column(&app.database, "SELECT id || ' ' || ctid || ' ' || last_seen_at FROM sessions ORDER BY id").await
}

/// Returns whether the database has a use of the session within the last four minutes.
async fn is_written(database: &TestDatabase, id: Uuid) -> bool {
    let sql = format!(
        "SELECT last_seen_at BETWEEN now() - interval '4 minutes' AND now() FROM sessions WHERE id = '{id}'"
    );
    column(database, &sql).await == ["t"]
}

/// Returns the ids of the sessions whose use is not written yet, sorted.
fn pending_sessions(app: &TestApp) -> Vec<Uuid> {
    let mut ids: Vec<_> = app.app.session_uses.all().into_iter().map(|(id, _)| id).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn smoke_requests_write_no_session_and_a_flush_writes_all() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let ids = insert_sessions(&app, &user, 1_100).await;
    let before = versions(&app).await;
    for id in &ids[..20] {
        let user = with_session(&app, &user, *id);
        assert!(app.is_signed_in(&user).await && app.is_signed_in(&user).await);
    }
    ids[20..].iter().for_each(|id| app.app.session_uses.record(*id));
    assert_eq!(versions(&app).await, before, "no request writes");
    flush(&app.app).await.unwrap();
    let written = "FROM sessions WHERE last_seen_at BETWEEN now() - interval '4 minutes' AND now()";
    assert_eq!(column(&app.database, &format!("SELECT count(*) {written}")).await, ["1101"]);
    let transactions = format!("SELECT count(DISTINCT xmin::text) {written}");
    assert_eq!(column(&app.database, &transactions).await, ["3"], "the login and two statements");
    assert!(pending_sessions(&app).is_empty());

    let after = versions(&app).await;
    ids.iter().for_each(|id| app.app.session_uses.record(*id));
    flush(&app.app).await.unwrap();
    assert_eq!(versions(&app).await, after, "not due again");
}

#[tokio::test]
async fn a_flush_writes_only_active_sessions_and_only_later_uses() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let cases = [
        ("UPDATE sessions SET user_agent = 'x' WHERE id =", true),
        ("UPDATE sessions SET last_seen_at = now() - interval '29 days' WHERE id =", true),
        ("UPDATE sessions SET last_seen_at = now() - interval '4 minutes' WHERE id =", false),
        ("UPDATE sessions SET last_seen_at = now() + interval '1 hour' WHERE id =", false),
        ("UPDATE sessions SET last_seen_at = now() - interval '31 days' WHERE id =", false),
        ("UPDATE sessions SET revoked_at = now() WHERE id =", false),
        ("UPDATE sessions SET expires_at = now() - interval '1 hour' WHERE id =", false),
        ("DELETE FROM sessions WHERE id =", false),
    ];
    let ids = insert_sessions(&app, &user, cases.len()).await;
    for (id, (change, _)) in ids.iter().zip(cases) {
        app.app.session_uses.record(*id);
        app.sql(&format!("{change} '{id}'")).await;
    }
    let before = versions(&app).await;
    flush(&app.app).await.unwrap();
    let after = versions(&app).await;
    for (id, (change, expected)) in ids.iter().zip(cases) {
        let version = |all: &[String]| all.iter().find(|row| row.starts_with(&id.to_string())).cloned();
        assert_eq!(version(&before) != version(&after), expected, "{change}");
        assert!(!expected || is_written(&app.database, *id).await, "{change}");
    }
    assert!(pending_sessions(&app).is_empty());
}

#[tokio::test]
async fn a_locked_session_stays_pending_and_a_revoked_one_is_not_written() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let mut ids = insert_sessions(&app, &user, 3).await;
    ids.sort();
    let [locked, revoked, free] = ids[..] else { panic!("{ids:?}") };
    ids.iter().for_each(|id| app.app.session_uses.record(*id));
    let (other, connection) = tokio_postgres::connect(&app.database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let begin = format!(
        "BEGIN; SELECT FROM sessions WHERE id = '{locked}' FOR UPDATE;
         UPDATE sessions SET revoked_at = now() WHERE id = '{revoked}'"
    );
    other.batch_execute(&begin).await.unwrap();
    flush(&app.app).await.unwrap();
    assert!(is_written(&app.database, free).await);
    assert!(!is_written(&app.database, locked).await && !is_written(&app.database, revoked).await);
    assert_eq!(pending_sessions(&app), [locked, revoked]);

    other.batch_execute("COMMIT").await.unwrap();
    flush(&app.app).await.unwrap();
    assert!(is_written(&app.database, locked).await && !is_written(&app.database, revoked).await);
    assert!(pending_sessions(&app).is_empty());
}

#[tokio::test]
async fn a_failed_flush_is_repeated() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let ids = insert_sessions(&app, &user, 3).await;
    let (proxy, url) = Proxy::before(&app.database.url).await;
    let url = format!("--database-url={url}");
    let replica = TestApp::on(app.database.clone(), &[&url, "--database-timeout-ms=500"]).await;
    proxy.set(Link::Cut);
    ids.iter().for_each(|id| replica.app.session_uses.record(*id));
    flush(&replica.app).await.unwrap_err();
    assert_eq!(pending_sessions(&replica).len(), 3);
    proxy.set(Link::Up);
    eventually("the uses are written", || async { flush(&replica.app).await.ok() }).await;
    for id in ids {
        assert!(is_written(&app.database, id).await);
    }
    assert!(pending_sessions(&replica).is_empty());
}

/// Without an immediate write, the session could expire on another replica before the next flush.
#[tokio::test]
async fn the_use_of_a_session_that_is_almost_idle_is_written_once_and_at_once() {
    // The cache time is longer than the test.
    let app = TestApp::with(&["--identity-cache-ms=60000"]).await;
    let user = app.user().await;
    let ids = insert_sessions(&app, &user, 2).await;
    for (id, left, expected) in [(ids[0], "1 hour", false), (ids[1], "55 seconds", true)] {
        let idle = format!("last_seen_at = now() - 30 * interval '24 hours' + interval '{left}'");
        app.sql(&format!("UPDATE sessions SET {idle} WHERE id = '{id}'")).await;
        assert!(app.is_signed_in(&with_session(&app, &user, id)).await);
        assert_eq!(is_written(&app.database, id).await, expected, "{left}");
    }
    assert_eq!(pending_sessions(&app), [ids[0]], "no flush writes it again");
    // The write has discarded the cached sessions, and `app.sql` discards them too. So the next request reads the session
    // from the database, and sees that it is revoked.
    app.sql(&format!("UPDATE sessions SET revoked_at = now() WHERE id = '{}'", ids[1])).await;
    assert!(!app.is_signed_in(&with_session(&app, &user, ids[1])).await);
}

#[tokio::test]
async fn the_list_of_sessions_shows_uses_that_are_not_written_yet() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let elsewhere = app.signed_in_again(&user).await;
    let age = async |hours: u32, order: &str| {
        let one = format!("(SELECT id FROM sessions ORDER BY created_at {order} LIMIT 1)");
        let seen = format!("last_seen_at = now() - {hours} * interval '1 hour'");
        app.sql(&format!("UPDATE sessions SET {seen} WHERE id = {one}")).await;
    };
    age(2, "ASC").await;
    age(1, "DESC").await;
    let before = versions(&app).await;
    let list = app.get("/users/me/sessions", Some(&user)).await;
    assert_eq!(list.body[0]["current"], true, "{}", list.text);
    let both = app.get("/users/me/sessions", Some(&elsewhere)).await;
    assert_eq!(both.body[0]["current"], true, "{}", both.text);
    assert_eq!(versions(&app).await, before);
    let seen =
        |n: usize| both.body[n]["last_seen_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>();
    let apart = seen(0).unwrap() - seen(1).unwrap();
    assert!(apart < chrono::Duration::minutes(5), "{}", both.text);
}

/// Starts `saas serve` without cached identities, so that each request reads the session from the database.
async fn serve(database: &TestDatabase) -> (Running, String) {
    let prefix = format!("u{}", unique());
    let mut command = production_command(&["serve", "--port", "0"], database, &prefix).await;
    command.env("IDENTITY_CACHE_MS", "0");
    let (server, address) = start_server(command).await;
    (server, format!("http://{address}/api/v1"))
}

async fn sign_in(url: &str) -> (String, Uuid) {
    let form = [("username", "admin@example.com"), ("password", "a password of ours")];
    let login = Client::new().post(format!("{url}/auth/login")).form(&form).send().await.unwrap();
    let token = login.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned();
    let sessions = Client::new().get(format!("{url}/users/me/sessions")).bearer_auth(&token).send().await;
    let sessions: Value = sessions.unwrap().json().await.unwrap();
    let current = sessions.as_array().unwrap().iter().find(|session| session["current"] == true).unwrap();
    (token, current["id"].as_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_server_writes_uses_while_it_runs_and_when_it_stops() {
    let database = TestDatabase::migrated().await;
    let (mut server, url) = serve(&database).await;
    let (token, id) = sign_in(&url).await;
    let request = async |url: &str, token: &str| {
        let sent = Client::new().get(format!("{url}/users/me")).bearer_auth(token).send().await;
        assert_eq!(sent.unwrap().status(), 200);
    };
    let age = async |id: Uuid| {
        let seen = "UPDATE sessions SET last_seen_at = now() - interval '1 hour'";
        database.sql(&format!("{seen} WHERE id = '{id}'")).await;
    };
    age(id).await;
    request(&url, &token).await;
    let written = || async { is_written(&database, id).await.then_some(()) };
    eventually("the use is written", written).await;

    age(id).await;
    request(&url, &token).await;
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0));
    assert!(is_written(&database, id).await, "written at the end");

    // A killed process loses pending uses, but no session.
    let (mut killed, url) = serve(&database).await;
    let (other_token, other) = sign_in(&url).await;
    age(other).await;
    request(&url, &other_token).await;
    killed.signal("KILL");
    killed.end().await;
    assert!(is_written(&database, id).await);
    let (_server, url) = serve(&database).await;
    request(&url, &token).await;
    request(&url, &other_token).await;
    eventually("the next use is written", || async { is_written(&database, other).await.then_some(()) })
        .await;
}
