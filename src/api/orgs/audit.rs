//! The audit trail of an organization.

use chrono::{DateTime, Utc};
use poem_openapi::{Object, OpenApi, param::Query, types::Example};
use serde_json::{Value, json};

use crate::{
    api::{
        extract::{Cursor, Limit, OrgMember, Text},
        paths::ORG_PATH,
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    models::audit::{AuditEntry, AuditFilter},
    services::permissions::perm,
};

/// Operations on the audit trail of an organization.
pub(in crate::api) struct OrgAudit(pub(super) App);

/// An entry of the audit trail of an organization. It does not contain the IP address of the client.
#[derive(Object)]
#[oai(rename = "OrgAuditEntry", example)]
struct EntryOut {
    id: i64,
    created_at: DateTime<Utc>,
    /// Id of the user who made the change, or who owns the job that made it. Null if no user is known, for example for a
    /// command.
    #[oai(nullable)]
    actor_id: Option<i64>,
    /// Id of the API key with which the actor made the change, or enqueued the job that made it; null if no API key was used.
    #[oai(nullable)]
    api_key_id: Option<i64>,
    /// The action, such as `member.updated`.
    action: String,
    /// The type of the target, such as `member`.
    target_type: String,
    /// Id of the target. For a member, the id of the user.
    target_id: String,
    /// Data about the target before the change; null if the entry has none.
    before: Value,
    /// Data about the target after the change, the reason of the change, or the error of a failed action; null if the entry has
    /// none.
    after: Value,
}

impl Example for EntryOut {
    fn example() -> Self {
        Self {
            id: 17,
            created_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default(),
            actor_id: Some(1),
            api_key_id: None,
            action: "member.updated".into(),
            target_type: "member".into(),
            target_id: "2".into(),
            before: json!({ "role": "member", "suspended": false }),
            after: json!({ "role": "admin", "suspended": false }),
        }
    }
}

impl From<AuditEntry> for EntryOut {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            created_at: entry.created_at,
            actor_id: entry.actor_id,
            api_key_id: entry.api_key_id,
            action: entry.action,
            target_type: entry.target_type,
            target_id: entry.target_id,
            before: entry.before.unwrap_or_default(),
            after: entry.after.unwrap_or_default(),
        }
    }
}

impl PageItem for EntryOut {
    const PAGE: &str = "OrgAuditPage";
    const PAGE_DESCRIPTION: &str = "A page of the audit trail of an organization, the newest entries first.";
}

#[OpenApi(prefix_path = ORG_PATH, tag = "Tag::Organizations")]
impl OrgAudit {
    /// Returns the entries of the audit trail of the organization, the newest first.
    ///
    /// Needs the permission `audit:read`.
    #[oai(path = "/audit", method = "get", operation_id = "list_org_audit_entries")]
    async fn list(
        &self,
        org: OrgMember<perm::AuditRead>,
        /// Only entries with this `actor_id`.
        actor_id: Query<Option<i64>>,
        /// Only entries with this `api_key_id`.
        api_key_id: Query<Option<i64>>,
        /// Only entries with this action, such as `member.updated`.
        #[oai(validator(max_length = 100))]
        action: Query<Option<Text>>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Page<EntryOut>> {
        let filter = AuditFilter {
            actor_id: actor_id.0,
            api_key_id: api_key_id.0,
            action: action.0.as_ref().map(Text::as_ref),
            org_id: Some(org.org_id()),
            before: cursor.after()?,
            limit: limit.rows(),
            ..Default::default()
        };
        let entries = self.0.db.run(async |conn| Ok(AuditEntry::list(conn, &filter).await?)).await?;
        Ok(Page::of(&cursor, limit.0, entries, |entry| entry.id))
    }
}
