//! Which rows have changed: what makes it safe to keep copies of them.
//!
//! A trigger (`tell_of_change`, in the migrations) tells of each row that a transaction changes, with NOTIFY: all who
//! listen hear of it when that is committed, and only then, whoever did it and however they ended. PostgreSQL is asked
//! rather than Redis since nobody else knows for sure what was committed: a process that dies between a COMMIT and
//! telling others of it leaves them with a wrong copy, as does a Redis that is away at that moment.
//!
//! Silence means that nothing has changed only as long as we can hear. So the listener asks the server for a sign of
//! life, as often as copies are used and not at all where they are not, and everybody goes to the database once the last
//! sign is older than [`TRUST`].

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use anyhow::Context;
use diesel::{QueryResult, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    Snapshot,
    connection::{Listening, Manager},
};
use crate::{config::Database, error::BoxError, telemetry::chain};

const CHANNEL: &str = "changes";
/// A change is heard at once; should it not be, copies are used for so long at most.
const TRUST: Duration = Duration::from_millis(80);
/// After so long the server is asked for a sign of life, if somebody uses copies.
const REFRESH: Duration = Duration::from_millis(25);
/// A server that gives none for so long is given up.
const SILENCE: Duration = Duration::from_secs(1);
/// Setting up takes no longer.
const SET_UP: Duration = Duration::from_secs(10);
const BACK_OFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// Changes that are remembered; more make all copies of before be read again.
const MOST: usize = 10_000;
/// With what we greet ourselves.
const GREETING: &str = "hello ";
/// What stands for all rows, of all tables.
const ALL: &str = "*";

/// A row, as the trigger names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row(Box<str>);

impl Row {
    pub fn new(table: &str, id: impl std::fmt::Display) -> Self {
        Self(format!("{table}:{id}").into())
    }

    /// As the trigger does.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn tell_of_change(&self, mut conn: &AsyncPgConnection) -> QueryResult<()> {
        let tell = diesel::sql_query("SELECT pg_notify($1, $2 || ' ' || pg_current_xact_id())");
        tell.bind::<Text, _>(CHANNEL).bind::<Text, _>(&*self.0).execute(&mut conn).await.map(drop)
    }
}

/// What is heard of rows that change; a clone shares it. It begins to listen when it is first asked.
#[derive(Clone)]
pub struct Changes(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    manager: Arc<Manager>,
    /// Ends with the last clone.
    listener: OnceLock<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// `None` while nothing can be heard.
    hearing: watch::Sender<Option<Hearing>>,
    /// Somebody wants to know whether we still hear.
    asked: Notify,
    /// Somebody has read from another server than the one that we listen to.
    astray: Notify,
    known: RwLock<Known>,
}

#[derive(Clone, Copy)]
struct Hearing {
    /// All that was committed until then has been heard.
    until: Instant,
    /// Since when the server has owed us a sign of life.
    waiting: Option<Instant>,
}

#[derive(Default)]
struct Known {
    /// What was to be seen when we began: of later changes we know. Without it we know nothing.
    since: Option<Snapshot>,
    /// The last transaction to have told of a row. They are heard in the order in which they were committed, so that
    /// whoever sees the last has seen those before.
    last: HashMap<Box<str>, u64>,
    /// How often we have forgotten all.
    forgotten: u64,
}

impl Known {
    fn forget(&mut self) {
        *self = Self { forgotten: self.forgotten + 1, ..Self::default() };
    }
}

impl Changes {
    pub(super) fn new(manager: Manager) -> Self {
        Self(Arc::new(Inner {
            shared: Arc::default(),
            manager: Arc::new(manager),
            listener: OnceLock::new(),
        }))
    }

    /// Whether copies may be used now: whether all that was committed more than 80 ms ago has been heard. Waits for a
    /// sign of life where there was none lately, and no longer than that.
    pub async fn are_heard(&self) -> bool {
        let Inner { shared, manager, listener } = &*self.0;
        listener
            .get_or_init(|| AbortOnDropHandle::new(tokio::spawn(listen(shared.clone(), manager.clone()))));
        let Some(hearing) = *shared.hearing.borrow() else { return false };
        let (now, age) = (Instant::now(), hearing.until.elapsed());
        if age < REFRESH {
            return true;
        }
        if age < TRUST {
            shared.asked.notify_one();
            return true;
        }
        shared.heard_since(now - TRUST).await
    }

    /// Waits until all that has been committed by now is heard, or copies are not used any more.
    pub async fn catch_up(&self) {
        self.0.shared.heard_since(Instant::now()).await;
    }

    /// Whether a copy of something that was read in a snapshot is still right, as far as is heard.
    pub fn vouch_for(&self, snapshot: &Snapshot, rows: &[Row]) -> bool {
        let known = self.0.shared.known();
        let seen = |row: &str| known.last.get(row).is_none_or(|change| snapshot.sees(*change));
        known.since.as_ref().is_some_and(|since| snapshot.follows(since))
            && rows.iter().all(|row| seen(&row.0))
            && seen(ALL)
    }

    /// Makes sure that what was just read comes from the server that we listen to. After a failover it may not.
    pub fn compare(&self, read: &Snapshot) {
        let shared = &self.0.shared;
        if shared.known().since.as_ref().is_some_and(|since| !read.is_of_server_of(since)) {
            shared.known_mut().forget();
            shared.astray.notify_one();
        }
    }
}

impl Shared {
    fn note(&self, payload: &str) {
        let Some((row, Ok(transaction))) = payload.split_once(' ').map(|(row, id)| (row, id.parse())) else {
            return;
        };
        let mut known = self.known_mut();
        if known.last.len() >= MOST {
            known.forget();
        }
        known.last.insert(row.into(), transaction);
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a sign of life that was asked for then or later.
    async fn heard_since(&self, when: Instant) -> bool {
        let late = |hearing: &Hearing| hearing.waiting.is_some_and(|since| since.elapsed() > TRUST);
        match *self.hearing.borrow() {
            None => return false,
            Some(hearing) if late(&hearing) => return false,
            Some(_) => self.asked.notify_one(),
        }
        let mut hearing = self.hearing.subscribe();
        let until_then = hearing.wait_for(|now| now.is_none_or(|hearing| hearing.until >= when));
        matches!(timeout(TRUST, until_then).await, Ok(Ok(hearing)) if hearing.is_some())
    }
}

/// Whether changes can be heard.
///
/// # Errors
/// Why they cannot.
pub async fn check(settings: &Database) -> anyhow::Result<()> {
    let heard = timeout(SET_UP, set_up(&Arc::default(), &Manager::new(settings)?)).await;
    heard.context("PostgreSQL does not answer")?.map(drop).map_err(|error| anyhow::anyhow!(error))
}

/// Listens, and again whenever that ends.
async fn listen(shared: Arc<Shared>, manager: Arc<Manager>) {
    let mut pause = BACK_OFF[0];
    loop {
        let error = match listen_once(&shared, &manager).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if shared.hearing.send_replace(None).is_some() {
            pause = BACK_OFF[0];
        }
        if pause == BACK_OFF[0] {
            let error = chain(&*error);
            tracing::warn!(
                error,
                "changes in the database cannot be heard: nothing is cached until they can"
            );
        }
        sleep(pause).await;
        pause = (2 * pause).min(BACK_OFF[1]);
    }
}

async fn listen_once(shared: &Arc<Shared>, manager: &Manager) -> Result<Infallible, BoxError> {
    shared.known_mut().forget();
    let set_up = timeout(SET_UP, set_up(shared, manager)).await;
    let listener = set_up.map_err(|_| "PostgreSQL does not answer")??;
    tracing::debug!("changes in the database are heard");
    loop {
        let asked = Instant::now();
        shared.hearing.send_modify(|hearing| {
            if let Some(hearing) = hearing {
                hearing.waiting = Some(asked);
            }
        });
        timeout(SILENCE, shared.sign_of_life(&listener))
            .await
            .map_err(|_| "PostgreSQL does not answer")??;
        shared.hearing.send_replace(Some(Hearing { until: asked, waiting: None }));
        tokio::select! {
            () = shared.asked.notified() => {}
            () = shared.astray.notified() => return Err("requests are answered by another server".into()),
        }
    }
}

async fn set_up(shared: &Arc<Shared>, manager: &Manager) -> Result<Listening, BoxError> {
    let (tell, greetings) = mpsc::unbounded_channel();
    let ear = shared.clone();
    let listener = manager.listen(CHANNEL, move |payload| match payload.strip_prefix(GREETING) {
        // Nobody waits for it once we have heard our own.
        Some(name) => drop(tell.send(name.to_owned())),
        None => ear.note(payload),
    });
    let listener = listener.await?;
    greet(manager, greetings).await?;
    Ok(listener)
}

impl Shared {
    /// Whatever is told before the answer has been heard when that comes.
    async fn sign_of_life(&self, listener: &Listening) -> Result<(), BoxError> {
        let mut conn = &listener.conn;
        let forgotten = {
            let known = self.known();
            known.since.is_none().then_some(known.forgotten)
        };
        let Some(forgotten) = forgotten else { return Ok(conn.batch_execute("").await?) };
        let snapshot = Snapshot::take(conn).await?;
        let mut known = self.known_mut();
        // What was forgotten since may be later than the snapshot.
        if known.forgotten == forgotten {
            known.since = Some(snapshot);
        }
        Ok(())
    }
}

/// Makes sure that we hear what others say. Through a pooler that lends a connection for a transaction we would not.
async fn greet(manager: &Manager, mut greetings: mpsc::UnboundedReceiver<String>) -> Result<(), BoxError> {
    let name = Uuid::new_v4().simple().to_string();
    let mut other = manager.establish().await?;
    other.batch_execute(&format!("NOTIFY {CHANNEL}, '{GREETING}{name}'")).await?;
    let own = async {
        while let Some(heard) = greetings.recv().await {
            if heard == name {
                return true;
            }
        }
        false
    };
    match timeout(SILENCE, own).await {
        Ok(true) => Ok(()),
        _ => {
            Err("what is told on one connection is not heard on another (LISTEN needs a direct connection, \
                  or a pooler in session mode)"
                .into())
        }
    }
}
