//! The deletion of old rows of `org_jobs`, in all organizations at once. It has the rights of the product, as the erasure of
//! organizations.

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;

use super::delete_batch;

/// How long the list of an organization has a job.
const ORG_JOB_DAYS: u32 = 30;

/// Deletes at most `limit` rows of jobs that were enqueued more than 30 days ago. Returns how many.
pub async fn purge_org_jobs(conn: &AsyncPgConnection, limit: i64) -> QueryResult<usize> {
    let old = format!("created_at < now() - interval '{ORG_JOB_DAYS} days'");
    delete_batch(conn, "org_jobs", &old, limit).await
}
