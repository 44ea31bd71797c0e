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
    db::{Db, Row, Snapshot, migrations},
    error::{Error, Result},
    redis_pool::{Patience, RedisPool},
    security::Sealer,
    telemetry::chain,
};

/// Copies that a process keeps; those that are used least make room.
const LOCAL: usize = 10_000;
/// Redis is waited for no longer: the database would have answered by then.
const REDIS: Duration = Duration::from_millis(100);

/// What may be kept.
///
/// Each of its rows is in a table with the trigger `tell_of_change`, or [`Cache::invalidate`] is called where it changes.
pub trait Cached: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its kind, as part of the key; another one when its fields get another meaning.
    const NAME: &'static str;
    /// How long a copy is kept in Redis, and again in a process, whatever happens.
    const TTL: Duration = Duration::from_secs(60);
    /// The rows that it was read from.
    fn rows(&self) -> Vec<Row>;
}

/// The cache; a clone shares it.
#[derive(Clone)]
pub struct Cache {
    db: Db,
    redis: RedisPool,
    patience: Patience,
    /// Whoever can write to Redis must not be able to say who is an admin, nor need they read what is kept there.
    sealer: Arc<Sealer>,
    prefix: Arc<str>,
    local: Arc<Local<String, Kept>>,
}

/// A copy in this process.
#[derive(Clone)]
struct Kept {
    value: Arc<dyn Any + Send + Sync>,
    origin: Arc<Origin>,
    until: Instant,
}

/// When and of what something was read.
struct Origin {
    snapshot: Snapshot,
    rows: Vec<Row>,
}

/// What was read, as it is written to Redis.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    snapshot: Snapshot,
    value: T,
}

impl Cache {
    /// Keys in Redis begin with `prefix`, and what they hold is encrypted.
    ///
    /// # Errors
    /// When the migrations in this binary have no names.
    pub fn new(db: Db, redis: RedisPool, prefix: &str, sealer: Sealer) -> anyhow::Result<Self> {
        // A build with other tables reads no copies of this one.
        let prefix = format!("{prefix}:cache:{}:", migrations::latest()?).into();
        let local = Arc::new(Local::new(LOCAL));
        Ok(Self { db, redis, patience: Patience::new(REDIS), sealer: Arc::new(sealer), prefix, local })
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
        if let Some(value) = self.kept(&key) {
            return Ok(Some(value));
        }
        // Redis may have taken its time.
        if let Some(stored) = self.stored(&key).await
            && self.db.changes().are_heard().await
            && self.vouch_for(&stored)
        {
            return Ok(Some(self.keep(key, stored)));
        }
        let read = async |conn: &mut AsyncPgConnection| {
            // Before the value, which then is no older.
            let snapshot = Snapshot::take(conn).await?;
            Ok((snapshot, load(conn).await?))
        };
        let (snapshot, value) = self.db.run(read).await?;
        self.db.changes().compare(&snapshot);
        let Some(value) = value else { return Ok(None) };
        let stored = Stored { snapshot, value };
        self.store(&key, &stored).await;
        Ok(Some(self.keep(key, stored)))
    }

    /// Has all replicas read anew what stands for a row, once the transaction is committed. Tables with the trigger do
    /// it by themselves.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invalidate(conn: &AsyncPgConnection, row: &Row) -> Result<()> {
        Ok(row.tell_of_change(conn).await?)
    }

    fn kept<T: Cached>(&self, key: &str) -> Option<Arc<T>> {
        let kept = self.local.get(key)?;
        let Origin { snapshot, rows } = &*kept.origin;
        let right = kept.until > Instant::now() && self.db.changes().vouch_for(snapshot, rows);
        right.then(|| kept.value.downcast().ok()).flatten()
    }

    fn keep<T: Cached>(&self, key: String, stored: Stored<T>) -> Arc<T> {
        let value = Arc::new(stored.value);
        let origin = Arc::new(Origin { snapshot: stored.snapshot, rows: value.rows() });
        let until = Instant::now() + T::TTL;
        self.local.insert(key, Kept { value: value.clone(), origin, until });
        value
    }

    async fn stored<T: Cached>(&self, key: &str) -> Option<Stored<T>> {
        let key = format!("{}{key}", self.prefix);
        let get = redis::Cmd::get(&key);
        let sealed: Option<Vec<u8>> = self.redis.try_command(&get, &self.patience).await.ok()?;
        // What another key has encrypted, or another build has written, may not be readable.
        let text = self.sealer.open(&key, &sealed?).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn vouch_for<T: Cached>(&self, stored: &Stored<T>) -> bool {
        self.db.changes().vouch_for(&stored.snapshot, &stored.value.rows())
    }

    async fn store<T: Cached>(&self, key: &str, stored: &Stored<T>) {
        let key = format!("{}{key}", self.prefix);
        let text = serde_json::to_vec(stored).map_err(Error::internal);
        let sealed = match text.and_then(|text| self.sealer.seal(&key, &text)) {
            Ok(sealed) => sealed,
            Err(error) => return tracing::error!(error = chain(&error), key, "cannot be cached"),
        };
        // In milliseconds: Redis refuses a time of none, which a part of a second would be in seconds.
        let ttl = u64::try_from(T::TTL.as_millis()).unwrap_or(u64::MAX);
        let set = redis::Cmd::pset_ex(&key, sealed, ttl);
        // Without Redis this process keeps its copy all the same.
        let _ = self.redis.try_command::<()>(&set, &self.patience).await;
    }
}
