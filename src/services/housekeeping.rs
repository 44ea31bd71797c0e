//! What has outlived its time is removed, a little at a time.

use crate::{
    app::App,
    error::Result,
    models::{
        audit::AuditEntry,
        one_time_token::OneTimeToken,
        session::{RefreshToken, Session},
        user::User,
    },
    services::members::erase,
};

/// Rows that one statement removes: few enough not to hold anybody up.
const STEP: i64 = 1_000;

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
    let mut removed = Removed::default();
    let days = app.config.auth.audit_retention_days;
    loop {
        let due = app.db.run(async |conn| Ok(User::due_for_deletion(conn, STEP).await?)).await?;
        let before = removed.users;
        for id in due {
            removed.users += usize::from(erase_if_due(app, id).await?);
        }
        if removed.users == before {
            break;
        }
    }
    loop {
        let sessions = app.db.run(async |conn| Ok(Session::purge(conn, STEP).await?)).await?;
        let spent = app.db.run(async |conn| Ok(RefreshToken::purge(conn, STEP).await?)).await?;
        let one_time = app.db.run(async |conn| Ok(OneTimeToken::purge(conn, STEP).await?)).await?;
        let entries = app.db.transaction(async |conn| Ok(AuditEntry::purge(conn, days, STEP).await?)).await?;
        removed.sessions += sessions;
        removed.tokens += spent + one_time;
        removed.audit_entries += entries;
        if [sessions, spent, one_time, entries] == [0; 4] {
            return Ok(removed);
        }
    }
}

/// The owner may have signed in a moment ago.
async fn erase_if_due(app: &App, id: i64) -> Result<bool> {
    app.db
        .transaction(async |conn| {
            let user = User::lock(conn, id).await?;
            let due = |user: &User| user.deletion_due_at.is_some_and(|due| due <= chrono::Utc::now());
            let Some(user) = user.filter(due) else { return Ok(false) };
            erase(conn, &user).await?;
            Ok(true)
        })
        .await
}
