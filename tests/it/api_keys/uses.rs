//! The time at which each key was last used: collected in the process, and written to the database in batches.

use reqwest::Client;
use saas::services::api_key_uses::flush;
use serde_json::json;

use super::{Key, LONG_CACHE, SCOPES, create_key, create_org, is, read, rotate};
use crate::support::{
    TestApp, eventually,
    process::{production_command, start_server},
    records::column,
};

/// Returns whether the database has a use of the key in the last four minutes.
async fn is_written(app: &TestApp, key: &Key) -> bool {
    let used = "SELECT last_used_at BETWEEN now() - interval '4 minutes' AND now() FROM api_keys";
    column(&app.database, &format!("{used} WHERE id = {}", key.id)).await == ["t"]
}

/// Returns the id and the row version of each key. Every write of a key changes its row version.
async fn row_versions(app: &TestApp) -> Vec<String> {
    column(&app.database, "SELECT id || ' ' || ctid FROM api_keys ORDER BY id").await
}

#[tokio::test]
async fn smoke_a_flush_writes_the_use_of_each_key_at_most_once_a_minute_and_requests_write_none() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let (one, other) =
        (create_key(&app, org, &owner, &SCOPES).await, create_key(&app, org, &owner, &SCOPES).await);
    let before = row_versions(&app).await;
    for _ in 0..3 {
        assert_eq!(read(&app, &one).await, is(200, ""));
    }
    assert_eq!(row_versions(&app).await, before, "no request writes");
    let listed = app.get(&one.path(), Some(&owner)).await;
    assert!(
        listed.body["last_used_at"].is_string(),
        "the use is known before it is written: {}",
        listed.text
    );
    flush(&app.app).await.unwrap();
    assert!(is_written(&app, &one).await && !is_written(&app, &other).await);

    let after = row_versions(&app).await;
    app.sql("").await;
    assert_eq!(read(&app, &one).await, is(200, ""));
    assert!(app.app.key_uses.all().is_empty(), "not due again");
    app.app.key_uses.record(one.id);
    flush(&app.app).await.unwrap();
    assert_eq!(row_versions(&app).await, after, "another replica has written a use of this minute");
    app.sql("UPDATE api_keys SET last_used_at = now() - interval '61 seconds'").await;
    assert_eq!(read(&app, &one).await, is(200, ""));
    flush(&app.app).await.unwrap();
    assert!(is_written(&app, &one).await);
    assert!(app.app.key_uses.all().is_empty());
}

#[tokio::test]
async fn only_a_valid_secret_counts_as_a_use_of_its_key() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let old = create_key(&app, org, &owner, &SCOPES).await;
    let new = Key::of(org, &rotate(&app, &old, &owner, json!({ "overlap_hours": 0 })).await);
    let revoked = create_key(&app, org, &owner, &SCOPES).await;
    app.sql(&format!("UPDATE api_keys SET revoked_at = now() WHERE id = {}", revoked.id)).await;
    for key in [&old, &revoked] {
        assert_eq!(read(&app, key).await, is(401, "invalid_token"));
    }
    assert!(app.app.key_uses.all().is_empty());
    assert_eq!(read(&app, &new).await, is(200, ""));
    assert_eq!(app.app.key_uses.all().len(), 1);
}

#[tokio::test]
async fn the_use_of_a_locked_key_is_written_by_a_later_flush() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let (locked, free) =
        (create_key(&app, org, &owner, &SCOPES).await, create_key(&app, org, &owner, &SCOPES).await);
    for key in [&locked, &free] {
        assert_eq!(read(&app, key).await, is(200, ""));
    }
    let (client, connection) =
        tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute(&format!("BEGIN; SELECT FROM api_keys WHERE id = {} FOR UPDATE", locked.id))
        .await
        .unwrap();
    flush(&app.app).await.unwrap();
    assert!(is_written(&app, &free).await && !is_written(&app, &locked).await);
    assert_eq!(app.app.key_uses.all().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [locked.id]);
    client.batch_execute("COMMIT").await.unwrap();
    flush(&app.app).await.unwrap();
    assert!(is_written(&app, &locked).await);
}

#[tokio::test]
async fn a_server_writes_uses_of_keys_while_it_runs_and_when_it_stops() {
    let app = TestApp::start().await;
    let owner = app.user().await;
    let org = create_org(&app, &owner).await;
    let (one, other) =
        (create_key(&app, org, &owner, &SCOPES).await, create_key(&app, org, &owner, &SCOPES).await);
    let command = production_command(&["serve", "--port", "0"], &app.database, &app.prefix).await;
    let (mut server, address) = start_server(command).await;
    let url = format!("http://{address}/api/v1/orgs/{org}/products");
    let request =
        async |key: &Key| Client::new().get(&url).bearer_auth(&key.secret).send().await.unwrap().status();
    assert_eq!(request(&one).await, 200);
    eventually("the use is written", || async { is_written(&app, &one).await.then_some(()) }).await;
    assert_eq!(request(&other).await, 200);
    server.signal("TERM");
    assert_eq!(server.end().await.code(), Some(0));
    assert!(is_written(&app, &other).await, "written at the end");
}
