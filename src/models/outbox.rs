//! The table `outbox`: messages that release 0.1.0 has written before the upgrade, or while both releases run. This release
//! writes its messages to the table `job_outbox`.
//!
//! A message that is at least a day old and cannot be parsed is set aside: its row stays in the table, but is not read again.

use chrono::{DateTime, Utc};
use diesel::{data_types::PgInterval, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::{ago, clock::DatabaseClock, clock_timestamp, now};
use crate::schema::outbox;

/// A message that the job queue may not have yet.
#[derive(HasQuery)]
#[diesel(table_name = outbox)]
pub struct OutboxRow {
    pub id: i64,
    #[diesel(column_name = letter)]
    pub message: Value,
    pub created_at: DateTime<Utc>,
    #[diesel(select_expression = clock_timestamp())]
    pub clock: DatabaseClock,
}

impl OutboxRow {
    /// Returns the unique key by which the queue deduplicates the job of this message. The key contains the time, because ids
    /// repeat in a recreated database.
    pub fn key(&self) -> String {
        format!("letter-{}-{}", self.id, self.created_at.timestamp_micros())
    }

    /// Returns at most `limit` rows with greater ids than `id`, in the order of their ids. Leaves out rows that were set aside.
    pub async fn after(mut conn: &AsyncPgConnection, id: i64, limit: i64) -> QueryResult<Vec<Self>> {
        Self::query()
            .filter(outbox::id.gt(id))
            .filter(outbox::set_aside_at.is_null())
            .order(outbox::id)
            .limit(limit)
            .load(&mut conn)
            .await
    }

    /// Returns the number of messages that wait to be enqueued, at most `limit`.
    pub async fn count_waiting(mut conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        let ids = outbox::table
            .filter(outbox::set_aside_at.is_null())
            .select(outbox::id)
            .limit(limit)
            .load::<i64>(&mut conn)
            .await?;
        Ok(ids.len())
    }

    /// Sets aside the rows in `ids` that are at least `age` old. Returns the ids of the rows that this call
    /// has set aside.
    pub async fn set_aside(
        mut conn: &AsyncPgConnection,
        ids: &[i64],
        age: PgInterval,
    ) -> QueryResult<Vec<i64>> {
        let rows = outbox::table
            .filter(outbox::id.eq_any(ids))
            .filter(outbox::set_aside_at.is_null())
            .filter(outbox::created_at.le(ago(age)));
        diesel::update(rows)
            .set(outbox::set_aside_at.eq(now().nullable()))
            .returning(outbox::id)
            .get_results(&mut conn)
            .await
    }

    /// Deletes rows. Returns how many.
    pub async fn delete(mut conn: &AsyncPgConnection, ids: &[i64]) -> QueryResult<usize> {
        diesel::delete(outbox::table.filter(outbox::id.eq_any(ids))).execute(&mut conn).await
    }
}
