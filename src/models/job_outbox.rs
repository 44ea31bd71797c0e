//! The table `job_outbox`: jobs that a transaction enqueues, until the job queue has them.
//!
//! A relay (`services::job_relay`) claims rows and enqueues their jobs. A row is set aside if the job may already have run. A
//! row that is at least a day old is also set aside if the queue refuses the job, or if the relay cannot read the row. A row
//! that was set aside stays in the table, but relays skip it.

use chrono::{DateTime, Utc};
use diesel::{
    data_types::PgInterval,
    prelude::*,
    sql_types::{Array, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::{ago, clock::DatabaseClock, clock_timestamp, now};
use crate::schema::job_outbox;

#[diesel::declare_sql_function]
extern "SQL" {
    fn octet_length(text: Text) -> Integer;
}

/// The statement that claims up to 100 rows without a current claim, the oldest first. A claim lasts 50 seconds, so the relay
/// that runs each minute claims a row again if its job was not enqueued. `$1` is a task whose rows are skipped, or null.
macro_rules! claim {
    ($condition:literal) => {
        concat!(
            "WITH free AS (
                SELECT id, tried_at FROM job_outbox
                WHERE set_aside_at IS NULL AND (claimed_until IS NULL OR claimed_until <= clock_timestamp())
                  AND ($1 IS NULL OR task <> $1) AND ",
            $condition,
            "
                ORDER BY id LIMIT 100
                FOR UPDATE SKIP LOCKED
            )
            UPDATE job_outbox SET claimed_until = clock_timestamp() + interval '50 seconds',
                tried_at = coalesce(job_outbox.tried_at, clock_timestamp())
            FROM free WHERE job_outbox.id = free.id
            RETURNING job_outbox.id, job_outbox.queue, job_outbox.task, job_outbox.owner, job_outbox.envelope,
                job_outbox.options, job_outbox.created_at, clock_timestamp() AS clock, free.tried_at AS tried_before"
        )
    };
}

/// A job to insert. The caller creates the id of the job, so that the insert needs no privilege to read.
#[derive(Insertable)]
#[diesel(table_name = job_outbox)]
pub struct NewJobOutboxRow<'a> {
    pub id: Uuid,
    pub queue: &'a str,
    pub task: &'a str,
    pub owner: Option<i64>,
    pub envelope: &'a str,
    pub options: Value,
}

impl NewJobOutboxRow<'_> {
    /// Inserts the job.
    pub async fn insert(&self, mut conn: &AsyncPgConnection) -> QueryResult<usize> {
        diesel::insert_into(job_outbox::table).values(self).execute(&mut conn).await
    }
}

/// A job that the queue may not have yet.
#[derive(HasQuery, QueryableByName)]
#[diesel(table_name = job_outbox)]
pub struct JobOutboxRow {
    pub id: Uuid,
    pub queue: String,
    pub task: String,
    pub owner: Option<i64>,
    pub envelope: String,
    pub options: Value,
    pub created_at: DateTime<Utc>,
    #[diesel(select_expression = clock_timestamp(), sql_type = Timestamptz)]
    pub clock: DatabaseClock,
}

/// A job that the caller has claimed.
#[derive(QueryableByName)]
pub struct ClaimedJob {
    #[diesel(embed)]
    pub job: JobOutboxRow,
    /// When a relay first claimed the row, if this is not the first claim. The queue may have the job since then.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub tried_before: Option<DateTime<Utc>>,
}

/// The id and the size of a job that waits in the table.
#[derive(Queryable)]
pub struct OwnerJob {
    pub id: Uuid,
    /// The size of the envelope in bytes.
    pub bytes: i32,
}

impl JobOutboxRow {
    /// Claims up to 100 rows. Skips rows of the task `except`.
    pub async fn claim(mut conn: &AsyncPgConnection, except: Option<&str>) -> QueryResult<Vec<ClaimedJob>> {
        diesel::sql_query(claim!("true")).bind::<Nullable<Text>, _>(except).load(&mut conn).await
    }

    /// Like [`claim`](Self::claim), but claims only rows in `ids`.
    pub async fn claim_these(
        mut conn: &AsyncPgConnection,
        ids: &[Uuid],
        except: Option<&str>,
    ) -> QueryResult<Vec<ClaimedJob>> {
        diesel::sql_query(claim!("id = ANY ($2)"))
            .bind::<Nullable<Text>, _>(except)
            .bind::<Array<SqlUuid>, _>(ids.to_vec())
            .load(&mut conn)
            .await
    }

    /// Returns a row, even if it was set aside.
    pub async fn find(mut conn: &AsyncPgConnection, id: Uuid) -> QueryResult<Option<Self>> {
        Self::query().filter(job_outbox::id.eq(id)).first(&mut conn).await.optional()
    }

    /// Returns those of `ids` that have a row in the table, even if the row was set aside.
    pub async fn existing_ids(mut conn: &AsyncPgConnection, ids: &[Uuid]) -> QueryResult<Vec<Uuid>> {
        let rows = job_outbox::table.filter(job_outbox::id.eq_any(ids));
        rows.select(job_outbox::id).load(&mut conn).await
    }

    /// Returns at most `limit` rows of a task with greater ids than `id`, in the order of their ids. Leaves out rows that were
    /// set aside.
    pub async fn after(
        mut conn: &AsyncPgConnection,
        task: &str,
        id: Uuid,
        limit: i64,
    ) -> QueryResult<Vec<Self>> {
        Self::query()
            .filter(job_outbox::id.gt(id))
            .filter(job_outbox::task.eq(task))
            .filter(job_outbox::set_aside_at.is_null())
            .order(job_outbox::id)
            .limit(limit)
            .load(&mut conn)
            .await
    }

    /// Returns the number of jobs that wait to be enqueued, at most `limit`. If `task` is `None`, counts the jobs of all tasks.
    pub async fn count_waiting(
        mut conn: &AsyncPgConnection,
        task: Option<&str>,
        limit: i64,
    ) -> QueryResult<usize> {
        let mut rows = job_outbox::table.filter(job_outbox::set_aside_at.is_null()).into_boxed();
        if let Some(task) = task {
            rows = rows.filter(job_outbox::task.eq(task));
        }
        Ok(rows.select(job_outbox::id).limit(limit).load::<Uuid>(&mut conn).await?.len())
    }

    /// Returns the number of jobs that were set aside, at most `limit`.
    pub async fn count_set_aside(mut conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
        let rows = job_outbox::table.filter(job_outbox::set_aside_at.is_not_null());
        Ok(rows.select(job_outbox::id).limit(limit).load::<Uuid>(&mut conn).await?.len())
    }

    /// Returns the waiting jobs of an owner, who is the user with the id `owner`, the newest first.
    pub async fn of_owner(mut conn: &AsyncPgConnection, owner: i64) -> QueryResult<Vec<OwnerJob>> {
        job_outbox::table
            .filter(job_outbox::owner.eq(owner))
            .filter(job_outbox::set_aside_at.is_null())
            .order(job_outbox::id.desc())
            .select((job_outbox::id, octet_length(job_outbox::envelope)))
            .load(&mut conn)
            .await
    }

    /// Sets aside the rows in `ids` that are at least `age` old. Returns the ids of the rows that this call has set aside.
    pub async fn set_aside(
        mut conn: &AsyncPgConnection,
        ids: &[Uuid],
        age: PgInterval,
    ) -> QueryResult<Vec<Uuid>> {
        let rows = job_outbox::table
            .filter(job_outbox::id.eq_any(ids))
            .filter(job_outbox::set_aside_at.is_null())
            .filter(job_outbox::created_at.le(ago(age)));
        diesel::update(rows)
            .set(job_outbox::set_aside_at.eq(now().nullable()))
            .returning(job_outbox::id)
            .get_results(&mut conn)
            .await
    }

    /// Deletes rows. Returns how many.
    pub async fn delete(mut conn: &AsyncPgConnection, ids: &[Uuid]) -> QueryResult<usize> {
        diesel::delete(job_outbox::table.filter(job_outbox::id.eq_any(ids))).execute(&mut conn).await
    }

    /// Deletes the rows of an owner. Returns how many.
    pub async fn delete_of_owner(mut conn: &AsyncPgConnection, owner: i64) -> QueryResult<usize> {
        diesel::delete(job_outbox::table.filter(job_outbox::owner.eq(owner))).execute(&mut conn).await
    }
}
