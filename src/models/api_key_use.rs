//! Writes when API keys were last used. One statement writes the uses of many keys.

use std::time::Instant;

use diesel::{
    QueryResult, QueryableByName,
    sql_types::{Array, BigInt, Double},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// Minimum time between two values of `last_used_at` of a key.
pub const TOUCH_INTERVAL_SECONDS: i32 = 60;

/// Works like the statement in `session_use.rs`. `used_at` is the time of the database minus the age of the use. After
/// PostgreSQL locks a row, it evaluates the conditions of `locked` again on the latest version of the row.
const WRITE: &str = "
    WITH used AS (
        SELECT id, now() - age * interval '1 second' AS used_at FROM unnest($1, $2) AS uses (id, age)
    ), due AS (
        SELECT k.id, used_at FROM used JOIN api_keys k ON k.id = used.id AND k.id = ANY ($1)
        WHERE k.last_used_at IS NULL OR k.last_used_at < used_at - $3 * interval '1 second'
    ), locked AS (
        SELECT k.id, used_at FROM api_keys k JOIN due ON due.id = k.id
        WHERE k.last_used_at IS NULL OR k.last_used_at < used_at - $3 * interval '1 second'
        ORDER BY k.id
        FOR NO KEY UPDATE OF k SKIP LOCKED
    ), written AS (
        UPDATE api_keys SET last_used_at = used_at FROM locked WHERE api_keys.id = locked.id RETURNING api_keys.id
    )
    SELECT id FROM due EXCEPT SELECT id FROM written";

/// Updates `api_keys.last_used_at`. `uses` has the ids of keys and when they were used, by the monotonic clock of this
/// process. A use is ignored if it is at most a minute later than `last_used_at`.
///
/// Does not wait for locked rows, so it holds its own locks only briefly, and hardly delays a revocation. Returns the ids of the
/// keys whose uses are due but not written, because another transaction had locked or changed the row.
pub async fn write(mut conn: &AsyncPgConnection, uses: &[(i64, Instant)]) -> QueryResult<Vec<i64>> {
    let ids: Vec<_> = uses.iter().map(|(id, _)| *id).collect();
    let ages: Vec<_> = uses.iter().map(|(_, used_at)| used_at.elapsed().as_secs_f64()).collect();
    let skipped: Vec<SkippedKey> = diesel::sql_query(WRITE)
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Array<Double>, _>(ages)
        .bind::<Double, _>(f64::from(TOUCH_INTERVAL_SECONDS))
        .load(&mut conn)
        .await?;
    Ok(skipped.into_iter().map(|key| key.id).collect())
}

/// A key whose use is due but not written.
#[derive(QueryableByName)]
struct SkippedKey {
    #[diesel(sql_type = BigInt)]
    id: i64,
}
