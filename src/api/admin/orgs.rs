//! Administration of all organizations.

use chrono::{DateTime, Utc};
use poem_openapi::{
    Object, OpenApi,
    param::{Path, Query},
    types::Example,
};

use crate::{
    api::{
        conditional::{IfMatch, Tagged},
        extract::{Admin, Body, Cursor, Limit, Text},
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    models::organization_list::{OrganizationListing, OrganizationOverview},
    services::org_admin,
};

/// Operations of admins on all organizations.
pub(in crate::api) struct AllOrgs(pub(super) App);

/// An organization as an admin of the platform sees it: without its data, such as products.
#[derive(Object)]
#[oai(rename = "OrgOverview", example)]
struct OverviewOut {
    id: i64,
    name: String,
    #[oai(nullable)]
    slug: Option<String>,
    /// Id of the user whose personal organization this is; null for any other organization.
    #[oai(nullable)]
    personal_of: Option<i64>,
    /// Id of the owner; null if the account of the owner was erased.
    #[oai(nullable)]
    owner_id: Option<i64>,
    /// Number of members, including suspended members.
    members: i64,
    /// When an admin suspended the organization; null if it is not suspended.
    #[oai(nullable)]
    suspended_at: Option<DateTime<Utc>>,
    /// When the organization is due to be erased; null unless its deletion is scheduled.
    #[oai(nullable)]
    deletion_due_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Example for OverviewOut {
    fn example() -> Self {
        let at = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        Self {
            id: 7,
            name: "Acme".into(),
            slug: Some("acme".into()),
            personal_of: None,
            owner_id: Some(1),
            members: 3,
            suspended_at: None,
            deletion_due_at: None,
            created_at: at,
            updated_at: at,
        }
    }
}

impl From<OrganizationOverview> for OverviewOut {
    fn from(overview: OrganizationOverview) -> Self {
        let OrganizationOverview { org, owner_id, members } = overview;
        Self {
            id: org.id,
            name: org.name,
            slug: org.slug,
            personal_of: org.personal_of,
            owner_id,
            members,
            suspended_at: org.suspended_at,
            deletion_due_at: org.deletion_due_at,
            created_at: org.created_at,
            updated_at: org.updated_at,
        }
    }
}

impl PageItem for OverviewOut {
    const PAGE: &str = "OrgOverviewPage";
    const PAGE_DESCRIPTION: &str = "A page of all organizations, the newest first.";
}

/// Whether an organization is suspended.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SuspensionIn {
    /// `true` suspends the organization, and `false` ends the suspension.
    suspended: bool,
}

#[OpenApi(prefix_path = "/admin/orgs", tag = "Tag::Admin")]
impl AllOrgs {
    /// Returns the organizations that match the filters, the newest first.
    ///
    /// The admin role gives no access to the data of an organization: for that, you must be a member.
    #[oai(path = "/", method = "get", operation_id = "list_all_orgs")]
    async fn list(
        &self,
        _admin: Admin,
        /// A part of the name or the slug; case is ignored.
        #[oai(validator(max_length = 255))]
        search: Query<Option<Text>>,
        /// Only suspended organizations (`true`), or only organizations that are not suspended (`false`).
        suspended: Query<Option<bool>>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Page<OverviewOut>> {
        let listing = OrganizationListing {
            search: search.0.as_ref().map(Text::as_ref).filter(|text| !text.trim().is_empty()),
            is_suspended: suspended.0,
            before: cursor.after()?,
            limit: limit.rows(),
            ..Default::default()
        };
        let orgs = self.0.db.run(async |conn| Ok(listing.load(conn).await?)).await?;
        Ok(Page::of(&cursor, limit.0, orgs, |overview| overview.org.id))
    }

    /// Returns an organization.
    ///
    /// The admin role gives no access to the data of an organization: for that, you must be a member.
    #[oai(path = "/:org", method = "get", operation_id = "read_org_overview")]
    async fn read(
        &self,
        _admin: Admin,
        /// Id of the organization.
        org: Path<i64>,
    ) -> Result<Tagged<OverviewOut>> {
        Ok(Tagged(org_admin::find(&self.0, org.0).await?.into()))
    }

    /// Suspends an organization, or ends the suspension.
    ///
    /// All operations in a suspended organization fail for its active members with 403 `org_suspended`. No data is deleted. Jobs
    /// of the organization are canceled when a worker takes them. Fails with 412 `precondition_failed` if the current `ETag` of
    /// the organization is not in `If-Match`.
    #[oai(path = "/:org", method = "patch", operation_id = "suspend_org")]
    async fn suspend(
        &self,
        Admin(actor): Admin,
        /// Id of the organization.
        org: Path<i64>,
        if_match: IfMatch,
        Body(body): Body<SuspensionIn>,
    ) -> Result<Tagged<OverviewOut>> {
        let condition = if_match.on::<OverviewOut, _>();
        let org = org_admin::set_suspended(&self.0, &actor, org.0, body.suspended, &condition).await?;
        Ok(Tagged(org.into()))
    }
}
