//! The handle of an open transaction.
//!
//! Most queries that change an account or an organization require a [`Tx`]. A `Tx` has a [`RequestContext`], so that the
//! audit trail can name the actor. `services::transaction` and commands create the `Tx`.

use std::{
    ops::Deref,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use diesel_async::AsyncPgConnection;
use uuid::Uuid;

use crate::context::RequestContext;

/// An open transaction and its request context. Derefs to the connection.
pub struct Tx<'a> {
    conn: &'a AsyncPgConnection,
    /// The user, the client and the ids of the request, for the audit trail.
    pub context: &'a RequestContext,
    effects: &'a Effects,
}

/// The actions outside the database that follow the commit.
#[derive(Default)]
pub struct Effects {
    identities_unchanged: AtomicBool,
    committing: AtomicBool,
    inactive_users: Mutex<Vec<i64>>,
    jobs: Mutex<Vec<Uuid>>,
}

impl Deref for Tx<'_> {
    type Target = AsyncPgConnection;
    fn deref(&self) -> &AsyncPgConnection {
        self.conn
    }
}

impl<'a> Tx<'a> {
    /// Returns the connection of the transaction.
    pub fn conn(&self) -> &'a AsyncPgConnection {
        self.conn
    }

    /// Wraps a transaction that the caller begins and commits. For `services::transaction`, and for functions of commands without
    /// an `App`; other services call the functions of `services::transaction`.
    pub fn on(conn: &'a AsyncPgConnection, context: &'a RequestContext, effects: &'a Effects) -> Self {
        Self { conn, context, effects }
    }

    /// Records that this transaction has written a job to the table `job_outbox`. The job is enqueued after the commit.
    pub fn add_job(&self, id: Uuid) {
        self.effects.jobs.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    /// Records that this transaction deactivates or deletes a user, or schedules the deletion of the account. The jobs of the
    /// user are purged after the commit.
    pub fn set_inactive(&self, user_id: i64) {
        self.effects.inactive_users.lock().unwrap_or_else(PoisonError::into_inner).push(user_id);
    }

    /// Records that this transaction changes neither the permissions of a user or an API key, nor the validity of a session or a
    /// key. Without this call, `services::transaction` invalidates the cached identities of this process.
    pub fn set_identities_unchanged(&self) {
        self.effects.identities_unchanged.store(true, Ordering::Relaxed);
    }
}

impl Effects {
    /// Removes the effects of an attempt that was rolled back.
    pub fn reset(&self) {
        self.identities_unchanged.store(false, Ordering::Relaxed);
        self.committing.store(false, Ordering::Relaxed);
        self.take_inactive_users();
        self.take_jobs();
    }

    /// Removes and returns the ids of the jobs that the transaction has written.
    pub fn take_jobs(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes and returns the ids of the users whom the transaction has deactivated, deleted or scheduled for deletion.
    pub fn take_inactive_users(&self) -> Vec<i64> {
        std::mem::take(&mut *self.inactive_users.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records that the work succeeded, so that COMMIT is sent next.
    pub fn set_committing(&self) {
        self.committing.store(true, Ordering::Relaxed);
    }

    /// Returns whether the transaction may have changed the permissions of a user or an API key, or the validity of a session
    /// or a key.
    pub fn may_change_identities(&self) -> bool {
        self.committing.load(Ordering::Relaxed) && !self.identities_unchanged.load(Ordering::Relaxed)
    }
}
