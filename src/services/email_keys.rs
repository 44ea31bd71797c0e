//! The filling in of missing [keys](crate::email_address::EmailAddress::key) of email addresses. The key is the normalized form
//! of an address. An address has no key at first if SQL, which cannot compute keys, or a release without keys has written it.
//!
//! [`fill_missing_keys`] runs after migrations. The nightly job fills in keys, too, because release 0.1.0 writes addresses
//! without keys during a rolling upgrade. Several processes may do this at the same time. Accounts are never merged: if several
//! accounts share an address, one of them gets the key. A login finds the other accounts by the stored spelling of the address.

use std::collections::HashSet;

use diesel_async::AsyncPgConnection;

use crate::{
    email_address::EmailAddress,
    error::{Error, OnConstraint, Result},
    models::email_key::{self, KeyAssignment},
};

/// Maximum number of rows that one statement changes: few enough that their locks hardly delay requests.
const BATCH_ROWS: i64 = 200;

/// Maximum number of attempts at one batch. An attempt is repeated if a concurrent transaction has taken one of the keys.
const MAX_ATTEMPTS: u32 = 10;

/// A pass over all users without a key. If several users of a pass share an address, the user with the lowest id gets the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Fills in the keys of addresses that equal their key. This pass runs first, so that a user with the canonical spelling
    /// takes precedence over other users without a key who have the same address.
    Canonical,
    /// Fills in the keys of the other valid addresses.
    OtherSpellings,
}

impl Pass {
    /// All passes, in the order in which they run.
    pub const ALL: [Self; 2] = [Self::Canonical, Self::OtherSpellings];
}

/// Fills in the missing keys, except those of invalid addresses, and those that another user has. Does nothing if the table of
/// users has no column for keys.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer; [`Error::EmailTaken`] if concurrent changes have taken a key in each
/// of `MAX_ATTEMPTS` attempts at a batch. Keys that were written before the error stay.
pub async fn fill_missing_keys(conn: &AsyncPgConnection) -> Result<()> {
    if !email_key::exists(conn).await? {
        return Ok(());
    }
    for pass in Pass::ALL {
        let mut after = i64::MIN;
        while let Some(last) = fill_batch(conn, pass, after).await? {
            after = last;
        }
    }
    Ok(())
}

/// Fills in the keys of a batch of users whose ids are greater than `after`. Returns the last id of the
/// batch, or `None` if no such user is left without a key.
///
/// # Errors
/// As [`fill_missing_keys`].
pub async fn fill_batch(conn: &AsyncPgConnection, pass: Pass, after: i64) -> Result<Option<i64>> {
    let rows = email_key::find_missing(conn, after, BATCH_ROWS).await?;
    let last = rows.last().map(|(id, _)| *id);
    let mut keys = HashSet::new();
    let mut batch = Vec::new();
    for (id, email) in rows {
        let Ok(EmailAddress { key, .. }) = EmailAddress::parse(&email) else { continue };
        if (pass == Pass::Canonical) == (key == email) && keys.insert(key.clone()) {
            batch.push(KeyAssignment { id, email, key });
        }
    }
    let mut attempts = 0;
    loop {
        attempts += 1;
        let result = email_key::set(conn, &batch).await;
        match result.on_constraint("users_email_key_key", Error::EmailTaken) {
            // A concurrent transaction has taken one of the keys. The next attempt skips that key.
            Err(Error::EmailTaken) if attempts < MAX_ATTEMPTS => {}
            result => return result.map(|_| last),
        }
    }
}

/// The reason why an account has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingKeyCause {
    /// The user with this id has the key, because the addresses of both differ only in spelling.
    SharedWith(i64),
    /// This release does not accept the address, for the given reason. An earlier release or SQL has written it.
    Invalid(&'static str),
    /// No user has the key of the address. [`fill_missing_keys`] or the nightly job can fill it in.
    NotFilled,
}

/// Returns the ids of up to `limit` users without a key, each with the cause, and the total number of such users.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn list_missing_keys(
    conn: &AsyncPgConnection,
    limit: i64,
) -> Result<(Vec<(i64, MissingKeyCause)>, i64)> {
    let total = email_key::count_missing(conn).await?;
    let mut list = Vec::new();
    for (id, email) in email_key::find_missing(conn, i64::MIN, limit).await? {
        let cause = match EmailAddress::parse(&email) {
            Err(problem) => MissingKeyCause::Invalid(problem),
            Ok(address) => email_key::find_owner(conn, &address.key)
                .await?
                .map_or(MissingKeyCause::NotFilled, MissingKeyCause::SharedWith),
        };
        list.push((id, cause));
    }
    Ok((list, total))
}
