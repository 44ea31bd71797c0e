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
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use diesel::{QueryResult, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Snapshot, connection::Manager, listener::listen};

pub(super) const CHANNEL: &str = "changes";
/// A change is heard at once; should it not be, copies are used for so long at most.
const TRUST: Duration = Duration::from_millis(80);
/// After so long the server is asked for a sign of life, if somebody uses copies.
const REFRESH: Duration = Duration::from_millis(25);
/// Changes that are remembered; more make all copies of before be read again.
const MOST: usize = 10_000;
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
pub(super) struct Shared {
    /// `None` while nothing can be heard.
    pub(super) hearing: watch::Sender<Option<Hearing>>,
    /// Somebody wants to know whether we still hear.
    pub(super) asked: Notify,
    /// Somebody has read from another server than the one that we listen to.
    pub(super) astray: Notify,
    known: RwLock<Known>,
}

#[derive(Clone, Copy)]
pub(super) struct Hearing {
    /// All that was committed until then has been heard.
    pub(super) until: Instant,
    /// Since when the server has owed us a sign of life.
    pub(super) waiting: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Known {
    /// What was to be seen when we began: of later changes we know. Without it we know nothing.
    pub(super) since: Option<Snapshot>,
    /// The last transaction to have told of a row. They are heard in the order in which they were committed, so that
    /// whoever sees the last has seen those before.
    last: HashMap<Box<str>, u64>,
    /// How often we have forgotten all.
    pub(super) forgotten: u64,
}

impl Known {
    pub(super) fn forget(&mut self) {
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
    pub(super) fn note(&self, payload: &str) {
        let Some((row, Ok(transaction))) = payload.split_once(' ').map(|(row, id)| (row, id.parse())) else {
            return;
        };
        let mut known = self.known_mut();
        if known.last.len() >= MOST {
            known.forget();
        }
        known.last.insert(row.into(), transaction);
    }

    pub(super) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
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
