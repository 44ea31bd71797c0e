//! The nightly deletion of expired data in small batches. Also fills in missing keys of email addresses and missing personal
//! organizations.

use std::time::Duration;

use diesel_async::AsyncPgConnection;

use crate::{
    app::App,
    db::Tx,
    error::Result,
    models::{
        api_key::ApiKey,
        audit::AuditEntry,
        clock::DatabaseClock,
        idempotency_key::StoredAnswer,
        invitation::Invitation,
        one_time_token::OneTimeToken,
        session::{RefreshToken, Session},
        user::User,
    },
    services::{
        email_keys::{self, Pass},
        org_erasure, org_retention, personal_orgs,
        transaction::change_by_job,
        user_admin::erase,
        users::USER_COUNT,
    },
};

/// Maximum number of rows in a batch: few enough that their locks hardly delay requests.
const BATCH_ROWS: i64 = 500;
/// Time limit of one attempt at a batch, without the wait for a connection. It is longer than the default of
/// `DATABASE_TIMEOUT_MS`, because no client waits.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Repeats a batch until it deletes nothing. Evaluates to the number of deleted rows.
macro_rules! repeat_until_empty {
    ($batch:expr) => {{
        let mut total = 0;
        loop {
            match $batch {
                0 => break total,
                deleted => total += deleted,
            }
        }
    }};
}

/// The numbers of deleted rows. Rows that were deleted together with their account, session or organization do not count.
#[derive(Debug, Default, serde::Serialize)]
pub struct DeletedRows {
    pub users: usize,
    pub organizations: usize,
    pub sessions: usize,
    /// API keys that expired or were revoked more than 90 days ago.
    pub api_keys: usize,
    /// Refresh tokens, and the tokens of links and login challenges.
    pub tokens: usize,
    pub audit_entries: usize,
    pub invitations: usize,
    /// Stored answers to requests with an idempotency key.
    pub answers: usize,
    /// Rows in the job lists of organizations. The records of the jobs in Redis do not count.
    pub org_jobs: usize,
}

/// Deletes accounts and organizations whose grace period is over, organizations without members, expired tokens of links and
/// login challenges, and expired stored answers. Also deletes these rows:
///
/// - sessions whose maximum lifetime ended more than a day ago, and refresh tokens older than 30 days;
/// - invitations that expired more than 30 days ago, and API keys that expired or were revoked more than 90 days ago;
/// - audit trail entries older than `AUDIT_RETENTION_DAYS`;
/// - jobs older than 30 days in the job lists of organizations.
///
/// Then fills in missing [keys of addresses](email_keys) and, if `PERSONAL_ORGANIZATIONS` is on, missing
/// [personal organizations](personal_orgs).
///
/// # Errors
/// [`Error::Unavailable`](crate::error::Error::Unavailable) if PostgreSQL does not answer;
/// [`Error::EmailTaken`](crate::error::Error::EmailTaken) as for [`email_keys::fill_batch`]. Rows that were deleted before the
/// error stay deleted. An account or organization that cannot be deleted is logged and skipped.
pub async fn run(app: &App) -> Result<DeletedRows> {
    let (db, days) = (&app.db, app.config.auth.audit_retention_days);
    // Deletes tokens first, because deleting a session would cascade to all of its tokens in one statement.
    let refresh = repeat_until_empty!(
        db.run_for(BATCH_TIMEOUT, async |conn| Ok(RefreshToken::purge(conn, BATCH_ROWS).await?)).await?
    );
    let one_time = repeat_until_empty!(
        db.run_for(BATCH_TIMEOUT, async |conn| Ok(OneTimeToken::purge(conn, BATCH_ROWS).await?)).await?
    );
    let sessions = repeat_until_empty!(
        db.run_for(BATCH_TIMEOUT, async |conn| Ok(Session::purge(conn, BATCH_ROWS).await?)).await?
    );
    let answers = repeat_until_empty!(
        db.run_for(BATCH_TIMEOUT, async |conn| Ok(StoredAnswer::purge(conn, BATCH_ROWS).await?)).await?
    );
    let invitations = repeat_until_empty!(
        db.run_for(BATCH_TIMEOUT, async |conn| Ok(Invitation::purge(conn, BATCH_ROWS).await?)).await?
    );
    let api_keys = repeat_until_empty!(
        db.run_for(BATCH_TIMEOUT, async |conn| Ok(ApiKey::purge(conn, BATCH_ROWS).await?)).await?
    );
    let old = async |conn: &mut AsyncPgConnection| Ok(AuditEntry::purge(conn, days, BATCH_ROWS).await?);
    let audit_entries = repeat_until_empty!(db.transaction_for(BATCH_TIMEOUT, old).await?);
    let org_jobs = org_retention::purge_jobs(app).await?;
    let users = delete_due_users(app).await?;
    let organizations = org_erasure::run(app).await?;
    for pass in Pass::ALL {
        let mut after = i64::MIN;
        loop {
            let fill = async |conn: &mut AsyncPgConnection| email_keys::fill_batch(conn, pass, after).await;
            match db.run_for(BATCH_TIMEOUT, fill).await? {
                Some(last) => after = last,
                None => break,
            }
        }
    }
    if app.config.organizations.personal.personal_organizations {
        let mut after = Some(i64::MIN);
        while let Some(last) = after {
            let fill = async |tx: &Tx<'_>| personal_orgs::fill_batch(tx, last).await;
            after = change_by_job(app, BATCH_TIMEOUT, fill).await?;
        }
    }
    Ok(DeletedRows {
        users,
        organizations,
        sessions,
        api_keys,
        tokens: refresh + one_time,
        audit_entries,
        invitations,
        answers,
        org_jobs,
    })
}

/// Deletes the accounts whose grace period is over. Returns the number of deleted accounts.
async fn delete_due_users(app: &App) -> Result<usize> {
    let (mut deleted, mut after) = (0, i64::MIN);
    loop {
        let due =
            async |conn: &mut AsyncPgConnection| Ok(User::due_for_deletion(conn, after, BATCH_ROWS).await?);
        let due = app.db.run_for(BATCH_TIMEOUT, due).await?;
        let Some(last) = due.last().copied() else { break };
        after = last;
        for id in due {
            match delete_if_due(app, id).await {
                Ok(done) => deleted += usize::from(done),
                // An account that cannot be deleted must not block the others.
                Err(error) => tracing::error!(
                    user_id = id,
                    error = crate::error::chain(&error),
                    "cannot delete an account whose grace period is over; retrying at the next run"
                ),
            }
        }
    }
    if deleted > 0 {
        app.cache.invalidate(USER_COUNT).await;
    }
    Ok(deleted)
}

/// Deletes an account if its deletion is still due. Returns whether the account was deleted.
async fn delete_if_due(app: &App, id: i64) -> Result<bool> {
    change_by_job(app, BATCH_TIMEOUT, async |tx| {
        let user = User::lock(tx, id).await?;
        let now = DatabaseClock::read(tx).await?.now();
        let due = |user: &User| user.deletion_due_at.is_some_and(|due| due <= now);
        let Some(user) = user.filter(due) else { return Ok(false) };
        erase(tx, &user).await?;
        Ok(true)
    })
    .await
}
