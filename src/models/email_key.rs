//! The column `users.email_key`, which has the [key](crate::email_address::EmailAddress::key) of a user's address.
//!
//! If an earlier release or SQL has written the address, the key is missing until `services::email_keys` fills it in. It stays
//! missing if another user has the key, or the address is not valid any more.

use diesel::{
    prelude::*,
    sql_types::{Array, BigInt, Bool, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::schema::users;

/// A key to write to the row of a user.
pub struct KeyAssignment {
    pub id: i64,
    /// The address that the key was computed from.
    pub email: String,
    pub key: String,
}

/// Returns the ids and addresses of at most `limit` users without a key, in the order of their ids. The ids are greater
/// than `after`.
pub async fn find_missing(
    mut conn: &AsyncPgConnection,
    after: i64,
    limit: i64,
) -> QueryResult<Vec<(i64, String)>> {
    users::table
        .filter(users::email_key.is_null())
        .filter(users::id.gt(after))
        .order(users::id)
        .limit(limit)
        .select((users::id, users::email))
        .load(&mut conn)
        .await
}

/// Returns whether the database has the column `email_key`. The column is missing if its migration is not applied or was
/// reverted.
pub async fn exists(mut conn: &AsyncPgConnection) -> QueryResult<bool> {
    let sql =
        "EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('users') AND attname = 'email_key')";
    diesel::select(diesel::dsl::sql::<Bool>(sql)).get_result(&mut conn).await
}

/// Returns the number of users without a key.
pub async fn count_missing(mut conn: &AsyncPgConnection) -> QueryResult<i64> {
    users::table.filter(users::email_key.is_null()).count().get_result(&mut conn).await
}

/// Returns the id of the user who has this key.
pub async fn find_owner(mut conn: &AsyncPgConnection, key: &str) -> QueryResult<Option<i64>> {
    users::table.filter(users::email_key.eq(key)).select(users::id).first(&mut conn).await.optional()
}

/// Writes keys to the rows of users. Skips users whose address has changed or who have a key, and keys that another user has.
/// Returns the number of changed rows. The keys in `list` must differ, and its ids must ascend.
pub async fn set(mut conn: &AsyncPgConnection, list: &[KeyAssignment]) -> QueryResult<usize> {
    let (Some(first), Some(last)) = (list.first(), list.last()) else { return Ok(0) };
    let ids: Vec<_> = list.iter().map(|user| user.id).collect();
    let emails: Vec<_> = list.iter().map(|user| &*user.email).collect();
    let keys: Vec<_> = list.iter().map(|user| &*user.key).collect();
    // The list of ids implies the condition with BETWEEN. Without this condition, the planner may read the whole table.
    diesel::sql_query(
        "UPDATE users SET email_key = new.key FROM unnest($1, $2, $3) AS new (id, email, key)
         WHERE users.id = new.id AND users.id BETWEEN $4 AND $5
           AND users.email = new.email AND users.email_key IS NULL
           AND NOT EXISTS (SELECT FROM users other WHERE other.email_key = new.key)",
    )
    .bind::<Array<BigInt>, _>(ids)
    .bind::<Array<Text>, _>(emails)
    .bind::<Array<Text>, _>(keys)
    .bind::<BigInt, _>(first.id)
    .bind::<BigInt, _>(last.id)
    .execute(&mut conn)
    .await
}
