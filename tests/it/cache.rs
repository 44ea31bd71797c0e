//! Copies of rows: used as long as they are right, by every replica, whatever becomes of Redis.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use redis::AsyncCommands;
use reqwest::Method;
use saas::{
    cache::{Cache, Cached},
    db::{Row, migrations},
    schema::users,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::{
    TestApp, eventually,
    proxy::{Link, Proxy},
    queue::connect,
    servers::{TestDatabase, servers, unique},
};

/// The name of a user.
#[derive(Serialize, Deserialize)]
struct Name {
    id: i64,
    name: Option<String>,
}

impl Cached for Name {
    const NAME: &'static str = "name";

    fn rows(&self) -> Vec<Row> {
        vec![Row::new("users", self.id)]
    }
}

async fn read(mut conn: &AsyncPgConnection, id: i64) -> saas::error::Result<Option<Name>> {
    let name = users::table.find(id).select(users::full_name).first(&mut conn).await.optional()?;
    Ok(name.map(|name| Name { id, name }))
}

/// Replicas of one product, and how often they have read.
struct Replica {
    app: TestApp,
    reads: AtomicUsize,
}

impl Replica {
    async fn on(database: Arc<TestDatabase>, prefix: &str, flags: &[&str]) -> Self {
        let prefix = format!("--queue-prefix={prefix}");
        let app = TestApp::on(database, &[&[&*prefix], flags].concat()).await;
        eventually("it listens", || async { app.app.db.changes().are_heard().await.then_some(()) }).await;
        Self { app, reads: AtomicUsize::new(0) }
    }

    async fn name(&self, id: i64) -> Option<String> {
        let load = async |conn: &AsyncPgConnection| {
            self.reads.fetch_add(1, Ordering::SeqCst);
            read(conn, id).await
        };
        self.app.app.cache.get_or_load(id, load).await.unwrap()?.name.clone()
    }

    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::SeqCst)
    }

    /// Reads until copies are used; on a busy machine the sign of life may be late.
    async fn warm(&self, id: i64) {
        eventually("a copy is used", || async {
            self.reads();
            self.name(id).await;
            (self.reads() == 0).then_some(())
        })
        .await;
    }
}

async fn insert(database: &TestDatabase) -> i64 {
    let id = i64::from(unique()) + 1_000_000;
    let sql =
        format!("INSERT INTO users (id, email, full_name) VALUES ({id}, 'cached{id}@example.com', 'Ada')");
    database.sql(&sql).await;
    id
}

async fn rename(database: &TestDatabase, id: i64, name: &str) {
    database.sql(&format!("UPDATE users SET full_name = '{name}' WHERE id = {id}")).await;
}

async fn two() -> (Arc<TestDatabase>, Replica, Replica, i64) {
    let database = Arc::new(TestDatabase::migrated().await);
    let prefix = format!("c{}", unique());
    let id = insert(&database).await;
    let (one, other) = (
        Replica::on(database.clone(), &prefix, &[]).await,
        Replica::on(database.clone(), &prefix, &[]).await,
    );
    (database, one, other, id)
}

/// Waits until a replica has heard of all that is committed by now.
async fn heard(replica: &Replica) {
    replica.app.app.db.changes().catch_up().await;
}

#[tokio::test]
async fn smoke_a_copy_is_used_until_its_row_changes() {
    let (database, one, other, id) = two().await;
    let stranger = insert(&database).await;
    one.warm(id).await;
    other.warm(id).await;
    // Neither another row, nor what is taken back.
    rename(&database, stranger, "Grace").await;
    database.sql(&format!("BEGIN; UPDATE users SET full_name = 'X' WHERE id = {id}; ROLLBACK")).await;
    heard(&one).await;
    assert_eq!(one.name(id).await.as_deref(), Some("Ada"));
    rename(&database, id, "Ada Lovelace").await;
    for replica in [&one, &other] {
        heard(replica).await;
        assert_eq!(replica.name(id).await.as_deref(), Some("Ada Lovelace"));
        replica.warm(id).await;
    }
    database.sql(&format!("DELETE FROM users WHERE id = {id}")).await;
    for replica in [&one, &other] {
        heard(replica).await;
        assert_eq!(replica.name(id).await, None);
    }
}

#[tokio::test]
async fn a_replica_uses_what_another_has_put_into_redis() {
    let (database, one, other, id) = two().await;
    one.warm(id).await;
    eventually("it is taken from Redis", || async {
        let id = insert(&database).await;
        one.name(id).await;
        other.reads();
        other.name(id).await;
        (other.reads() == 0).then_some(())
    })
    .await;
}

/// Whoever can write to Redis must not be able to tell the API who somebody is.
#[tokio::test]
async fn a_copy_in_redis_cannot_be_read_or_made_by_others() {
    let (database, one, other, id) = two().await;
    let mut redis = connect(&servers().await.redis_url()).await.unwrap();
    let prefix = &one.app.app.config.redis.queue_prefix;
    let key = |id| format!("{prefix}:cache:{}:name:{id}", migrations::latest().unwrap());
    one.warm(id).await;
    let kept: Vec<u8> = redis.get(key(id)).await.unwrap();
    assert!(!kept.windows(3).any(|part| part == b"Ada"));
    assert!((1..=60).contains(&redis.ttl::<_, i64>(key(id)).await.unwrap()));
    // Neither nonsense, nor what was written for another key, or with another.
    for forged in [&b"{"[..], &kept, &kept[..kept.len() - 1]] {
        let stranger = insert(&database).await;
        rename(&database, stranger, "Grace").await;
        let () = redis.set(key(stranger), forged).await.unwrap();
        assert_eq!(other.name(stranger).await.as_deref(), Some("Grace"));
    }
    let secret = format!("--secret-key={}", "another key of 32 bytes or more, for all that it is worth");
    let third = Replica::on(database.clone(), prefix, &[&secret]).await;
    third.reads();
    third.name(id).await;
    assert_eq!(third.reads(), 1);
}

/// Between the reading and the keeping of a copy everything may happen.
#[tokio::test]
async fn a_slow_reader_does_not_bring_an_old_state_back() {
    let (database, one, other, id) = two().await;
    for name in ["Grace", "Edsger", "Barbara"] {
        let load = async |conn: &AsyncPgConnection| {
            let read = read(conn, id).await?;
            rename(&database, id, name).await;
            heard(&one).await;
            heard(&other).await;
            Ok(read)
        };
        one.app.app.cache.get_or_load(id, load).await.unwrap();
        assert_eq!(one.name(id).await.as_deref(), Some(name));
        assert_eq!(other.name(id).await.as_deref(), Some(name));
        one.warm(id).await;
        // So that it is read again the next time.
        rename(&database, id, "Nobody").await;
        heard(&one).await;
        heard(&other).await;
    }
}

#[tokio::test]
async fn what_was_read_beside_an_open_transaction_ends_with_it() {
    let (database, one, other, id) = two().await;
    let (client, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let change = format!("BEGIN; UPDATE users SET full_name = 'Grace' WHERE id = {id}");
    client.batch_execute(&change).await.unwrap();
    one.warm(id).await;
    other.warm(id).await;
    client.batch_execute("COMMIT").await.unwrap();
    for replica in [&one, &other] {
        heard(replica).await;
        assert_eq!(replica.name(id).await.as_deref(), Some("Grace"));
    }
}

#[tokio::test]
async fn code_tells_of_what_no_trigger_does() {
    let (database, one, other, id) = two().await;
    database.sql("ALTER TABLE users DISABLE TRIGGER users_tell_of_change").await;
    one.warm(id).await;
    other.warm(id).await;
    rename(&database, id, "Grace").await;
    let tell = async |conn: &mut AsyncPgConnection| Cache::invalidate(conn, &Row::new("users", id)).await;
    one.app.app.db.transaction(tell).await.unwrap();
    assert_eq!(one.name(id).await.as_deref(), Some("Grace"));
    heard(&other).await;
    assert_eq!(other.name(id).await.as_deref(), Some("Grace"));
}

#[tokio::test]
async fn all_copies_end_with_their_table_and_with_too_many_changes() {
    let (database, one, _, id) = two().await;
    let crowd = "INSERT INTO users (email) SELECT 'crowd' || n FROM generate_series(1, 15000) n";
    database.sql(crowd).await;
    one.warm(id).await;
    rename(&database, id, "Grace").await;
    database.sql("UPDATE users SET role = 'admin' WHERE email LIKE 'crowd%'").await;
    heard(&one).await;
    assert_eq!(one.name(id).await.as_deref(), Some("Grace"), "of so many changes not all are remembered");
    one.warm(id).await;
    database.sql("TRUNCATE users CASCADE").await;
    heard(&one).await;
    assert_eq!(one.name(id).await, None);
}

#[tokio::test]
async fn without_redis_each_replica_keeps_its_own() {
    let database = Arc::new(TestDatabase::migrated().await);
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    let redis = format!("--redis-url={url}");
    let one = Replica::on(database.clone(), "rq", &[&redis, "--redis-timeout-ms=900"]).await;
    for link in [Link::Cut, Link::Stalled, Link::Up] {
        proxy.set(link);
        let id = insert(&database).await;
        one.warm(id).await;
        rename(&database, id, "Grace").await;
        heard(&one).await;
        assert_eq!(one.name(id).await.as_deref(), Some("Grace"), "{link:?}");
    }
}

#[tokio::test]
async fn whoever_cannot_hear_reads() {
    let (database, one, _, id) = two().await;
    one.warm(id).await;
    // It cannot be heard that the name changes, nor that it cannot be heard.
    database.sql("ALTER TABLE users DISABLE TRIGGER USER").await;
    database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'saas listener' AND datname = current_database()").await;
    rename(&database, id, "Grace").await;
    eventually("it is read again", || async {
        (one.name(id).await.as_deref() == Some("Grace")).then_some(())
    })
    .await;
    one.warm(id).await;
}

#[tokio::test]
async fn whoever_was_an_admin_a_moment_ago_changes_nothing() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    eventually("it listens", || async { app.app.db.changes().are_heard().await.then_some(()) }).await;
    assert_eq!(app.get("/users", Some(&admin)).await.status, 200);
    // Nobody is told.
    app.sql("ALTER TABLE users DISABLE TRIGGER users_tell_of_change; UPDATE users SET role = 'user'").await;
    let path = format!("/users/{}", admin.id);
    let again = app.request(Method::PATCH, &path).bearer_auth(&admin.token).json(&json!({ "role": "admin" }));
    assert_eq!(again.send().await.unwrap().status(), 403);
}
