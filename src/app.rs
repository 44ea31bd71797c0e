//! The composition root: what every handler and job can reach, made from the settings in one place.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;

use crate::{
    cache::Cache,
    config::{Config, secret},
    db::Db,
    mail::Mailer,
    queue::Queue,
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
        // Keys that are used for nothing else.
        let previous = secret(&auth.secret_key_previous);
        let of_copies = [Some(&*key), previous].into_iter().flatten().map(|key| format!("copies {key}"));
        let copies = Sealer::new(of_copies.collect::<Vec<_>>().iter().map(String::as_str))?;
        let sealing_keys =
            secret(&auth.two_factor_key).into_iter().chain(secret(&auth.two_factor_key_previous));
        config.mail.check()?;
        let queue = Queue::new(&config.redis).context("cannot set up the job queue")?;
        let (db, redis) = (Db::new(&config.database)?, queue.redis().clone());
        Ok(Self(Arc::new(Inner {
            cache: Cache::new(db.clone(), redis.clone(), &config.redis.queue_prefix, copies)?,
            db,
            redis,
            queue,
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

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}
