//! The client: enqueue, status, cancel.

use std::time::{Duration, Instant};

use bb8_redis::RedisConnectionManager;
use chrono::Utc;
use redis::{ErrorKind, RedisError, ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{
    job::{Envelope, Job, Origin},
    scripts,
    status::{JobStatus, Outcome, State},
};
use crate::{
    config::Redis,
    error::{BoxError, Error, Result},
    pool::{LastError, TRUST_IDLE},
};

/// Connections kept; each carries many commands at once.
const POOL_SIZE: u32 = 8;
/// A larger payload belongs in a table or a file, and its key in the job.
const MAX_ENVELOPE: usize = 1024 * 1024;

/// The job queue; a clone shares its connections.
#[derive(Clone)]
pub struct Queue {
    pool: bb8::Pool<Manager>,
    client: redis::Client,
    prefix: String,
    timeout: Duration,
    last_error: LastError,
}

/// What cancelling did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    Canceled,
    /// The job runs and was asked to stop.
    Requested,
    /// The job has ended already.
    Ended,
    Unknown,
}

impl Queue {
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
        Ok(Self { pool, client, prefix: settings.queue_prefix.clone(), timeout, last_error })
    }

    pub(super) fn client(&self) -> &redis::Client {
        &self.client
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Queues a job and returns its id. Once this has returned, the job is not lost.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when Redis is away or full: the job may then have been queued or not.
    pub async fn enqueue<J: Job>(&self, job: &J, origin: Origin) -> Result<String> {
        let id = Uuid::now_v7().simple().to_string();
        let envelope = Envelope {
            v: Envelope::VERSION,
            task: J::NAME.into(),
            queue: J::QUEUE.into(),
            payload: serde_json::to_value(job).map_err(Error::internal)?,
            owner: origin.owner,
            req: origin.request_id,
            ttl: J::RESULT_TTL.as_millis() as u64,
            at: Utc::now().timestamp_millis(),
        };
        let text = serde_json::to_string(&envelope).map_err(Error::internal)?;
        if text.len() > MAX_ENVELOPE {
            return Err(Error::TooLarge { limit: MAX_ENVELOPE });
        }
        // The id is ours, so a push whose answer was lost can be repeated: the second finds the first.
        let _: Vec<String> = self
            .invoke(|| {
                let mut call = scripts::PUSH.key(&self.prefix);
                call.arg(J::QUEUE).arg(0).arg(1).arg(&id).arg(&text);
                call
            })
            .await?;
        Ok(id)
    }

    /// Where a job stands; `None` where no such job is known (any more).
    pub async fn status(&self, id: &str) -> Result<Option<JobStatus>> {
        let answer = self
            .invoke(|| {
                let mut call = scripts::STATUS.key(&self.prefix);
                call.arg(id);
                call
            })
            .await?;
        JobStatus::read(answer)
    }

    /// Cancels a job that waits at once, and asks one that runs to stop.
    pub async fn cancel(&self, id: &str) -> Result<Cancel> {
        let Some(status) = self.status(id).await? else {
            return Ok(Cancel::Unknown);
        };
        let outcome = Outcome {
            state: State::Canceled,
            task: status.task,
            queue: status.queue,
            owner: status.owner,
            result: None,
            attempts: status.attempts,
            enqueued: status.enqueued_at.map_or(0, |at| at.timestamp_millis()),
            started: None,
            ended: Utc::now().timestamp_millis(),
        };
        let text = serde_json::to_string(&outcome).map_err(Error::internal)?;
        // A cancelled job has no result to keep for long.
        let ttl = Duration::from_secs(24 * 60 * 60).as_millis() as u64;
        let answer: String = self
            .invoke(|| {
                let mut call = scripts::CANCEL.key(&self.prefix);
                call.arg(id).arg(ttl).arg(&text);
                call
            })
            .await?;
        Ok(match answer.as_str() {
            "canceled" => Cancel::Canceled,
            "requested" => Cancel::Requested,
            _ => Cancel::Ended,
        })
    }

    /// # Errors
    /// [`Error::Unavailable`] when Redis does not answer.
    pub async fn ping(&self) -> Result<()> {
        let mut conn = self.checkout().await?;
        let answer: Result<String, RedisError> = redis::cmd("PING").query_async(&mut conn.inner).await;
        answer.map(drop).map_err(|error| conn.judge(error))
    }

    async fn checkout(&self) -> Result<bb8::PooledConnection<'_, Manager>> {
        self.pool.get().await.map_err(|error| match error {
            bb8::RunError::User(error) => Error::unavailable("Redis", error),
            bb8::RunError::TimedOut => Error::unavailable("Redis", self.last_error.explain()),
        })
    }

    /// Calls a script, and once more where the first answer was lost: every script bears that.
    async fn invoke<T, F>(&self, call: F) -> Result<T>
    where
        T: redis::FromRedisValue,
        F: Fn() -> ScriptInvocation<'static>,
    {
        let deadline = tokio::time::Instant::now() + 2 * self.timeout;
        let mut again = false;
        loop {
            let mut conn = self.checkout().await?;
            let answer = tokio::time::timeout_at(deadline, call().invoke_async(&mut conn.inner)).await;
            match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if !again && (error.is_io_error() || error.is_unrecoverable_error()) => {
                    conn.broken = true;
                    again = true;
                }
                // Forgotten again between loading and calling it: the deadline ends this.
                Ok(Err(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {}
                Ok(Err(error)) => return Err(conn.judge(error)),
                Err(late) => {
                    conn.broken = true;
                    return Err(Error::unavailable("Redis", late));
                }
            }
        }
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
    fn judge(&mut self, error: RedisError) -> Error {
        self.broken = true;
        Error::unavailable("Redis", error)
    }
}

/// bb8-redis pings at every checkout and never calls a connection broken; this asks after an idle one only, and
/// drops one that has failed.
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
