//! Finds the Redis server that accepts writes, called the primary here, and connects to it.
//!
//! `REDIS_URL` (or `CACHE_REDIS_URL`) names one server, the Sentinels of a primary with replicas, or nodes of a cluster. All
//! keys of the product are in one slot of a cluster, so the primary is the owner of that slot. With Sentinels or a cluster, a
//! thread asks them which server is the primary, about twice a second and after each failed connection (see `watcher`). The
//! thread also notices a planned failover, which causes no error at first: Sentinels promote the new primary about ten seconds
//! before they demote the old one, which accepts writes until then.
//!
//! Connections do not follow `ASK`. While a slot moves, its keys are on two nodes, and a script would find only some of them.
//! Callers get the error `ASK`, and retry until the slot has moved or their time limit ends.

mod hello;
mod node;
mod watcher;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, ConnectionAddr, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{
    config::{RedisEndpoints, RedisTopology},
    lookups::Lookups,
};
use hello::Hello;
use node::{Primary, Question, key_slot};

/// The Redis servers that `REDIS_URL` or `CACHE_REDIS_URL` names. Clones share the thread that looks for the primary, and its
/// results.
#[derive(Clone)]
pub struct RedisServers(Arc<Inner>);

struct Inner {
    endpoints: RedisEndpoints,
    question: Question,
    lookups: Lookups,
    /// How long one Sentinel or node may take to answer.
    ask_timeout: Duration,
    /// Whether the thread that looks for the primary is running.
    is_watched: AtomicBool,
    /// Wakes the thread that looks for the primary, so that it asks before its interval ends.
    ask_now: Arc<Notify>,
    /// The result of the questions to all Sentinels or nodes so far.
    found: watch::Sender<Found>,
    /// [`Found::changes`], for tasks that wait for the next change.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Found {
    /// The last known primary. `None` until a Sentinel or node has answered.
    primary: Option<Primary>,
    /// How many times the primary or its address has changed. The first primary counts as a change.
    changes: u64,
    /// Why no Sentinel and no node answered the last question. `None` if one of them answered, or none was asked yet.
    error: Option<RedisError>,
}

impl RedisServers {
    /// Creates the servers without connecting. `key_prefix` determines the slot in a cluster. `ask_timeout` limits how long one
    /// Sentinel or node may take to answer; all are asked at the same time.
    pub fn new(endpoints: RedisEndpoints, key_prefix: &str, ask_timeout: Duration) -> Self {
        let question = match &endpoints.topology {
            RedisTopology::Sentinel { master } => Question::Sentinel { master: master.clone() },
            RedisTopology::Single | RedisTopology::Cluster => {
                Question::Cluster { slot: key_slot(key_prefix) }
            }
        };
        Self(Arc::new(Inner {
            endpoints,
            question,
            lookups: Lookups::default(),
            ask_timeout,
            is_watched: AtomicBool::new(false),
            ask_now: Arc::default(),
            found: watch::Sender::default(),
            changes: watch::Sender::default(),
        }))
    }

    /// Connects to the primary. Also returns the number of [`Self::changes`] that the connection belongs to. A single server may
    /// be a replica: reads work there.
    ///
    /// `connect_timeout` limits each attempt to connect. There is another attempt after each change of the primary. Commands on
    /// the connection fail if they are not answered within `response_timeout`.
    ///
    /// # Errors
    /// If the primary is not known, does not answer or is a replica by now, or if the thread that looks for the primary cannot
    /// be started. Also if `REDIS_URL` does not fit the servers: then the message says how to correct `REDIS_URL`.
    pub async fn connect(
        &self,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> RedisResult<(MultiplexedConnection, u64)> {
        if !self.has_failover() {
            let address = self.0.endpoints.server.addr();
            let (connection, hello) = self.open(address, connect_timeout, response_timeout).await?;
            if !hello.is_cluster {
                hello.refuse_sentinel(address)?;
                return Ok((connection, 0));
            }
        }
        self.watch()?;
        self.connect_to_primary(connect_timeout, response_timeout).await
    }

    /// Connects a thread without an async runtime to the last known primary. The time limit applies to connecting, not to
    /// commands. If the connection fails, the thread that looks for the primary asks again soon, if it runs.
    ///
    /// # Errors
    /// If the primary is not known or does not answer, or the thread that looks for it cannot be started.
    pub fn connect_blocking(&self, connect_timeout: Duration) -> RedisResult<redis::Connection> {
        let address = match self.has_failover() {
            false => self.0.endpoints.server.addr().clone(),
            true => {
                self.watch()?;
                let unknown = || io::Error::new(io::ErrorKind::NotConnected, "the primary is not known yet");
                self.primary().ok_or_else(unknown)?.0
            }
        };
        let opened = self.client(&address)?.get_connection_with_timeout(connect_timeout);
        if opened.is_err() {
            self.0.ask_now.notify_one();
        }
        opened
    }

    /// Returns whether another server can become the primary, so that a command can be repeated there.
    pub fn has_failover(&self) -> bool {
        self.0.endpoints.topology != RedisTopology::Single || self.0.is_watched.load(Ordering::Acquire)
    }

    /// Returns how many times the primary or its address has changed. A connection from before the last change must not be
    /// used. The number stays 0 for a single server that is not part of a cluster.
    pub fn changes(&self) -> u64 {
        *self.0.changes.borrow()
    }

    /// Returns a channel that receives the value of [`Self::changes`] after each change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Returns the number of the database, 0 in a cluster.
    pub fn database(&self) -> i64 {
        self.0.endpoints.server.redis_settings().db()
    }

    /// Awaits an answer of a connection that was opened when [`Self::changes`] was `opened_at`.
    ///
    /// # Errors
    /// The error of `answer`. Also an error if `answer` is not ready, and the primary or its address changes or has changed
    /// since the connection was opened: the old primary may never answer.
    pub async fn before_change<T>(
        &self,
        opened_at: u64,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.changed_from(opened_at) => {
                let changed = "another server has become the primary of Redis";
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, changed).into())
            }
        }
    }

    async fn connect_to_primary(
        &self,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> RedisResult<(MultiplexedConnection, u64)> {
        loop {
            let (address, changes) = match self.primary() {
                Some(known) => known,
                None => self.ask().await?,
            };
            let opened = tokio::select! {
                opened = self.open(&address, connect_timeout, response_timeout) => opened,
                () = self.changed_from(changes) => continue,
            };
            let error: RedisError = match opened {
                Ok((connection, hello)) if !hello.is_replica => return Ok((connection, changes)),
                Ok(_) => {
                    io::Error::other(format!("the server at {address} is a replica, no longer the primary"))
                        .into()
                }
                Err(error) => error,
            };
            // The known primary may be outdated. If the next answers name the same server, there is no other server to try.
            if self.ask().await?.1 == changes {
                return Err(error);
            }
        }
    }

    /// Waits until [`Self::changes`] is another number.
    async fn changed_from(&self, changes: u64) {
        let mut next = self.subscribe();
        // The wait cannot fail, because `self` holds the sender.
        drop(next.wait_for(|next| *next != changes).await);
    }

    /// Waits for the next answers of the Sentinels or nodes. Returns the primary like [`Self::primary`], even if it is known
    /// only from earlier answers.
    async fn ask(&self) -> RedisResult<(ConnectionAddr, u64)> {
        let mut found = self.0.found.subscribe();
        self.0.ask_now.notify_one();
        // Longer than the minimum pause of the thread (50 ms) and the next round of questions together. A round takes at most
        // `ask_timeout`, which is at least 33 ms: a third of the minimum of `REDIS_TIMEOUT_MS`.
        let _ = timeout(3 * self.0.ask_timeout, found.changed()).await;
        self.primary().ok_or_else(|| {
            let error = self.0.found.borrow().error.clone();
            error.unwrap_or_else(|| timed_out("no Sentinel and no node answered in time"))
        })
    }

    /// Returns the address of the primary, and the number of [`Self::changes`] that it belongs to.
    fn primary(&self) -> Option<(ConnectionAddr, u64)> {
        let found = self.0.found.borrow();
        found.primary.as_ref().map(|primary| (primary.address.clone(), found.changes))
    }

    /// Connects to a server, and asks for its kind and its role.
    async fn open(
        &self,
        address: &ConnectionAddr,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> RedisResult<(MultiplexedConnection, Hello)> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(Some(response_timeout))
            .set_dns_resolver(self.0.lookups.clone());
        let client = self.client(address)?;
        let opened = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let hello = Hello::ask(&mut connection).await?;
            Ok::<_, RedisError>((connection, hello))
        };
        let late = |_| timed_out(format!("no connection to {address} in time"));
        timeout(connect_timeout, opened).await.map_err(late)?
    }

    fn client(&self, address: &ConnectionAddr) -> RedisResult<redis::Client> {
        redis::Client::open(self.0.endpoints.server.clone().set_addr(address.clone()))
    }

    /// Starts the thread that looks for the primary, unless it is running.
    fn watch(&self) -> RedisResult<()> {
        if !self.0.is_watched.swap(true, Ordering::AcqRel) {
            watcher::start(&self.0).inspect_err(|_| self.0.is_watched.store(false, Ordering::Release))?;
        }
        Ok(())
    }
}

fn timed_out(why: impl Into<String>) -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, why.into()).into()
}

/// Creates an error that only a change of the settings resolves. Its kind gives it `RetryMethod::NoRetry`, by which callers
/// recognize that a retry is useless.
fn misconfigured(why: String) -> RedisError {
    io::Error::new(io::ErrorKind::Unsupported, why).into()
}
