//! Fills in missing [keys](crate::email_address::EmailAddress::key) of addresses. A key is missing if an
//! earlier release or SQL has written the address: SQL cannot compute keys.
//!
//! This runs after migrations, and also each night, because the previous release writes addresses while this
//! one is rolled out. Several processes may run it at the same time. Accounts are never merged: if accounts
//! share an address, one of them gets the key. The others stay without a key, and are found by the spelling
//! that is stored.

use std::collections::HashSet;

use diesel_async::AsyncPgConnection;

use crate::{
    email_address::EmailAddress,
    error::{Error, OnConstraint, Result},
    models::email_key::{self, KeyAssignment},
};

/// Rows that one statement changes: few enough that their locks do not delay requests.
const BATCH_ROWS: i64 = 200;

/// Attempts at one batch, if concurrent registrations take its keys.
const MAX_ATTEMPTS: u32 = 10;

/// A pass over all users without a key. If users share an address, the first of them gets the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Fills in the keys of addresses that equal their key. This pass comes first, so that such a user gets
    /// the key if several users share the address.
    Canonical,
    /// Fills in the keys of all other addresses.
    OtherSpellings,
}

impl Pass {
    /// All passes, in their order.
    pub const ALL: [Self; 2] = [Self::Canonical, Self::OtherSpellings];
}

/// Fills in all missing keys.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer. Keys that were written before stay.
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
/// batch, or `None` if there are no more users without a key.
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
            // A concurrent registration has taken one of the keys. The next attempt skips that key.
            Err(Error::EmailTaken) if attempts < MAX_ATTEMPTS => {}
            result => return result.map(|_| last),
        }
    }
}

/// Why an account has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The user with this id has the same address in another spelling.
    SharedWith(i64),
    /// This release does not accept the address, for this reason. An earlier release did.
    Invalid(&'static str),
    /// [`fill_missing_keys`] has not run since the address was written.
    NotFilled,
}

/// Returns the ids of up to `limit` users without a key, each with the cause, and the total number of such users.
///
/// # Errors
/// [`Error::Unavailable`] if PostgreSQL does not answer.
pub async fn list_missing_keys(conn: &AsyncPgConnection, limit: i64) -> Result<(Vec<(i64, Cause)>, i64)> {
    let total = email_key::count_missing(conn).await?;
    let mut list = Vec::new();
    for (id, email) in email_key::find_missing(conn, i64::MIN, limit).await? {
        let cause = match EmailAddress::parse(&email) {
            Err(problem) => Cause::Invalid(problem),
            Ok(address) => {
                email_key::find_owner(conn, &address.key).await?.map_or(Cause::NotFilled, Cause::SharedWith)
            }
        };
        list.push((id, cause));
    }
    Ok((list, total))
}
