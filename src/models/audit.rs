//! The table `audit_log`.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::delete_some;
use crate::schema::audit_log;

/// Who did what to whom.
#[derive(HasQuery, Debug)]
#[diesel(table_name = audit_log)]
pub struct AuditEntry {
    pub id: i64,
    pub created_at: DateTime<Utc>,
    pub actor_id: Option<i64>,
    pub action: String,
    pub target_type: String,
    pub target_id: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub address: Option<String>,
    pub request_id: Option<String>,
}

#[derive(Insertable)]
#[diesel(table_name = audit_log)]
pub struct NewAuditEntry<'a> {
    pub actor_id: Option<i64>,
    pub action: &'a str,
    pub target_type: &'a str,
    pub target_id: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub address: Option<String>,
    pub request_id: Option<&'a str>,
}

impl NewAuditEntry<'_> {
    pub async fn insert(&self, mut conn: &AsyncPgConnection) -> QueryResult<usize> {
        diesel::insert_into(audit_log::table).values(self).execute(&mut conn).await
    }
}

/// Which entries, the newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter<'a> {
    pub actor_id: Option<i64>,
    pub action: Option<&'a str>,
    pub target_type: Option<&'a str>,
    pub target_id: Option<&'a str>,
    /// Only those that are older than the entry of this id.
    pub before: Option<i64>,
    pub limit: i64,
}

impl AuditEntry {
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
        if let Some(before) = filter.before {
            query = query.filter(audit_log::id.lt(before));
        }
        query.order(audit_log::id.desc()).limit(filter.limit).load(&mut conn).await
    }

    /// Removes some that are older than `days`. Only in a transaction.
    pub async fn purge(mut conn: &AsyncPgConnection, days: u32, limit: i64) -> QueryResult<usize> {
        // What the table's trigger asks for.
        diesel::sql_query("SET LOCAL saas.audit_retention = 'on'").execute(&mut conn).await?;
        let old = format!("created_at < now() - interval '{days} days'");
        delete_some(conn, "audit_log", &old, limit).await
    }
}
