//! A typed cache of what is read from the database: in Redis, which all replicas share, and in this process in front.
//!
//! What is kept stands for rows, and never outlives a change of one: each copy knows the snapshot that it was read in,
//! and is used only while [`Changes`](crate::db::Changes) vouches for it. So neither a slow reader that writes an old
//! state back nor a Redis that was away, or has forgotten or resurrected something, makes a copy wrong. Without Redis
//! the process keeps its own copies; where changes cannot be heard, everything is read from the database.

use std::{any::Any, fmt::Display, sync::Arc, time::Duration};

use diesel_async::AsyncPgConnection;
use quick_cache::sync::Cache as Local;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::{
    db::{Db, Row, Snapshot},
    error::Result,
    redis_pool::RedisPool,
    telemetry::chain,
};

/// Copies that a process keeps; those that are used least make room.
const LOCAL: usize = 10_000;

/// What may be kept.
///
/// Each of its rows is in a table with the trigger `tell_of_change`, or [`Cache::invalidate`] is called where it changes;
/// and its secrets are left out, since Redis is to know none.
pub trait Cached: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its kind, as part of the key in Redis; another one when its fields get another meaning.
    const NAME: &'static str;
    /// How long a copy is kept, whatever happens.
    const TTL: Duration = Duration::from_secs(60);
    /// The rows that it was read from.
    fn rows(&self) -> Vec<Row>;
}

/// The cache; a clone shares it.
#[derive(Clone)]
pub struct Cache {
    db: Db,
    redis: RedisPool,
    prefix: Arc<str>,
    local: Arc<Local<String, Kept>>,
}

/// A copy in this process.
#[derive(Clone)]
struct Kept {
    value: Arc<dyn Any + Send + Sync>,
    read: Arc<Read>,
    until: Instant,
}

/// When and of what something was read.
struct Read {
    snapshot: Snapshot,
    rows: Vec<Row>,
}

/// A copy in Redis.
#[derive(Serialize, Deserialize)]
struct Shared<T> {
    snapshot: Snapshot,
    value: T,
}

impl Cache {
    /// Keys in Redis begin with `prefix`.
    pub fn new(db: Db, redis: RedisPool, prefix: &str) -> Self {
        let prefix = format!("{prefix}:cache:").into();
        Self { db, redis, prefix, local: Arc::new(Local::new(LOCAL)) }
    }

    /// What has that key: a copy, or what `load` reads now. A replica knows of a change once its transaction has been
    /// committed, at the latest 100 ms after that; the one that has made it, at once.
    ///
    /// # Errors
    /// What `load` answers, and as [`Db::run`]. Never because Redis is away.
    pub async fn get_or_load<T: Cached>(
        &self,
        key: impl Display,
        load: impl AsyncFnOnce(&AsyncPgConnection) -> Result<Option<T>>,
    ) -> Result<Option<Arc<T>>> {
        if !self.db.changes().are_heard().await {
            return Ok(self.db.run(async |conn| load(conn).await).await?.map(Arc::new));
        }
        let key = format!("{}:{key}", T::NAME);
        if let Some(value) = self.local(&key) {
            return Ok(Some(value));
        }
        if let Some(shared) = self.shared(&key).await {
            return Ok(Some(self.keep(key, shared)));
        }
        let read = async |conn: &mut AsyncPgConnection| {
            // Before the value, which then is no older.
            let snapshot = Snapshot::take(conn).await?;
            Ok((snapshot, load(conn).await?))
        };
        let (snapshot, Some(value)) = self.db.run(read).await? else { return Ok(None) };
        let shared = Shared { snapshot, value };
        self.share(&key, &shared).await;
        Ok(Some(self.keep(key, shared)))
    }

    /// Has all replicas read anew what stands for a row, once the transaction is committed. Tables with the trigger do
    /// it by themselves.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invalidate(conn: &AsyncPgConnection, row: &Row) -> Result<()> {
        Ok(row.tell_of_change(conn).await?)
    }

    fn local<T: Cached>(&self, key: &str) -> Option<Arc<T>> {
        let kept = self.local.get(key)?;
        let right = kept.until > Instant::now() && self.vouch_for(&kept.read);
        right.then(|| kept.value.downcast().ok()).flatten()
    }

    fn vouch_for(&self, read: &Read) -> bool {
        self.db.changes().vouch_for(&read.snapshot, &read.rows)
    }

    fn keep<T: Cached>(&self, key: String, shared: Shared<T>) -> Arc<T> {
        let value = Arc::new(shared.value);
        let read = Arc::new(Read { snapshot: shared.snapshot, rows: value.rows() });
        let until = Instant::now() + T::TTL;
        self.local.insert(key, Kept { value: value.clone(), read, until });
        value
    }

    async fn shared<T: Cached>(&self, key: &str) -> Option<Shared<T>> {
        let command = redis::Cmd::get(format!("{}{key}", self.prefix));
        let text: Option<String> = self.redis.try_command(&command).await.ok()?;
        // What another build has written may not be readable.
        let shared: Shared<T> = serde_json::from_str(&text?).ok()?;
        self.db.changes().vouch_for(&shared.snapshot, &shared.value.rows()).then_some(shared)
    }

    async fn share<T: Cached>(&self, key: &str, shared: &Shared<T>) {
        let text = match serde_json::to_string(shared) {
            Ok(text) => text,
            Err(error) => return tracing::error!(error = chain(&error), key, "cannot be cached"),
        };
        let ttl = T::TTL.as_secs();
        let command = redis::Cmd::set_ex(format!("{}{key}", self.prefix), text, ttl);
        // Without Redis this process keeps its copy all the same.
        let _ = self.redis.try_command::<()>(&command).await;
    }
}
