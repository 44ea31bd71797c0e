//! Writes when sessions were last used. One statement writes the uses of many sessions.

use std::time::Instant;

use diesel::{
    QueryResult, QueryableByName,
    sql_types::{Array, Double, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::session::{IDLE_TIMEOUT_DAYS, TOUCH_INTERVAL_SECONDS};

/// `used_at` is the time of the database minus the age of the use, so the wall clock of this process does not matter. `due` has
/// the uses to write; `ANY` lets the planner use the primary key. After PostgreSQL locks a row, it evaluates the conditions of
/// `locked` again on the latest version of the row.
const WRITE: &str = "
    WITH used AS (
        SELECT id, now() - age * interval '1 second' AS used_at FROM unnest($1, $2) AS uses (id, age)
    ), due AS (
        SELECT s.id, used_at FROM used JOIN sessions s ON s.id = used.id AND s.id = ANY ($1)
        WHERE s.revoked_at IS NULL AND s.expires_at > used_at
          AND s.last_seen_at BETWEEN used_at - $3 * interval '1 hour' AND used_at - $4 * interval '1 second'
    ), locked AS (
        SELECT s.id, used_at FROM sessions s JOIN due ON due.id = s.id
        WHERE s.revoked_at IS NULL AND s.expires_at > used_at
          AND s.last_seen_at BETWEEN used_at - $3 * interval '1 hour' AND used_at - $4 * interval '1 second'
        ORDER BY s.id
        FOR NO KEY UPDATE OF s SKIP LOCKED
    ), written AS (
        UPDATE sessions SET last_seen_at = used_at FROM locked WHERE sessions.id = locked.id RETURNING sessions.id
    )
    SELECT id FROM due EXCEPT SELECT id FROM written";

/// Updates `sessions.last_seen_at`. `uses` has the ids of sessions and when they were used, by the monotonic clock of this
/// process. A use is ignored if the session is revoked or had expired at that time, or if `last_seen_at` is less than five
/// minutes earlier.
///
/// Does not wait for locked rows, so replicas of the product do not wait for each other, and hardly delay a revocation. Returns
/// the ids of the sessions whose uses are due but not written, because another transaction had locked or changed the row.
pub async fn write(mut conn: &AsyncPgConnection, uses: &[(Uuid, Instant)]) -> QueryResult<Vec<Uuid>> {
    let ids: Vec<_> = uses.iter().map(|(id, _)| *id).collect();
    let ages: Vec<_> = uses.iter().map(|(_, used_at)| used_at.elapsed().as_secs_f64()).collect();
    let skipped: Vec<SkippedSession> = diesel::sql_query(WRITE)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Double>, _>(ages)
        .bind::<Double, _>(24.0 * f64::from(IDLE_TIMEOUT_DAYS))
        .bind::<Double, _>(f64::from(TOUCH_INTERVAL_SECONDS))
        .load(&mut conn)
        .await?;
    Ok(skipped.into_iter().map(|session| session.id).collect())
}

/// A session whose use is due but not written.
#[derive(QueryableByName)]
struct SkippedSession {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}
