//! The client that pushes jobs, and waits for replicas if `Queue::wait_for_replicas` has been called.
//!
//! `WAIT` blocks its connection, and covers the writes of that connection. So a push and its `WAIT` use a connection that
//! no other call uses at the same time. Pushes of one batch share one `WAIT`.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, aio::MultiplexedConnection};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    connector::Connector,
    error::{Error, Result},
    push::{Push, push},
    reconnecting_connection::before_change,
    script_client::ScriptClient,
};

/// Maximum number of connections that wait for replicas at the same time.
const MAX_CONNECTIONS: usize = 8;
/// A connection that was idle for longer is pinged before it is used.
const PING_AFTER_IDLE: Duration = Duration::from_millis(500);
/// A connection that was idle for longer is closed by the next push.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// TTL of the key that is written before each `WAIT`.
const MARK_TTL_MS: u64 = 1_000;

/// The results of [`push`] for several pushes, in the same order.
pub(super) type Answers = Vec<Result<Vec<String>>>;

/// Pushes jobs; clones share the connections.
#[derive(Clone)]
pub(super) struct PushClient {
    scripts: ScriptClient,
    replication: Option<Arc<Replication>>,
}

impl PushClient {
    /// Creates a client that does not wait for replicas.
    pub(super) fn new(scripts: ScriptClient) -> Self {
        Self { scripts, replication: None }
    }

    /// Makes each push wait until `replicas` replicas have its jobs. With 0, no push waits. `connector` opens the connections.
    pub(super) fn wait_for_replicas(self, connector: &Arc<dyn Connector>, replicas: u32) -> Self {
        let replication = (replicas > 0).then(|| {
            let permits = Semaphore::new(MAX_CONNECTIONS);
            Arc::new(Replication { connector: connector.clone(), replicas, permits, idle: Mutex::default() })
        });
        Self { replication, ..self }
    }

    /// Returns how many replicas must have a job.
    pub(super) fn replicas(&self) -> u32 {
        self.replication.as_ref().map_or(0, |replication| replication.replicas)
    }

    /// Pushes like [`push`], and waits for the replicas.
    ///
    /// # Errors
    /// The errors of [`push`]; [`Error::Unavailable`] if too few replicas have the jobs in time. The jobs may run all the
    /// same.
    pub(super) async fn push(&self, call: Push<'_>) -> Result<Vec<String>> {
        let answer = self.push_all(&[call]).await.pop();
        answer.unwrap_or_else(|| Err(Error::internal("a push has no answer")))
    }

    /// Pushes concurrently, and returns an answer for each call, in the same order.
    pub(super) async fn push_all(&self, calls: &[Push<'_>]) -> Answers {
        let Some(replication) = &self.replication else {
            return push_on(&self.scripts, calls).await;
        };
        match self.in_time(replication.push_all(&self.scripts, calls)).await {
            Ok(answers) => answers,
            Err(late) => calls.iter().map(|_| Err(Error::Unavailable(late.clone().into()))).collect(),
        }
    }

    /// Awaits `answer`, for at most three times the timeout of one attempt. That is enough for two attempts to push and one
    /// wait for the replicas.
    ///
    /// # Errors
    /// [`WaitError::Late`] or [`WaitError::LateReplicas`] if the time is over. The jobs may run all the same.
    pub(super) async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, WaitError> {
        let limit = 3 * self.scripts.timeout();
        let limit_ms = limit.as_millis();
        timeout(limit, answer).await.map_err(|_| match self.replicas() {
            0 => WaitError::Late { limit_ms },
            wanted => WaitError::LateReplicas { wanted, limit_ms },
        })
    }
}

async fn push_on(scripts: &ScriptClient, calls: &[Push<'_>]) -> Answers {
    join_all(calls.iter().map(|call| push(scripts, call))).await
}

/// Pushes jobs and waits until replicas have them.
struct Replication {
    connector: Arc<dyn Connector>,
    replicas: u32,
    permits: Semaphore,
    idle: Mutex<Vec<IdleConnection>>,
}

struct IdleConnection {
    connection: MultiplexedConnection,
    /// The number of changes of the primary when the connection was opened.
    changes: u64,
    /// When the connection was last used.
    since: Instant,
}

/// Why a push is not confirmed by Redis and its replicas.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum WaitError {
    #[error(
        "{reached} of {wanted} replicas of Redis have the job after {limit_ms} ms (QUEUE_WAIT_REPLICAS); it may run all \
         the same"
    )]
    TooFew { reached: u32, wanted: u32, limit_ms: u128 },
    #[error("cannot wait for the replicas of Redis")]
    Redis(#[source] RedisError),
    #[error("Redis has not confirmed the job after {limit_ms} ms; it may run all the same")]
    Late { limit_ms: u128 },
    #[error(
        "Redis and {wanted} replicas (QUEUE_WAIT_REPLICAS) have not confirmed the job after {limit_ms} ms; it may run all the \
         same"
    )]
    LateReplicas { wanted: u32, limit_ms: u128 },
}

impl Replication {
    /// Pushes and waits. Repeats both once, on another connection, if the connection was refused or closed, or its server is no
    /// longer the primary. Repeating a push is safe.
    async fn push_all(&self, scripts: &ScriptClient, calls: &[Push<'_>]) -> Answers {
        // Never fails, because the semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let answers = self.attempt(scripts, calls).await;
        match answers.iter().any(is_connection_unusable) {
            true => self.attempt(scripts, calls).await,
            false => answers,
        }
    }

    async fn attempt(&self, scripts: &ScriptClient, calls: &[Push<'_>]) -> Answers {
        let (connection, changes) = match self.connect(scripts.timeout()).await {
            Ok(opened) => opened,
            Err(error) => return fail_all(calls, &error),
        };
        let pushing = async {
            let answers = push_on(&scripts.on(connection.clone()), calls).await;
            let waited = match answers.iter().any(Result::is_ok) {
                true => self.wait(connection.clone(), scripts).await,
                false => Ok(()),
            };
            (answers, waited)
        };
        let primary_changes = self.connector.primary_changes();
        let (answers, waited) = match before_change(changes, primary_changes, pushing).await {
            Ok(ended) => ended,
            Err(error) => return fail_all(calls, &error),
        };
        let is_unavailable = |answer: &Result<_>| matches!(answer, Err(Error::Unavailable(_)));
        if !answers.iter().any(is_unavailable) && !matches!(waited, Err(WaitError::Redis(_))) {
            self.idle().push(IdleConnection { connection, changes, since: Instant::now() });
        }
        let waited = || waited.clone().map_err(|error| Error::Unavailable(error.into()));
        answers.into_iter().map(|answer| answer.and_then(|known| waited().map(|()| known))).collect()
    }

    /// Waits until `self.replicas` replicas have what was written on a connection, or their time limit is over.
    async fn wait(
        &self,
        mut connection: MultiplexedConnection,
        scripts: &ScriptClient,
    ) -> Result<(), WaitError> {
        let limit = scripts.timeout();
        let mut commands = redis::pipe();
        // `WAIT` does not wait if the connection has written nothing. A push writes nothing if Redis has its jobs already,
        // although a replica may not have them yet. So the connection writes a key of its own.
        commands.cmd("PSETEX").arg(format!("{}:waited", scripts.prefix())).arg(MARK_TTL_MS).arg("").ignore();
        commands.cmd("WAIT").arg(self.replicas).arg(limit.as_millis() as u64);
        let (reached,): (u32,) = commands.query_async(&mut connection).await.map_err(WaitError::Redis)?;
        match reached < self.replicas {
            true => Err(WaitError::TooFew { reached, wanted: self.replicas, limit_ms: limit.as_millis() }),
            false => Ok(()),
        }
    }

    /// Returns an idle connection or, if there is none that still leads to the primary and answers a ping, a new one. A
    /// connection that was idle for less than [`PING_AFTER_IDLE`] is not pinged. Also returns the number of changes of the
    /// primary when the connection was opened.
    async fn connect(&self, limit: Duration) -> RedisResult<(MultiplexedConnection, u64)> {
        while let Some(IdleConnection { mut connection, changes, since }) = self.take_idle() {
            if changes != *self.connector.primary_changes().borrow() {
                continue;
            }
            if since.elapsed() < PING_AFTER_IDLE {
                return Ok((connection, changes));
            }
            let command = redis::cmd("PING");
            let ping = command.query_async::<()>(&mut connection);
            let answer = before_change(changes, self.connector.primary_changes(), ping).await.flatten();
            if answer.is_ok() {
                return Ok((connection, changes));
            }
        }
        // The response timeout must be longer than `limit`, for which a `WAIT` may block.
        self.connector.connect(limit, 2 * limit).await
    }

    fn take_idle(&self) -> Option<IdleConnection> {
        let mut idle = self.idle();
        idle.retain(|unused| unused.since.elapsed() < MAX_IDLE);
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        // No code panics while it holds the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the same error as the answer to each call.
fn fail_all(calls: &[Push<'_>], error: &RedisError) -> Answers {
    calls.iter().map(|_| Err(error.clone().into())).collect()
}

/// Returns whether a push failed because its connection was refused or closed, or leads to a replica; false for a time-out.
fn is_connection_unusable(answer: &Result<Vec<String>>) -> bool {
    let Err(error @ Error::Unavailable(_)) = answer else { return false };
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<RedisError>() {
            let is_replica = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
            return is_replica || error.is_io_error() && !error.is_timeout();
        }
        cause = error.source();
    }
    false
}
