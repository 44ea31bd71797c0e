//! The erasure of organizations whose deletion is due, in small batches.

use std::time::Duration;

use diesel_async::AsyncPgConnection;
use serde_json::json;

use super::{
    audit::{Action, Entry, org_fields},
    transaction::change_by_job,
};
use crate::{
    app::App,
    db::{Tx, show_org},
    error::{Result, chain},
    models::{
        clock::DatabaseClock,
        membership::Membership,
        org_erasure::{OrgTable, find_ownerless, org_tables},
        organization::{Organization, OrganizationChanges},
    },
};

/// Maximum number of rows in a batch: few enough that their locks hardly delay requests.
const BATCH_ROWS: i64 = 500;
/// Time limit of one attempt at a batch, without the wait for a connection. It is longer than the default of
/// `DATABASE_TIMEOUT_MS`, because no client waits.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Schedules the erasure of organizations without members, then erases the organizations whose deletion is due. Returns the
/// number of erased organizations.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer. An organization that cannot be
/// scheduled or erased is logged and skipped.
pub(super) async fn run(app: &App) -> Result<usize> {
    schedule_abandoned(app).await?;
    let tables = app.db.run_for(BATCH_TIMEOUT, async |conn| Ok(org_tables(conn).await?)).await?;
    let (mut erased, mut after) = (0, i64::MIN);
    loop {
        let due = async |conn: &mut AsyncPgConnection| {
            Ok(Organization::due_for_deletion(conn, after, BATCH_ROWS).await?)
        };
        let due = app.db.run_for(BATCH_TIMEOUT, due).await?;
        let Some(last) = due.last().copied() else { return Ok(erased) };
        after = last;
        for id in due {
            match erase(app, &tables, id).await {
                Ok(done) => erased += usize::from(done),
                // An organization that cannot be erased must not block the others.
                Err(error) => tracing::error!(
                    org_id = id,
                    error = chain(&error),
                    "cannot erase an organization whose deletion is due; retrying at the next run"
                ),
            }
        }
    }
}

/// Schedules the erasure of organizations without members. Logs a warning for organizations that have members but no owner. SQL
/// can cause both. So can release 0.1.0 during a rolling upgrade, because it deletes accounts without their organizations.
async fn schedule_abandoned(app: &App) -> Result<()> {
    let mut after = i64::MIN;
    loop {
        let batch = async |conn: &mut AsyncPgConnection| Ok(find_ownerless(conn, after, BATCH_ROWS).await?);
        let Some((last, ownerless)) = app.db.run_for(BATCH_TIMEOUT, batch).await? else { return Ok(()) };
        after = last;
        for (id, has_members) in ownerless {
            if has_members {
                tracing::warn!(
                    org_id = id,
                    "an organization has members and no owner: make one of them the owner with SQL, see \
                     docs/organizations.md"
                );
                continue;
            }
            let schedule = async |tx: &Tx<'_>| schedule_if_abandoned(tx, id).await;
            if let Err(error) = change_by_job(app, BATCH_TIMEOUT, schedule).await {
                // An organization that cannot be scheduled must not block the others.
                tracing::error!(
                    org_id = id,
                    error = chain(&error),
                    "cannot schedule the erasure of an organization without members; retrying at the next run"
                );
            }
        }
    }
}

/// Schedules the erasure of an organization, unless it was erased, scheduled or joined since the batch was read. Two runs may
/// overlap.
async fn schedule_if_abandoned(tx: &Tx<'_>, id: i64) -> Result<()> {
    let org = Organization::lock(tx, id).await?.filter(|org| org.deletion_due_at.is_none());
    if org.is_some() && Membership::count_of_org(tx, id).await? == 0 {
        schedule_now(tx, id).await?;
    }
    Ok(())
}

/// Schedules the erasure of an organization without a grace period, and writes an audit entry.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub(super) async fn schedule_now(tx: &Tx<'_>, id: i64) -> Result<()> {
    let now = DatabaseClock::read(tx).await?.now();
    let row = OrganizationChanges { deletion_due_at: Some(Some(now)), ..Default::default() };
    Organization::update(tx, id, &row).await?;
    let entry = Entry::org(id, Action::OrgDeletionScheduled);
    entry.after(json!({ "deletion_due_at": now })).write(tx).await
}

/// Erases an organization and its data. Returns false if another process has already erased the organization, or its deletion
/// is no longer due.
///
/// The data is deleted in several transactions. This is safe, because an organization whose deletion is due cannot be
/// restored.
async fn erase(app: &App, tables: &[OrgTable], id: i64) -> Result<bool> {
    for table in tables {
        let batch = async |tx: &Tx<'_>| {
            show_org(tx, id).await?;
            Ok(table.delete_rows_of_due(tx, id, BATCH_ROWS).await?)
        };
        while change_by_job(app, BATCH_TIMEOUT, batch).await? > 0 {}
    }
    change_by_job(app, BATCH_TIMEOUT, async |tx| {
        let now = DatabaseClock::read(tx).await?.now();
        let org = Organization::lock(tx, id).await?;
        let Some(org) = org.filter(|org| org.deletion_due_at.is_some_and(|due| due <= now)) else {
            return Ok(false);
        };
        Organization::delete(tx, id).await?;
        Entry::org(id, Action::OrgDeleted).before(org_fields(&org)).write(tx).await?;
        Ok(true)
    })
    .await
}
