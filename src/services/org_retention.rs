//! The deletion of rows that are older than 30 days from the job lists of organizations, in small batches.

use std::time::Duration;

use diesel_async::AsyncPgConnection;

use super::transaction::change_by_job;
use crate::{
    app::App,
    db::{Tx, show_org},
    error::Result,
    models::{
        org_job_retention::{purge_org_jobs, sees_all_org_jobs},
        organization::Organization,
    },
};

/// Maximum number of rows that one statement deletes: few enough that their locks hardly delay requests.
const BATCH_ROWS: i64 = 500;
/// Maximum number of organizations whose rows one transaction deletes.
const BATCH_ORGS: i64 = 200;
/// Time limit of one attempt at a batch, without the wait for a connection. It is longer than the default of
/// `DATABASE_TIMEOUT_MS`, because no client waits.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Deletes rows that are older than 30 days from the job lists. Returns the number of deleted rows.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer. Rows that were deleted before the
/// error stay deleted.
pub(super) async fn purge_jobs(app: &App) -> Result<usize> {
    let sees_all = async |conn: &mut AsyncPgConnection| Ok(sees_all_org_jobs(conn).await?);
    if !app.db.run_for(BATCH_TIMEOUT, sees_all).await? {
        return purge_jobs_of_each(app).await;
    }
    let mut purged = 0;
    loop {
        let batch = async |conn: &mut AsyncPgConnection| Ok(purge_org_jobs(conn, None, BATCH_ROWS).await?);
        match app.db.run_for(BATCH_TIMEOUT, batch).await? {
            0 => return Ok(purged),
            deleted => purged += deleted,
        }
    }
}

/// Like [`purge_jobs`], but deletes the rows of each organization separately. For a database role that row-level security
/// restricts: the role sees the rows of one organization at a time.
async fn purge_jobs_of_each(app: &App) -> Result<usize> {
    let (mut purged, mut after) = (0, i64::MIN);
    loop {
        let next =
            async |conn: &mut AsyncPgConnection| Ok(Organization::ids_after(conn, after, BATCH_ORGS).await?);
        let ids = app.db.run_for(BATCH_TIMEOUT, next).await?;
        let Some(last) = ids.last().copied() else { return Ok(purged) };
        after = last;
        let batch = async |tx: &Tx<'_>| {
            tx.set_identities_unchanged();
            let mut deleted = 0;
            for id in &ids {
                show_org(tx, *id).await?;
                deleted += purge_org_jobs(tx, Some(*id), BATCH_ROWS).await?;
            }
            Ok(deleted)
        };
        loop {
            match change_by_job(app, BATCH_TIMEOUT, batch).await? {
                0 => break,
                deleted => purged += deleted,
            }
        }
    }
}
