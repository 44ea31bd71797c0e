//! The Redis pool.
//!
//! bb8-redis pings at every checkout and never calls a connection broken; this asks after an idle one only, and drops
//! one that has failed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bb8_redis::RedisConnectionManager;
use redis::{ErrorKind, RedisError, ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection};
use secrecy::ExposeSecret;
use tokio::time::timeout_at;

use crate::{
    config::Redis,
    error::{BoxError, Error, Result},
    pool::{LastError, TRUST_IDLE},
};

/// Connections kept; each carries many commands at once.
const POOL_SIZE: u32 = 8;

/// How long it is left alone by those who can do without it.
const REST: Duration = Duration::from_secs(1);

/// Connections to Redis; a clone shares them.
#[derive(Clone)]
pub struct RedisPool {
    pool: bb8::Pool<Manager>,
    client: redis::Client,
    timeout: Duration,
    last_error: LastError,
    patience: Patience,
}

impl RedisPool {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// When `REDIS_URL` cannot be read.
    pub fn new(settings: &Redis) -> anyhow::Result<Self> {
        let url = settings.url();
        // The parser's message may repeat the URL, which has the password.
        let client = redis::Client::open(url.expose_secret())
            .map_err(|_| anyhow::anyhow!("REDIS_URL cannot be read; write redis://:password@host:6379/0"))?;
        let timeout = Duration::from_millis(settings.redis_timeout_ms);
        let manager =
            Manager { inner: RedisConnectionManager::new(client.get_connection_info().clone())?, timeout };
        let last_error = LastError::default();
        let pool = bb8::Pool::builder()
            .max_size(POOL_SIZE)
            .connection_timeout(timeout)
            .test_on_check_out(true)
            .error_sink(Box::new(last_error.clone()))
            .build_unchecked(manager);
        Ok(Self { pool, client, timeout, last_error, patience: Patience::new(timeout / 3) })
    }

    pub fn client(&self) -> &redis::Client {
        &self.client
    }

    /// How long a checkout, and each of two tries, may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// As [`Self::invoke`], for a caller who goes on without Redis and must not be kept long.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis does not answer, or has not a moment ago.
    pub async fn try_invoke<T, F>(&self, call: F) -> Result<T>
    where
        T: redis::FromRedisValue,
        F: Fn() -> ScriptInvocation<'static>,
    {
        let deadline = Instant::now() + self.patience.longest;
        self.patience.unless_away(self.ask(deadline, |_| None, |conn| run(call(), conn))).await
    }

    /// A command, for a caller who goes on without Redis, as in [`Self::try_invoke`].
    ///
    /// # Errors
    /// As [`Self::try_invoke`].
    pub async fn try_command<T>(&self, command: &redis::Cmd, patience: &Patience) -> Result<T>
    where
        T: redis::FromRedisValue,
    {
        let deadline = Instant::now() + patience.longest;
        let ask = |mut conn| async move { command.query_async(&mut conn).await };
        patience.unless_away(self.ask(deadline, |_| None, ask)).await
    }

    /// # Errors
    /// [`Error::Unavailable`] when Redis does not answer.
    pub async fn ping(&self) -> Result<()> {
        let mut conn = self.checkout().await?;
        let answer: Result<String, RedisError> = redis::cmd("PING").query_async(&mut conn.inner).await;
        answer.map(drop).map_err(|error| conn.failed(error))
    }

    async fn checkout(&self) -> Result<bb8::PooledConnection<'_, Manager>> {
        self.pool.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => Error::unavailable("Redis", error),
            bb8::RunError::TimedOut => Error::unavailable("Redis", self.last_error.explain()),
        })
    }

    /// Calls a script, and once more where the first answer was lost: every script bears that, though one that moves
    /// many jobs then counts only those of the second call.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis does not answer; what `refusal` makes of an error that the script raises.
    pub async fn invoke<T, F>(&self, call: F, refusal: fn(&RedisError) -> Option<Error>) -> Result<T>
    where
        T: redis::FromRedisValue,
        F: Fn() -> ScriptInvocation<'static>,
    {
        self.ask(Instant::now() + 2 * self.timeout, refusal, |conn| run(call(), conn)).await
    }

    /// Asks, and once more where the first answer was lost.
    async fn ask<T, A>(
        &self,
        deadline: Instant,
        refusal: fn(&RedisError) -> Option<Error>,
        ask: impl Fn(MultiplexedConnection) -> A,
    ) -> Result<T>
    where
        A: Future<Output = Result<T, RedisError>>,
    {
        let mut again = false;
        loop {
            let late = |late| Error::unavailable("Redis", late);
            let mut conn = timeout_at(deadline.into(), self.checkout()).await.map_err(late)??;
            match timeout_at(deadline.into(), ask(conn.inner.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if !again && (error.is_io_error() || error.is_unrecoverable_error()) => {
                    conn.broken = true;
                    again = true;
                }
                // Forgotten again between loading and calling it: the deadline ends this.
                Ok(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {}
                Ok(Err(error)) => return Err(refusal(&error).unwrap_or_else(|| conn.failed(error))),
                Err(elapsed) => {
                    conn.broken = true;
                    return Err(late(elapsed));
                }
            }
        }
    }
}

async fn run<T>(call: ScriptInvocation<'static>, mut conn: MultiplexedConnection) -> Result<T, RedisError>
where
    T: redis::FromRedisValue,
{
    call.invoke_async(&mut conn).await
}

/// How long somebody waits for Redis who goes on without it: one who finds it away spares others the wait for a second.
#[derive(Clone)]
pub struct Patience {
    longest: Duration,
    away_since: Arc<Mutex<Option<Instant>>>,
}

impl Patience {
    pub fn new(longest: Duration) -> Self {
        Self { longest, away_since: Arc::default() }
    }

    async fn unless_away<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let away = || self.away_since.lock().unwrap_or_else(PoisonError::into_inner);
        if away().is_some_and(|since| since.elapsed() < REST) {
            return Err(Error::unavailable("Redis", "it did not answer a moment ago"));
        }
        let answer = answer.await;
        *away() = answer.is_err().then(Instant::now);
        answer
    }
}

/// One pooled connection, when it was last used, and whether it has failed.
struct Connection {
    inner: MultiplexedConnection,
    broken: bool,
    last_used: Instant,
}

impl Connection {
    /// Every failure of Redis is one of a dependency: the caller may come back.
    fn failed(&mut self, error: RedisError) -> Error {
        self.broken = true;
        Error::unavailable("Redis", error)
    }
}

struct Manager {
    inner: RedisConnectionManager,
    timeout: Duration,
}

impl bb8::ManageConnection for Manager {
    type Connection = Connection;
    type Error = BoxError;

    async fn connect(&self) -> Result<Connection, BoxError> {
        let mut inner = self.inner.connect().await?;
        inner.set_response_timeout(self.timeout);
        Ok(Connection { inner, broken: false, last_used: Instant::now() })
    }

    async fn is_valid(&self, conn: &mut Connection) -> Result<(), BoxError> {
        if conn.last_used.elapsed() < TRUST_IDLE {
            return Ok(());
        }
        Ok(self.inner.is_valid(&mut conn.inner).await?)
    }

    fn has_broken(&self, conn: &mut Connection) -> bool {
        conn.last_used = Instant::now();
        conn.broken
    }
}
