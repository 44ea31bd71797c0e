//! The audit trail.

use chrono::{DateTime, Utc};
use poem_openapi::{
    Object, OpenApi,
    param::Query,
    registry::{MetaSchema, MetaSchemaRef},
    types::{Example, Type},
};
use serde_json::{Value, json};

use super::{
    extract::{Admin, Cursor, Limit, Text},
    problem::Result,
    respond::{Page, PageItem},
    tag::Tag,
};
use crate::{
    app::App,
    models::audit::{AuditEntry, AuditFilter},
};

/// Operations of admins on the audit trail.
pub(super) struct Audit(pub(super) App);

/// An entry of the audit trail: an actor, an action and its target.
#[derive(Object)]
#[oai(rename = "AuditEntry", example)]
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
    /// The action, such as `user.updated`.
    action: String,
    /// The type of the target: `user`, `queue`, `job`, `organization`, `member`, `invitation`, `api_key`, or a type of
    /// the data of organizations, such as `product`.
    target_type: String,
    /// Id of the target, or name of the queue. For a member, the id of the user.
    target_id: String,
    /// The recorded state before the change. Null if the action records none, and for a change that a member makes to the data
    /// or a job of an organization: only the audit trail of the organization shows this state.
    before: Value,
    /// The recorded state after the change, or details of the change. Null if the action records none, and for a change that a
    /// member makes to the data or a job of an organization.
    after: Value,
    /// IP address of the client; null if it is unknown, or if there was no request.
    #[oai(nullable)]
    address: Option<String>,
    /// Id that the server gave to the request that made the change, or that enqueued the job that made it. The log lines of the
    /// request contain this id. Null without a request.
    #[oai(nullable)]
    request_id: Option<String>,
    /// The header `X-Request-Id` of the request that made the change. A client can send any id, also the id of another request.
    #[oai(nullable)]
    client_request_id: Option<String>,
}

impl Example for EntryOut {
    fn example() -> Self {
        Self {
            id: 17,
            created_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default(),
            actor_id: Some(1),
            api_key_id: None,
            action: "user.updated".into(),
            target_type: "user".into(),
            target_id: "2".into(),
            before: json!({ "role": "user" }),
            after: json!({ "role": "admin" }),
            address: Some("203.0.113.7".into()),
            request_id: Some("01a203c5-1357-763a-a32d-0c63a944ff19".into()),
            client_request_id: None,
        }
    }
}

/// Prefixes of the actions that concern an organization itself, its members, invitations and keys, but not its data.
const ORG_ACTION_PREFIXES: [&str; 4] = ["org.", "member.", "invitation.", "api_key."];

/// Returns whether an entry may contain data of an organization. The admin role gives no access to such data.
fn has_data_of_org(entry: &AuditEntry) -> bool {
    entry.org_id.is_some() && !ORG_ACTION_PREFIXES.iter().any(|prefix| entry.action.starts_with(prefix))
}

impl From<AuditEntry> for EntryOut {
    fn from(mut entry: AuditEntry) -> Self {
        if has_data_of_org(&entry) {
            (entry.before, entry.after) = (None, None);
        }
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
            address: entry.address,
            request_id: entry.request_id,
            client_request_id: entry.client_request_id,
        }
    }
}

impl PageItem for EntryOut {
    const PAGE: &str = "AuditPage";
    const PAGE_DESCRIPTION: &str = "A page of the audit trail, the newest entries first.";

    fn example_item() -> Option<Self> {
        Some(Self::example())
    }

    fn deprecated_fields() -> Vec<(&'static str, MetaSchemaRef, Value)> {
        let next = "The parameter `before` of the next page; null on the last page.";
        let next = MetaSchema { description: Some(next), nullable: true, ..MetaSchema::ANY };
        vec![("next", i64::schema_ref().merge(next), Value::Null)]
    }
}

#[OpenApi(prefix_path = "/audit", tag = "Tag::Admin")]
impl Audit {
    /// Returns the entries of the audit trail, the newest first.
    ///
    /// They are sorted by `id`.
    #[oai(path = "/", method = "get", operation_id = "list_audit_entries")]
    async fn list(
        &self,
        _admin: Admin,
        /// Only entries of this actor.
        actor_id: Query<Option<i64>>,
        /// Only entries with this action, such as `user.updated`.
        #[oai(validator(max_length = 100))]
        action: Query<Option<Text>>,
        /// Only entries with the `target_type` `user` and this `target_id`.
        user_id: Query<Option<i64>>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
        /// Only entries that are older than the entry with this id. To read the next page, use `cursor`.
        #[oai(deprecated = true)]
        before: Query<Option<i64>>,
    ) -> Result<Page<EntryOut>> {
        let target_id = user_id.0.map(|id| id.to_string());
        let after = cursor.after::<i64>()?;
        let filter = AuditFilter {
            actor_id: actor_id.0,
            action: action.0.as_ref().map(Text::as_ref),
            target_type: target_id.is_some().then_some("user"),
            target_id: target_id.as_deref(),
            org_id: None,
            before: after.into_iter().chain(before.0).min(),
            api_key_id: None,
            limit: limit.rows(),
        };
        let entries = self.0.db.run(async |conn| Ok(AuditEntry::list(conn, &filter).await?)).await?;
        let size = limit.0.0 as usize;
        let next = entries.get(size).and(entries.get(size - 1)).map(|entry| entry.id);
        Ok(Page::of(&cursor, limit.0, entries, |entry| entry.id).with_deprecated("next", next))
    }
}
