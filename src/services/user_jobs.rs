//! Jobs that belong to users.

use crate::{
    app::App,
    error::{Result, chain},
    models::{job_outbox::JobOutboxRow, user::User},
    queue::{MayRun, Origin, PurgedOwner},
};

const OWNER_IS_NOT_ACTIVE: MayRun = MayRun::No("The account of the owner is not active");

/// Returns whether a job without a scope may run. If the job has an owner, the owner must be an active user whose account is
/// not scheduled for deletion.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub async fn may_run(app: &App, origin: &Origin) -> Result<MayRun> {
    let Some(user_id) = origin.owner else { return Ok(MayRun::Yes) };
    let is_active = app.db.run(async |conn| Ok(User::is_active(conn, user_id).await?)).await?;
    Ok(if is_active { MayRun::Yes } else { OWNER_IS_NOT_ACTIVE })
}

/// Purges the jobs of users who are deactivated, deleted or scheduled for deletion, in a background task. If Redis is
/// unavailable, the jobs stay in the queue. Unless the account is active again, a worker then cancels each job when it is due,
/// because [`may_run`] refuses the job, or `org_jobs::may_run` the job of an organization.
pub(super) fn purge_soon(app: &App, user_ids: Vec<i64>) {
    if user_ids.is_empty() {
        return;
    }
    let app = app.clone();
    tokio::spawn(async move {
        for user_id in user_ids {
            match purge(&app, user_id).await {
                Ok(purged) => tracing::info!(
                    user_id,
                    deleted = purged.deleted,
                    stopping = purged.stopping,
                    "jobs of a user who is no longer active purged"
                ),
                Err(error) => {
                    tracing::warn!(
                        user_id,
                        error = chain(&error),
                        "cannot purge the jobs of a user who is no longer active: they are canceled when they are due"
                    );
                }
            }
        }
    });
}

/// Deletes the waiting and failed jobs of a user, first in the table `job_outbox`, then in the queue, and signals running jobs to
/// stop. If a relay enqueues a job of the user afterwards, a worker cancels the job when it is due.
async fn purge(app: &App, user_id: i64) -> Result<PurgedOwner> {
    let waiting = app.db.run(async |conn| Ok(JobOutboxRow::delete_of_owner(conn, user_id).await?)).await;
    let purged = app.queue.purge_owner(user_id).await?;
    waiting?;
    Ok(purged)
}
