//! The table `org_jobs`: the jobs of organizations. Their states and results are in Redis.
//!
//! The functions of this module take an [`OrgConn`] to read, or an [`OrgTx`] to change rows, and no other connection.

use chrono::{DateTime, Utc};
use diesel::{pg::Pg, prelude::*};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::db::{OrgConn, OrgTx};
use crate::schema::org_jobs;

/// A row of `org_jobs`.
#[derive(Clone, Debug, HasQuery)]
pub struct OrgJob {
    pub id: Uuid,
    /// The name of the job.
    pub task: String,
    /// The member who has enqueued the job. `None` if the account was deleted.
    pub created_by: Option<i64>,
    pub created_at: DateTime<Utc>,
}

/// A job to insert. Its organization is that of the connection.
#[derive(Insertable)]
#[diesel(table_name = org_jobs)]
pub struct NewOrgJob<'a> {
    pub id: Uuid,
    pub task: &'a str,
    pub created_by: Option<i64>,
}

impl OrgJob {
    /// Returns the id in the form of the queue, without hyphens.
    pub fn job_id(&self) -> String {
        self.id.simple().to_string()
    }

    /// Returns a job by id.
    pub async fn find(mut conn: &OrgConn<'_>, id: Uuid) -> QueryResult<Option<Self>> {
        let row = org_jobs::table.find((conn.org_id(), id));
        row.select(Self::as_select()).first(&mut conn).await.optional()
    }

    /// Returns at most `limit` jobs of the organization, the newest first. With `task`, only jobs with this name; with `before`,
    /// only jobs with a lower id.
    pub async fn list(
        mut conn: &OrgConn<'_>,
        task: Option<&str>,
        before: Option<Uuid>,
        limit: i64,
    ) -> QueryResult<Vec<Self>> {
        let mut query = org_jobs::table.filter(org_jobs::org_id.eq(conn.org_id())).into_boxed::<Pg>();
        if let Some(task) = task {
            query = query.filter(org_jobs::task.eq(task));
        }
        if let Some(before) = before {
            query = query.filter(org_jobs::id.lt(before));
        }
        query.order(org_jobs::id.desc()).limit(limit).select(Self::as_select()).load(&mut conn).await
    }
}

impl NewOrgJob<'_> {
    /// Inserts the job.
    pub async fn insert(&self, tx: &OrgTx<'_>) -> QueryResult<usize> {
        let mut conn: &OrgConn<'_> = tx;
        diesel::insert_into(org_jobs::table)
            .values((org_jobs::org_id.eq(conn.org_id()), self))
            .execute(&mut conn)
            .await
    }
}
