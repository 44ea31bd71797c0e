//! The table `audit_log`.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::delete_batch;
use crate::schema::audit_log;

/// Maximum number of entries of one INSERT. A statement can have at most 65,535 parameters, and each entry needs up to 11.
const MAX_INSERT_ROWS: usize = 1_000;

/// An entry of the audit trail: an actor, an action and its target.
#[derive(HasQuery, Debug)]
#[diesel(table_name = audit_log)]
pub struct AuditEntry {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    /// The user who has caused the action. `None` if there is no such user, for example for a command or a scheduled job.
    pub actor_id: Option<i64>,
    pub action: String,
    pub target_type: String,
    pub target_id: String,
    /// Fields of the target before the change.
    pub before: Option<Value>,
    /// Fields of the target after the change, or details of the change such as its reason.
    pub after: Option<Value>,
    /// The IP address of the client.
    pub address: Option<String>,
    /// The id that the server has given to the request, or to the request that enqueued the job that made the
    /// change.
    pub request_id: Option<String>,
    /// The id that the client has sent in `X-Request-Id`.
    pub client_request_id: Option<String>,
    /// The organization that the change belongs to.
    pub org_id: Option<i64>,
    /// The API key that the actor has used.
    pub api_key_id: Option<i64>,
}

/// An entry to insert; the database sets its id and time.
#[derive(Insertable)]
#[diesel(table_name = audit_log)]
pub struct NewAuditEntry<'a> {
    pub actor_id: Option<i64>,
    pub action: &'a str,
    pub target_type: &'a str,
    pub target_id: String,
    /// Fields of the target before the change.
    pub before: Option<Value>,
    /// Fields of the target after the change, or details of the change such as its reason.
    pub after: Option<Value>,
    /// The IP address of the client.
    pub address: Option<String>,
    pub request_id: Option<&'a str>,
    pub client_request_id: Option<&'a str>,
    pub org_id: Option<i64>,
    pub api_key_id: Option<i64>,
}

impl NewAuditEntry<'_> {
    /// Inserts the entry.
    pub async fn insert(&self, mut conn: &AsyncPgConnection) -> QueryResult<usize> {
        diesel::insert_into(audit_log::table).values(self).execute(&mut conn).await
    }

    /// Inserts any number of entries.
    pub async fn insert_all(entries: &[Self], mut conn: &AsyncPgConnection) -> QueryResult<()> {
        for rows in entries.chunks(MAX_INSERT_ROWS) {
            diesel::insert_into(audit_log::table).values(rows).execute(&mut conn).await?;
        }
        Ok(())
    }
}

/// The entries that [`AuditEntry::list`] returns, the newest first. `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter<'a> {
    pub actor_id: Option<i64>,
    pub action: Option<&'a str>,
    pub target_type: Option<&'a str>,
    pub target_id: Option<&'a str>,
    pub org_id: Option<i64>,
    pub api_key_id: Option<i64>,
    /// Only entries with a lower id, which are older.
    pub before: Option<i64>,
    pub limit: i64,
}

impl AuditEntry {
    /// Returns the entries that match a filter.
    pub async fn list(mut conn: &AsyncPgConnection, filter: &AuditFilter<'_>) -> QueryResult<Vec<Self>> {
        let mut query = Self::query().into_boxed();
        if let Some(actor_id) = filter.actor_id {
            query = query.filter(audit_log::actor_id.eq(actor_id));
        }
        if let Some(action) = filter.action {
            query = query.filter(audit_log::action.eq(action));
        }
        if let Some(target_type) = filter.target_type {
            query = query.filter(audit_log::target_type.eq(target_type));
        }
        if let Some(target_id) = filter.target_id {
            query = query.filter(audit_log::target_id.eq(target_id));
        }
        if let Some(org_id) = filter.org_id {
            query = query.filter(audit_log::org_id.eq(org_id));
        }
        if let Some(api_key_id) = filter.api_key_id {
            query = query.filter(audit_log::api_key_id.eq(api_key_id));
        }
        if let Some(before) = filter.before {
            query = query.filter(audit_log::id.lt(before));
        }
        query.order(audit_log::id.desc()).limit(filter.limit).load(&mut conn).await
    }

    /// Deletes at most `limit` entries that are older than `days` days. Returns how many. Must run in a transaction, because of
    /// `SET LOCAL`.
    pub async fn purge(mut conn: &AsyncPgConnection, days: u32, limit: i64) -> QueryResult<usize> {
        // The trigger of the table refuses a DELETE without this setting.
        diesel::sql_query("SET LOCAL saas.audit_retention = 'on'").execute(&mut conn).await?;
        let old = format!("created_at < now() - interval '{days} days'");
        delete_batch(conn, "audit_log", &old, limit).await
    }
}
