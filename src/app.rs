//! The composition root: what every handler and job can reach, made from the settings in one place.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use uuid::Uuid;

use crate::{
    cache::Cache,
    config::{self, Config, secret},
    db::{Db, RecentReads},
    error::Error,
    mail::Mailer,
    models::session::Identity,
    queue::{self, Queue, QueueOptions},
    redis_pool::RedisPool,
    security::{Passwords, Sealer, Tokens},
};

/// The application; a clone shares it.
#[derive(Clone)]
pub struct App(Arc<Inner>);

pub struct Inner {
    pub config: Config,
    pub db: Db,
    pub redis: RedisPool,
    pub cache: Cache,
    /// Sessions and their users, by the session id of the access token.
    pub identities: RecentReads<Uuid, Identity>,
    pub queue: Queue,
    pub mailer: Mailer,
    pub passwords: Passwords,
    pub tokens: Tokens,
    /// Keeps the secrets of two-factor authentication.
    pub sealer: Sealer,
    stopping: AtomicBool,
}

impl App {
    /// Builds it without connecting to anything: PostgreSQL and Redis may come later, or come back.
    ///
    /// # Errors
    /// When a setting cannot be read.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        let auth = &config.auth;
        // Only DEBUG gets here without a key; a key of this process alone is then better than a known one.
        let key = match secret(&auth.secret_key) {
            Some(key) => key.to_owned(),
            None => format!("{}{}", uuid::Uuid::new_v4(), uuid::Uuid::new_v4()),
        };
        let tokens = Tokens::new(&key, secret(&auth.secret_key_previous), auth.access_token_expire_minutes);
        let sealing_keys =
            secret(&auth.two_factor_key).into_iter().chain(secret(&auth.two_factor_key_previous));
        let redis = RedisPool::new(&config.redis).context("cannot set up the Redis pool")?;
        Ok(Self(Arc::new(Inner {
            cache: Cache::new(redis.clone(), &config.redis.redis_key_prefix),
            identities: RecentReads::new(Duration::from_millis(auth.identity_cache_ms)),
            db: Db::new(&config.database)?,
            queue: queue(&redis, &config.redis),
            redis,
            mailer: Mailer::new(&config)?,
            passwords: Passwords::new(auth.hashing.bcrypt_cost),
            tokens,
            sealer: Sealer::new(sealing_keys)?,
            stopping: AtomicBool::new(false),
            config,
        })))
    }

    /// From now on this process reports that it is not ready for new requests.
    pub fn begin_stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }
}

/// The job queue on the connections of a pool.
pub fn queue(redis: &RedisPool, settings: &config::Redis) -> Queue {
    let options = QueueOptions {
        prefix: settings.redis_key_prefix.clone(),
        timeout: Duration::from_millis(settings.redis_timeout_ms),
    };
    Queue::new(redis.clone(), redis.client().clone(), &options)
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// The engine knows no domain error, and the domain error no engine.
impl From<queue::Error> for Error {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::Invalid { field, message } => Self::invalid(field, message),
            queue::Error::UnknownJob(_) => Self::invalid("after", error.to_string()),
            queue::Error::TooLarge { limit } => Self::TooLarge { limit },
            queue::Error::TooDeep => Self::Malformed(error.to_string()),
            queue::Error::Unavailable(source) => Self::Unavailable { what: "Redis", source },
            queue::Error::Internal(source) => Self::Internal(source),
        }
    }
}
