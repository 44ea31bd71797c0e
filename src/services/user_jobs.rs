//! The jobs that users have enqueued.

use crate::{
    app::App,
    error::{Result, chain},
    models::{job_outbox::JobOutboxRow, user::User},
    queue::{MayRun, Origin, PurgedOwner},
};

const OWNER_IS_NOT_ACTIVE: MayRun = MayRun::No("The account of the owner is not active");

/// Returns whether a job without a scope may run: the owner is an active user whose account is not going to be deleted.
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer.
pub async fn may_run(app: &App, origin: &Origin) -> Result<MayRun> {
    let Some(user_id) = origin.owner else { return Ok(MayRun::Yes) };
    let is_active = app.db.run(async |conn| Ok(User::is_active(conn, user_id).await?)).await?;
    Ok(if is_active { MayRun::Yes } else { OWNER_IS_NOT_ACTIVE })
}

/// Purges the jobs of users who were deactivated or deleted, in the background. If Redis is unavailable, the jobs
/// stay, and workers cancel them when they are due, because [`may_run`] refuses them.
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

/// Deletes the jobs of a user, those that wait in the table `job_outbox` first. A relay may enqueue one of them meanwhile; it is
/// canceled when it is due.
async fn purge(app: &App, user_id: i64) -> Result<PurgedOwner> {
    let waiting = app.db.run(async |conn| Ok(JobOutboxRow::delete_of_owner(conn, user_id).await?)).await;
    let purged = app.queue.purge_owner(user_id).await?;
    waiting?;
    Ok(purged)
}
