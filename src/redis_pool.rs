//! The Redis pool, which most parts of the product share. Workers fetch jobs and send heartbeats over their own connections.
//!
//! Connections are multiplexed. A connection returns to the pool before its command is answered, so it carries the
//! commands of many callers at the same time. The pool pings only connections that were idle. It discards connections that
//! have failed, and all connections when another server becomes the primary.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bb8_redis::bb8;
use futures_util::FutureExt;
use redis::{
    Cmd, ConnectionInfo, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisFuture, RedisResult,
    ScriptInvocation, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::socket2::TcpKeepalive,
};
use tokio::time::{sleep, timeout_at};

use crate::{
    config::Redis,
    error::{Error, Result},
    pool::LastError,
    redis_servers::RedisServers,
};

const POOL_SIZE: u32 = 8;
/// Time limit of an attempt to connect, or `REDIS_TIMEOUT_MS` if that is longer. A checkout waits for `REDIS_TIMEOUT_MS`
/// only; later checkouts can use the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time to wait for the answer of a Sentinel or a node of a cluster, or a third of `REDIS_TIMEOUT_MS` if that is
/// shorter. A server that does not answer delays the answers of the others by this time at most.
const MAX_ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two attempts at a command that the server refuses because of its role or state.
const FAILOVER_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// A connection that was idle for longer is pinged before it is used.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
/// Idle time before the first TCP keepalive probe. Without probes, firewalls may silently drop idle connections. Probes also
/// detect an unreachable server.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Time between two TCP keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// TTL of the key that [`RedisPool::probe`] writes, in milliseconds.
const PROBE_TTL_MS: u64 = 10_000;

/// Maximum time for which a circuit breaker stays open after a failure. While it is open, calls fail immediately.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// Connections to Redis; clones share them.
///
/// A command is sent again on another connection if its connection fails, or if a server refuses it during a failover. So every
/// command must be safe to repeat. All attempts together take at most twice `REDIS_TIMEOUT_MS` and 100 ms, or less for the
/// methods with a shorter limit.
#[derive(Clone)]
pub struct RedisPool {
    connections: bb8::Pool<Manager>,
    servers: RedisServers,
    /// Hosts and ports, for messages.
    location: Arc<str>,
    /// `REDIS_TIMEOUT_MS`.
    timeout: Duration,
    /// The deadline of all commands of this clone. `None` allows each command twice `timeout`.
    deadline: Option<Instant>,
    last_error: LastError,
    breaker: CircuitBreaker,
}

impl RedisPool {
    /// Creates the pool without connecting: the first command connects.
    ///
    /// # Errors
    /// As [`Redis::endpoints`]: if the URL, another `REDIS_*` setting or, for a cluster, `REDIS_KEY_PREFIX` is invalid.
    pub fn new(settings: &Redis) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(settings.redis_timeout_ms);
        let endpoints = settings.endpoints()?.map_connections(with_keepalive);
        let servers =
            RedisServers::new(endpoints, &settings.redis_key_prefix, MAX_ASK_TIMEOUT.min(timeout / 3));
        let last_error = LastError::default();
        let connections = bb8::Pool::builder()
            .max_size(POOL_SIZE)
            .connection_timeout(timeout)
            .test_on_check_out(true)
            .error_sink(Box::new(last_error.clone()))
            .build_unchecked(Manager { servers: servers.clone(), timeout });
        let breaker = CircuitBreaker::new(timeout / 3);
        let location = settings.location().into();
        Ok(Self { connections, servers, location, timeout, deadline: None, last_error, breaker })
    }

    /// Returns the servers of the pool, for callers that need their own connection.
    pub fn servers(&self) -> &RedisServers {
        &self.servers
    }

    /// Checks that Redis answers a PING.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no connection is available within `REDIS_TIMEOUT_MS`, or if Redis does not answer within twice
    /// `REDIS_TIMEOUT_MS` or answers with an error.
    pub async fn ping(&self) -> Result<()> {
        let answer: RedisResult<()> = redis::cmd("PING").query_async(&mut self.clone()).await;
        answer.map_err(unavailable)
    }

    /// Writes `key` with a TTL, to check that Redis accepts writes. Waits about a third of `REDIS_TIMEOUT_MS` at most.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time, or refuses the write, for example because it is full or
    /// read-only.
    pub async fn probe(&self, key: &str) -> Result<()> {
        let probe = Cmd::pset_ex(key, "", PROBE_TTL_MS);
        let answer: RedisResult<()> = probe.query_async(&mut self.within(self.breaker.timeout)).await;
        answer.map_err(unavailable)
    }

    /// Invokes a script for a caller that can continue without Redis: within a third of `REDIS_TIMEOUT_MS` and 100 ms, and
    /// through the circuit breaker of the pool.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time, answers with an error or with a value that is not a `T`, or if
    /// the circuit breaker is open.
    pub async fn try_invoke<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T> {
        self.breaker.call(script.invoke_async(&mut self.within(self.breaker.timeout))).await
    }

    /// Sends a command for a caller that can continue without Redis, through `breaker` and within its timeout and 100 ms.
    ///
    /// # Errors
    /// As [`Self::try_invoke`].
    pub async fn try_command<T: FromRedisValue>(&self, command: &Cmd, breaker: &CircuitBreaker) -> Result<T> {
        breaker.call(command.query_async(&mut self.within(breaker.timeout))).await
    }

    /// Returns a clone whose commands must all be answered within `timeout` from now.
    fn within(&self, timeout: Duration) -> Self {
        Self { deadline: Some(Instant::now() + timeout), ..self.clone() }
    }

    /// Returns a clone of a pooled connection. The connection itself returns to the pool immediately.
    async fn checkout(&self) -> RedisResult<Connection> {
        let guard = self.connections.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => error,
            bb8::RunError::TimedOut => timed_out(format!("{}: {}", self.location, self.last_error.explain())),
        })?;
        Ok(guard.clone())
    }

    /// Sends a request. If the connection fails, or another server becomes the primary, sends the request again on another
    /// connection. After a restart of Redis, all connections of the pool have failed, so there are up to `POOL_SIZE` further
    /// attempts. If the server refuses the request because of its role or state, and another server can become the primary,
    /// sends the request again until the deadline.
    async fn request<T, A>(&self, send: impl Fn(MultiplexedConnection) -> A) -> RedisResult<T>
    where
        A: Future<Output = RedisResult<T>>,
    {
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + 2 * self.timeout);
        let mut attempts = 0;
        let mut refusal: Option<RedisError> = None;
        loop {
            let late = |_| refusal.clone().unwrap_or_else(|| timed_out("no answer in time"));
            let connection = timeout_at(deadline.into(), self.checkout()).await.map_err(late)??;
            let sent = send(connection.inner);
            let answer = self.servers.before_change(connection.primary_changes, sent);
            let answer = timeout_at(deadline.into(), answer).await.map_err(late).flatten();
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_broken = error.is_io_error() || error.is_unrecoverable_error();
            let is_refused = is_unusable_server(&error);
            if is_broken || is_refused {
                connection.failed.store(true, Ordering::Relaxed);
            }
            attempts += 1;
            let may_retry = match is_refused {
                true => self.servers.has_failover(),
                false => is_broken && attempts <= POOL_SIZE,
            };
            if !may_retry || Instant::now() >= deadline {
                return Err(error);
            }
            if is_refused {
                refusal = Some(error);
                sleep(FAILOVER_RETRY_INTERVAL).await;
            }
        }
    }
}

impl ConnectionLike for RedisPool {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.request(move |mut connection| async move {
            match connection.req_packed_command(cmd).await? {
                Value::ServerError(error) => Err(error.into()),
                value => Ok(value),
            }
        })
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.request(move |mut connection| async move {
            connection.req_packed_commands(pipeline, offset, count).await
        })
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.servers.database()
    }
}

fn with_keepalive(info: ConnectionInfo) -> ConnectionInfo {
    let probes = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    let settings = info.tcp_settings().clone().set_keepalive(probes);
    info.set_tcp_settings(settings)
}

/// Returns whether a server has refused a command, or a command in a script, because of its role or state, as after a
/// failover. A new connection may reach another server.
fn is_unusable_server(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly};
    matches!(error.kind(), ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly))
}

fn timed_out(why: impl Into<String>) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, why.into()).into()
}

fn unavailable(error: RedisError) -> Error {
    Error::unavailable("Redis", error)
}

/// A circuit breaker for callers that can continue without Redis. After a failure, calls fail immediately for one second, or
/// until a call that was in progress succeeds. Clones share the state.
#[derive(Clone)]
pub struct CircuitBreaker {
    timeout: Duration,
    failed_at: Arc<Mutex<Option<Instant>>>,
}

impl CircuitBreaker {
    /// Creates a closed circuit breaker. [`RedisPool::try_command`] gives each command at most `timeout` and 100 ms.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, failed_at: Arc::default() }
    }

    /// Awaits `answer`, unless the circuit breaker is open. An error opens the circuit breaker.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if `answer` is an error, or if the circuit breaker is open: then `answer` is not awaited.
    pub async fn call<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> Result<T> {
        let failed_at = || self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        if failed_at().is_some_and(|at| at.elapsed() < OPEN_FOR) {
            return Err(Error::unavailable(
                "Redis",
                "the last command failed less than a second ago (circuit breaker is open)",
            ));
        }
        let answer = answer.await;
        *failed_at() = answer.is_err().then(Instant::now);
        answer.map_err(unavailable)
    }
}

/// A pooled connection. Clones share the connection and the flag `failed`.
#[derive(Clone)]
struct Connection {
    inner: MultiplexedConnection,
    /// Whether a command on this connection has failed in a way that makes the connection unusable.
    failed: Arc<AtomicBool>,
    /// [`RedisServers::changes`] when the connection was opened.
    primary_changes: u64,
    last_used: Instant,
    /// Whether a ping is in progress, was interrupted or has failed.
    has_unanswered_ping: bool,
}

struct Manager {
    servers: RedisServers,
    timeout: Duration,
}

impl Manager {
    fn is_usable(&self, connection: &Connection) -> bool {
        !connection.failed.load(Ordering::Relaxed) && connection.primary_changes == self.servers.changes()
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Connection;
    type Error = RedisError;

    async fn connect(&self) -> RedisResult<Connection> {
        let connect_timeout = CONNECT_TIMEOUT.max(self.timeout);
        let (inner, primary_changes) = self.servers.connect(connect_timeout, self.timeout).await?;
        let failed = Arc::default();
        Ok(Connection {
            inner,
            failed,
            primary_changes,
            last_used: Instant::now(),
            has_unanswered_ping: false,
        })
    }

    async fn is_valid(&self, connection: &mut Connection) -> RedisResult<()> {
        if !self.is_usable(connection) {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        if connection.last_used.elapsed() < PING_AFTER_IDLE {
            return Ok(());
        }
        // A checkout that times out drops this future. The flag then stays set, and the pool discards the connection.
        connection.has_unanswered_ping = true;
        let command = redis::cmd("PING");
        let ping = command.query_async::<()>(&mut connection.inner);
        self.servers.before_change(connection.primary_changes, ping).await?;
        connection.has_unanswered_ping = false;
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.last_used = Instant::now();
        connection.has_unanswered_ping || !self.is_usable(connection)
    }
}
