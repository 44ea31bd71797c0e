//! The contents of PostgreSQL and Redis as text.

use redis::aio::MultiplexedConnection;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::{
    queue::connect,
    servers::{TestDatabase, servers},
};

/// Returns the first column of each row of a query as text. Null becomes an empty text.
pub async fn column(database: &TestDatabase, sql: &str) -> Vec<String> {
    column_at(&database.url, sql).await.unwrap()
}

/// Returns the first column of each row of a query on the database of a URL. Null becomes an empty text.
pub async fn column_at(url: &str, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.map(|row| row.get(0).unwrap_or_default().to_owned()).collect())
}

/// Runs a statement that must fail, and returns the error message.
pub async fn refusal(database: &TestDatabase, sql: &str) -> String {
    let (client, connection) = tokio_postgres::connect(&database.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let error = client.batch_execute(sql).await.unwrap_err();
    error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).message().to_owned()
}

/// Returns all rows of all tables in the schema `public` as text.
pub async fn tables(database: &TestDatabase) -> String {
    let mut text = String::new();
    for name in column(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'").await {
        for row in column(database, &format!("SELECT t::text FROM {name} t")).await {
            text.push_str(&format!("{name} {row}\n"));
        }
    }
    text
}

/// Returns all Redis keys that begin with `prefix:`, with their values, as text.
pub async fn keys(prefix: &str) -> String {
    let mut conn = connect(&servers().await.redis_url()).await.unwrap();
    let mut text = String::new();
    for key in names(&mut conn, &format!("{prefix}:*")).await {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut conn).await.unwrap();
        let (command, range): (&str, &[i64]) = match kind.as_str() {
            "string" => ("GET", &[]),
            "hash" => ("HGETALL", &[]),
            "list" => ("LRANGE", &[0, -1]),
            "set" => ("SMEMBERS", &[]),
            "zset" => ("ZRANGE", &[0, -1]),
            // The key has expired or was deleted since SCAN returned it.
            "none" => continue,
            other => panic!("{key} has the unknown type {other}"),
        };
        let value: redis::Value =
            redis::cmd(command).arg(&key).arg(range).query_async(&mut conn).await.unwrap();
        text.push_str(&format!("{key} {value:?}\n"));
    }
    text
}

/// Deletes all counters of attempts in Redis, so that no attempt has to wait because of earlier ones.
pub async fn forget_failures(prefix: &str) {
    let mut conn = connect(&servers().await.redis_url()).await.unwrap();
    for key in names(&mut conn, &format!("{prefix}:throttle:*")).await {
        redis::cmd("DEL").arg(&key).query_async::<()>(&mut conn).await.unwrap();
    }
}

/// Returns the keys that match a pattern of SCAN.
async fn names(conn: &mut MultiplexedConnection, pattern: &str) -> Vec<String> {
    let (mut names, mut cursor) = (Vec::new(), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000);
        let (next, some): (u64, Vec<String>) = scan.query_async(conn).await.unwrap();
        names.extend(some);
        if next == 0 {
            return names;
        }
        cursor = next;
    }
}
