//! An open transaction of a service.

use std::{
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering},
};

use diesel_async::AsyncPgConnection;

use crate::context::RequestContext;

/// An open transaction and the request that it belongs to. Derefs to the connection.
pub struct Tx<'a> {
    conn: &'a AsyncPgConnection,
    /// The request that the audit trail names.
    pub context: &'a RequestContext,
    effects: &'a Effects,
}

/// What a transaction means beyond the database.
#[derive(Default)]
pub struct Effects {
    has_mail: AtomicBool,
    keeps_identities: AtomicBool,
}

impl Deref for Tx<'_> {
    type Target = AsyncPgConnection;
    fn deref(&self) -> &AsyncPgConnection {
        self.conn
    }
}

impl<'a> Tx<'a> {
    /// A transaction that the caller begins and commits: for commands, which have no [`App`].
    pub fn on(conn: &'a AsyncPgConnection, context: &'a RequestContext, effects: &'a Effects) -> Self {
        Self { conn, context, effects }
    }

    /// Notes that this transaction has put a mail into the outbox.
    pub(super) fn has_mail(&self) {
        self.effects.has_mail.store(true, Ordering::Relaxed);
    }

    /// Notes that this transaction changes neither what a user may do nor whether a session is valid, so that copies of
    /// them stay in use.
    pub(super) fn keeps_identities(&self) {
        self.effects.keeps_identities.store(true, Ordering::Relaxed);
    }
}

impl Effects {
    pub(super) fn have_mail(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed)
    }

    pub(super) fn keep_identities(&self) -> bool {
        self.keeps_identities.load(Ordering::Relaxed)
    }
}
