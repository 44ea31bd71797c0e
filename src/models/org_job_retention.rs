//! The deletion of rows of `org_jobs` that are older than 30 days. The queries run in the role of the product, and not in
//! `saas_tenant`.

use diesel::{QueryResult, dsl::sql, sql_types::Bool};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::delete_batch;

/// Age in days from which [`purge_org_jobs`] deletes the row of a job.
const RETENTION_DAYS: u32 = 30;

/// Returns whether the role of the connection sees the rows of all organizations. A role that neither owns the table nor
/// bypasses row-level security sees only the rows of the organization that [`show_org`](crate::db::show_org) has set.
pub async fn sees_all_org_jobs(mut conn: &AsyncPgConnection) -> QueryResult<bool> {
    diesel::select(sql::<Bool>("NOT row_security_active('org_jobs')")).get_result(&mut conn).await
}

/// Deletes at most `limit` rows of jobs that were enqueued more than 30 days ago. Returns how many. If `org_id` is `None`,
/// deletes rows of all organizations whose rows are visible to the role of the connection.
pub async fn purge_org_jobs(conn: &AsyncPgConnection, org_id: Option<i64>, limit: i64) -> QueryResult<usize> {
    let mut old = format!("created_at < now() - interval '{RETENTION_DAYS} days'");
    if let Some(org_id) = org_id {
        old = format!("org_id = {org_id} AND {old}");
    }
    delete_batch(conn, "org_jobs", &old, limit).await
}
