//! What has outlived its time is removed, a little at a time.

use std::time::Duration;

use diesel_async::AsyncPgConnection;

use crate::{
    app::App,
    context::RequestContext,
    error::Result,
    models::{
        audit::AuditEntry,
        one_time_token::OneTimeToken,
        session::{RefreshToken, Session},
        user::User,
    },
    services::{transaction::transaction_for, user_admin::erase, users::USER_COUNT},
};

/// Rows that one statement removes: few enough not to hold anybody up.
const STEP: i64 = 500;
/// Nobody waits for it; but each statement has its own limit in the database.
const TIME: Duration = Duration::from_secs(60);

/// Goes on with a step until it removes nothing more; how much that was.
macro_rules! all {
    ($step:expr) => {{
        let mut total = 0;
        loop {
            match $step {
                0 => break total,
                removed => total += removed,
            }
        }
    }};
}

/// What was removed.
#[derive(Debug, Default, serde::Serialize)]
pub struct Removed {
    pub users: usize,
    pub sessions: usize,
    pub tokens: usize,
    pub audit_entries: usize,
}

/// Erases the accounts whose grace is over, and removes sessions, tokens and entries of the audit trail that are too
/// old.
pub async fn run(app: &App) -> Result<Removed> {
    let (db, days) = (&app.db, app.config.auth.audit_retention_days);
    // Tokens before the sessions that they hang on: there are many of them.
    let refresh = all!(db.run_for(TIME, async |conn| Ok(RefreshToken::purge(conn, STEP).await?)).await?);
    let one_time = all!(db.run_for(TIME, async |conn| Ok(OneTimeToken::purge(conn, STEP).await?)).await?);
    let sessions = all!(db.run_for(TIME, async |conn| Ok(Session::purge(conn, STEP).await?)).await?);
    let old = async |conn: &mut AsyncPgConnection| Ok(AuditEntry::purge(conn, days, STEP).await?);
    let audit_entries = all!(db.transaction_for(TIME, old).await?);
    let users = all!(erase_some(app).await?);
    Ok(Removed { users, sessions, tokens: refresh + one_time, audit_entries })
}

/// Erases some of those whose grace is over; how many that were.
async fn erase_some(app: &App) -> Result<usize> {
    let due = app.db.run_for(TIME, async |conn| Ok(User::due_for_deletion(conn, STEP).await?)).await?;
    let mut erased = 0;
    for id in due {
        match erase_if_due(app, id).await {
            Ok(done) => erased += usize::from(done),
            // One that cannot be erased must not keep the others.
            Err(error) => {
                tracing::error!(user_id = id, error = crate::error::chain(&error), "a user cannot be erased");
            }
        }
    }
    if erased > 0 {
        app.cache.invalidate(USER_COUNT).await;
    }
    Ok(erased)
}

/// Erases a user, unless the owner has signed in a moment ago.
async fn erase_if_due(app: &App, id: i64) -> Result<bool> {
    transaction_for(app, &RequestContext::default(), TIME, async |tx| {
        let user = User::lock(tx, id).await?;
        let due = |user: &User| user.deletion_due_at.is_some_and(|due| due <= chrono::Utc::now());
        let Some(user) = user.filter(due) else { return Ok(false) };
        erase(tx, &user).await?;
        Ok(true)
    })
    .await
}
