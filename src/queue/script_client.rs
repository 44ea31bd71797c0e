//! A client that calls the engine's scripts over a connection of any type.

use std::{sync::Arc, time::Duration};

use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisFuture, RedisResult, Script, ScriptInvocation,
    ServerErrorKind, Value, aio::ConnectionLike,
};
use tokio::time::timeout;

use super::error::{Error, Result};

/// Calls scripts for clients of the queue; clones share the connection.
#[derive(Clone)]
pub(super) struct ScriptClient {
    connection: AnyConnection,
    prefix: Arc<str>,
    timeout: Duration,
}

impl ScriptClient {
    /// Creates a client. `timeout` is the time that Redis may take to answer one attempt. A call has twice this time, because
    /// the connection may send it again.
    pub(super) fn new(
        connection: impl ConnectionLike + Clone + Send + Sync + 'static,
        prefix: &str,
        timeout: Duration,
    ) -> Self {
        Self { connection: AnyConnection(Box::new(connection)), prefix: prefix.into(), timeout }
    }

    /// Returns a client of the same prefix on another connection.
    pub(super) fn on(&self, connection: impl ConnectionLike + Clone + Send + Sync + 'static) -> Self {
        Self { connection: AnyConnection(Box::new(connection)), ..self.clone() }
    }

    /// Returns a client of another prefix on the same connection.
    pub(super) fn with_prefix(&self, prefix: &str) -> Self {
        Self { prefix: prefix.into(), ..self.clone() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns a call of a script. The caller adds the arguments.
    pub(super) fn prepare(&self, script: &'static Script) -> ScriptInvocation<'static> {
        script.key(&*self.prefix)
    }

    /// Runs a call. The connection may send it several times, so the scripts of this client are safe to repeat. If a script
    /// changes many jobs, the answer to a repeated call may count the jobs of the last run only.
    ///
    /// # Errors
    /// [`Error::UnknownJob`], [`Error::OwnerLimit`] or [`Error::Forgotten`] if the script returns this error;
    /// [`Error::Unavailable`] if Redis does not answer in time, or returns another error or a value that is not a `T`.
    pub(super) async fn run<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T> {
        let mut connection = self.connection.clone();
        let answer = async {
            loop {
                match call.invoke_async(&mut connection).await {
                    // Redis has dropped the script between loading and calling it.
                    Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {}
                    answer => return answer,
                }
            }
        };
        self.within_limit(answer).await
    }

    /// Runs a command, which the connection may send several times.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if Redis does not answer in time, or refuses the command.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.within_limit(command.query_async(&mut self.connection.clone())).await
    }

    async fn within_limit<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> Result<T> {
        match timeout(2 * self.timeout, answer).await {
            Ok(answer) => Ok(answer?),
            Err(elapsed) => Err(Error::Unavailable(elapsed.into())),
        }
    }
}

/// A connection whose type is erased.
struct AnyConnection(Box<dyn CloneConnection>);

/// A connection that can be cloned as a trait object.
trait CloneConnection: ConnectionLike + Send + Sync {
    fn boxed_clone(&self) -> Box<dyn CloneConnection>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> CloneConnection for C {
    fn boxed_clone(&self) -> Box<dyn CloneConnection> {
        Box::new(self.clone())
    }
}

impl Clone for AnyConnection {
    fn clone(&self) -> Self {
        Self(self.0.boxed_clone())
    }
}

impl ConnectionLike for AnyConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}
