//! The table `idempotency_keys`: the answers to requests that a client may repeat.

use chrono::{DateTime, Duration, Utc};
use diesel::{prelude::*, sql_types::BigInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::{clock::DatabaseClock, clock_timestamp, delete_batch};
use crate::schema::idempotency_keys;

/// How long a repeated request gets the stored answer. After this time, the answer is expired.
const LIFETIME_HOURS: i64 = 24;

#[diesel::declare_sql_function]
extern "SQL" {
    /// Acquires an advisory lock until the transaction ends, if no other transaction holds it. Returns whether the lock was
    /// acquired.
    fn pg_try_advisory_xact_lock(id: BigInt) -> Bool;
}

/// Identifies a stored answer. The key alone does not: several callers and operations may use the same key.
#[derive(Clone, Copy)]
pub struct KeyId<'a> {
    /// The caller of the operation: `user:7`, or `key:12` for an API key.
    pub caller: &'a str,
    /// The id of the operation in the API document.
    pub operation: &'a str,
    pub key: &'a str,
}

/// The answer to a request, stored in the transaction of the change that it reports.
#[derive(HasQuery)]
#[diesel(table_name = idempotency_keys)]
pub struct StoredAnswer {
    /// SHA-256 of the method, path, query and body of the request, in a normalized form.
    pub fingerprint: Vec<u8>,
    pub status: i16,
    /// An array of pairs of name and value.
    pub headers: Value,
    pub body: String,
    created_at: DateTime<Utc>,
    #[diesel(select_expression = clock_timestamp())]
    clock: DatabaseClock,
}

/// An answer to insert.
#[derive(Insertable)]
#[diesel(table_name = idempotency_keys)]
pub struct NewStoredAnswer<'a> {
    pub caller: &'a str,
    pub operation: &'a str,
    pub key: &'a str,
    pub fingerprint: &'a [u8],
    pub status: i16,
    pub headers: Value,
    pub body: &'a str,
}

impl NewStoredAnswer<'_> {
    /// Inserts the answer. The statement returns no column, so the database role needs only the privilege INSERT.
    pub async fn insert(&self, mut conn: &AsyncPgConnection) -> QueryResult<usize> {
        diesel::insert_into(idempotency_keys::table).values(self).execute(&mut conn).await
    }
}

impl StoredAnswer {
    /// Acquires the advisory lock with this number until the transaction ends, unless another transaction holds it. Returns
    /// whether the lock was acquired. Never waits.
    pub async fn try_lock(mut conn: &AsyncPgConnection, lock: i64) -> QueryResult<bool> {
        diesel::select(pg_try_advisory_xact_lock(lock)).get_result(&mut conn).await
    }

    /// Returns an answer, which may be expired.
    pub async fn find(mut conn: &AsyncPgConnection, id: KeyId<'_>) -> QueryResult<Option<Self>> {
        Self::query()
            .filter(idempotency_keys::caller.eq(id.caller))
            .filter(idempotency_keys::operation.eq(id.operation))
            .filter(idempotency_keys::key.eq(id.key))
            .first(&mut conn)
            .await
            .optional()
    }

    /// Returns whether the answer is at least 24 hours old, so that it must not be used.
    pub fn is_expired(&self) -> bool {
        self.clock.now() - self.created_at >= Duration::hours(LIFETIME_HOURS)
    }

    /// Deletes an answer.
    pub async fn delete(mut conn: &AsyncPgConnection, id: KeyId<'_>) -> QueryResult<usize> {
        diesel::delete(idempotency_keys::table)
            .filter(idempotency_keys::caller.eq(id.caller))
            .filter(idempotency_keys::operation.eq(id.operation))
            .filter(idempotency_keys::key.eq(id.key))
            .execute(&mut conn)
            .await
    }

    /// Deletes all answers to a caller. Returns how many.
    pub async fn delete_all_of(mut conn: &AsyncPgConnection, caller: &str) -> QueryResult<usize> {
        diesel::delete(idempotency_keys::table)
            .filter(idempotency_keys::caller.eq(caller))
            .execute(&mut conn)
            .await
    }

    /// Deletes at most `limit` expired answers. Returns how many.
    pub async fn purge(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        let expired = format!("created_at <= now() - interval '{LIFETIME_HOURS} hours'");
        delete_batch(conn, "idempotency_keys", &expired, limit).await
    }
}
