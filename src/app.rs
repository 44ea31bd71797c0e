//! The composition root: creates the shared parts of the application from the settings.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use redis::{RedisFuture, RedisResult, aio::MultiplexedConnection};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    attempts::Attempts,
    cache::Cache,
    config::{self, Config, secret},
    db::{CommittedIds, Db, KeysInUse, PendingUses, RecentReads},
    error::Error,
    mail::Mailer,
    models::{api_key_identity::KeyIdentity, session::Identity},
    queue::{self, Connector, OwnerLimit, OwnerLimits, Queue, QueueOptions},
    rate_limits::RateLimits,
    redis_pool::RedisPool,
    redis_servers::RedisServers,
    security::{Passwords, Pseudonyms, Sealer, Tokens},
};

/// Maximum number of sessions whose last use waits in memory to be written to the database. They need up to 8 MB. At this
/// number, no other session is added.
const MAX_PENDING_SESSIONS: usize = 100_000;
/// Maximum number of API keys whose last use waits in memory to be written to the database. At this number, no other key is
/// added.
const MAX_PENDING_KEYS: usize = 100_000;
/// `Retry-After` for a user whose unfinished jobs are too many or too large. The value is an estimate, because the server does
/// not know when the jobs finish.
const JOBS_RETRY_AFTER_SECONDS: u64 = 10;

/// The application, which handlers and jobs share; clones are cheap.
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// The parts of the application.
pub struct Inner {
    pub config: Config,
    pub db: Db,
    /// Connections to the Redis server of the jobs, the counters of attempts and the rate limits.
    pub redis: RedisPool,
    /// The counters that limit failed attempts at passwords and codes, password hashes, and mails.
    pub attempts: Attempts,
    /// Limits the requests of each caller.
    pub rate_limits: RateLimits,
    /// Uses the server of `CACHE_REDIS_URL` if this setting is set, and the connections of `redis` if not.
    pub cache: Cache,
    /// Cached sessions, each with the user and the memberships of the user, by session id.
    pub identities: RecentReads<Uuid, Identity>,
    /// Cached API keys, each with the rights of the creator, by the hash of the secret. Invalidating `identities` also
    /// invalidates this cache.
    pub key_identities: RecentReads<Vec<u8>, KeyIdentity>,
    /// The last uses of API keys, by the id of the key, until `services::api_key_uses` writes them to the database.
    pub key_uses: PendingUses<i64>,
    /// The last uses of sessions, by session id, until `services::session_uses` writes them to the database.
    pub session_uses: PendingUses<Uuid>,
    /// The idempotency keys of the requests in progress in this process. Each number identifies the advisory lock of a key.
    pub idempotency_keys: KeysInUse<i64>,
    pub queue: Queue,
    /// The ids of jobs in the table `job_outbox` that this process has committed, until `services::job_relay` takes the ids to
    /// enqueue the jobs.
    pub committed_jobs: CommittedIds,
    pub mailer: Mailer,
    pub passwords: Passwords,
    /// Computes the keyed hashes that security events contain instead of email addresses, and instead of IP addresses if
    /// `LOG_CLIENT_ADDRESS` is off.
    pub pseudonyms: Pseudonyms,
    pub tokens: Tokens,
    /// Encrypts and decrypts the secrets of two-factor authentication.
    pub sealer: Sealer,
    stopping: AtomicBool,
}

impl App {
    /// Creates the application without connecting: PostgreSQL and Redis can be unavailable at startup.
    ///
    /// # Errors
    /// If a setting is invalid, no database is configured, or a file with certificates or keys cannot be read.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        let auth = &config.auth;
        // Servers and workers do not start without SECRET_KEY, unless DEBUG is on. A random key per process is safer than a
        // default that is public.
        let key = match secret(&auth.secret_key) {
            Some(key) => key.to_owned(),
            None => format!("{}{}", Uuid::new_v4(), Uuid::new_v4()),
        };
        let tokens = Tokens::new(
            &key,
            secret(&auth.secret_key_previous),
            auth.access_token_expire_minutes,
            auth.token_leeway_seconds,
        );
        let sealing_keys =
            secret(&auth.two_factor_key).into_iter().chain(secret(&auth.two_factor_key_previous));
        let redis = RedisPool::new(&config.redis).context("cannot set up the Redis pool")?;
        let cache_redis = match config.redis_options.cache(&config.redis) {
            Some(settings) => {
                RedisPool::new(&settings).context("cannot set up the Redis pool of the cache")?
            }
            None => redis.clone(),
        };
        let identities = RecentReads::new(Duration::from_millis(auth.identity_cache_ms));
        Ok(Self(Arc::new(Inner {
            attempts: Attempts::new(redis.clone(), &config.redis.redis_key_prefix, &key),
            rate_limits: RateLimits::new(redis.clone(), &config.redis.redis_key_prefix, &key),
            cache: Cache::new(cache_redis, &config.redis.redis_key_prefix),
            key_identities: RecentReads::discarded_with(&identities),
            key_uses: PendingUses::new(MAX_PENDING_KEYS),
            identities,
            session_uses: PendingUses::new(MAX_PENDING_SESSIONS),
            idempotency_keys: KeysInUse::default(),
            db: Db::new(&config.database, &config.database_pool)?,
            queue: queue(&redis, &config.redis)
                .wait_for_replicas(config.redis_options.queue_wait_replicas)
                .limit_owners(OwnerLimits {
                    jobs: config.user_jobs.user_max_queued_jobs,
                    bytes: config.user_jobs.user_max_queued_bytes,
                    per_hour: Some(config.user_jobs.user_max_jobs_per_hour),
                }),
            committed_jobs: CommittedIds::default(),
            redis,
            mailer: Mailer::new(&config)?,
            passwords: Passwords::new(auth.hashing.bcrypt_cost),
            pseudonyms: Pseudonyms::new(&key),
            tokens,
            sealer: Sealer::new(sealing_keys)?,
            stopping: AtomicBool::new(false),
            config,
        })))
    }

    /// Makes the readiness check of this process fail, so that a load balancer sends no new requests. Responses then also tell
    /// clients to close the connection.
    pub fn begin_stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Returns whether [`Self::begin_stopping`] was called.
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }
}

/// Creates a job queue that uses the connections of a pool.
pub fn queue(redis: &RedisPool, settings: &config::Redis) -> Queue {
    let options = QueueOptions {
        prefix: settings.redis_key_prefix.clone(),
        timeout: Duration::from_millis(settings.redis_timeout_ms),
    };
    Queue::new(redis.clone(), redis.servers().clone(), &options)
}

impl Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

// This implementation is in this module, because `redis_servers` and `queue` must not import each other.
impl Connector for RedisServers {
    fn connect(
        &self,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> RedisFuture<'_, (MultiplexedConnection, u64)> {
        Box::pin(Self::connect(self, connect_timeout, response_timeout))
    }

    fn connect_blocking(&self, connect_timeout: Duration) -> RedisResult<redis::Connection> {
        Self::connect_blocking(self, connect_timeout)
    }

    fn primary_changes(&self) -> watch::Receiver<u64> {
        self.subscribe()
    }
}

// This implementation is in this module, because `error` and `queue` must not import each other.
impl From<queue::Error> for Error {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::Invalid { field, message } => Self::invalid(field, message),
            queue::Error::UnknownJob(_) => Self::invalid("after", error.to_string()),
            queue::Error::OwnerLimit(limit) => {
                let retry_after = match limit {
                    OwnerLimit::Rate { wait } => wait.as_secs() + 1,
                    OwnerLimit::Jobs | OwnerLimit::Bytes => JOBS_RETRY_AFTER_SECONDS,
                };
                Self::TooManyJobs { message: limit.to_string(), retry_after }
            }
            queue::Error::TooLarge { limit } => Self::JobTooLarge { limit },
            queue::Error::TooDeep => Self::JobTooDeep,
            queue::Error::Forgotten(_) => Self::internal(error),
            queue::Error::Unavailable(source) => Self::Unavailable { what: "Redis", source },
            queue::Error::Internal(source) => Self::Internal(source),
        }
    }
}
