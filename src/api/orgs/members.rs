//! The members of an organization.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    types::Example,
};

use super::role::RoleOut;
use crate::{
    api::{
        conditional::{IfMatch, Tagged},
        extract::{Body, Cursor, Limit, OrgMember, Text},
        paths::ORG_PATH,
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    models::member_list::{Member, MemberListing},
    services::{
        members::{self, Changes},
        permissions::perm,
    },
};

/// Operations on the members of an organization.
pub(in crate::api) struct Members(pub(super) App);

/// Whether the membership is suspended. A suspended member may not act in the organization.
#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[oai(rename_all = "lowercase", rename = "MemberState")]
enum StateOut {
    Active,
    Suspended,
}

/// A member of an organization.
#[derive(Object)]
#[oai(rename = "Member", example)]
struct MemberOut {
    /// Id of the user.
    user_id: i64,
    email: String,
    #[oai(nullable)]
    full_name: Option<String>,
    role: RoleOut,
    state: StateOut,
    /// When the member was suspended; null for an active member.
    #[oai(nullable)]
    suspended_at: Option<DateTime<Utc>>,
    joined_at: DateTime<Utc>,
}

impl Example for MemberOut {
    fn example() -> Self {
        Self {
            user_id: 1,
            email: "ada@example.com".into(),
            full_name: Some("Ada Lovelace".into()),
            role: RoleOut::Owner,
            state: StateOut::Active,
            suspended_at: None,
            joined_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default(),
        }
    }
}

impl From<Member> for MemberOut {
    fn from(member: Member) -> Self {
        let state = if member.suspended_at.is_some() { StateOut::Suspended } else { StateOut::Active };
        Self {
            user_id: member.user_id,
            email: member.email,
            full_name: member.full_name,
            role: member.role.into(),
            state,
            suspended_at: member.suspended_at,
            joined_at: member.created_at,
        }
    }
}

impl PageItem for MemberOut {
    const PAGE: &str = "MemberPage";
    const PAGE_DESCRIPTION: &str = "A page of the members of an organization.";
}

/// A change of a member. Absent fields are not changed.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct MemberChangeIn {
    /// The new role. It must not be `owner`, and not above your own role.
    role: Option<RoleOut>,
    /// `true` suspends the member in this organization, and `false` ends the suspension.
    suspended: Option<bool>,
}

#[derive(ApiResponse)]
enum MemberRemoved {
    /// The user is no longer a member.
    #[oai(status = 204)]
    NoContent,
}

#[derive(ApiResponse)]
enum OrgLeft {
    /// You are no longer a member.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = ORG_PATH, tag = "Tag::Organizations")]
impl Members {
    /// Returns the members that match the filters.
    ///
    /// The members are sorted by `user_id`. Needs the permission `member:read`.
    #[oai(path = "/members", method = "get", operation_id = "list_members")]
    async fn list(
        &self,
        org: OrgMember<perm::MemberRead>,
        /// A part of the email address or name; case is ignored.
        #[oai(validator(max_length = 255))]
        search: Query<Option<Text>>,
        /// Only members with this role.
        role: Query<Option<RoleOut>>,
        /// Only members in this state.
        state: Query<Option<StateOut>>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Page<MemberOut>> {
        let listing = MemberListing {
            org_id: org.org_id(),
            search: search.0.as_ref().map(Text::as_ref).filter(|text| !text.trim().is_empty()),
            role: role.0.map(Into::into),
            is_suspended: state.0.map(|state| state == StateOut::Suspended),
            after: cursor.after()?,
            limit: limit.rows(),
        };
        let members = self.0.db.run(async |conn| Ok(listing.load(conn).await?)).await?;
        Ok(Page::of(&cursor, limit.0, members, |member| member.user_id))
    }

    /// Leaves the organization.
    ///
    /// Revokes the API keys that you have created in the organization. Fails with 409 `last_owner` if you are the owner: transfer
    /// the organization first.
    #[oai(path = "/members/me", method = "delete", operation_id = "leave_org")]
    async fn leave(&self, org: OrgMember<perm::Member>) -> Result<OrgLeft> {
        members::leave(&self.0, org.actor(), org.access()).await?;
        Ok(OrgLeft::NoContent)
    }

    /// Returns a member.
    ///
    /// Needs the permission `member:read`.
    #[oai(path = "/members/:user", method = "get", operation_id = "read_member")]
    async fn read(
        &self,
        org: OrgMember<perm::MemberRead>,
        /// Id of the user.
        user: Path<i64>,
    ) -> Result<Tagged<MemberOut>> {
        Ok(Tagged(members::find(&self.0, org.access(), user.0).await?.into()))
    }

    /// Changes the role of a member, suspends the member, or ends the suspension.
    ///
    /// Needs the permission `member:write`. Fails with 403 `role_too_high` if the member is the owner and not you, or if the new
    /// role is `owner`: only a transfer changes the owner. Fails with 409 `last_owner` if you are the owner and change yourself,
    /// and with 412 `precondition_failed` if the current `ETag` of the member is not in `If-Match`.
    #[oai(path = "/members/:user", method = "patch", operation_id = "update_member")]
    async fn update(
        &self,
        org: OrgMember<perm::MemberWrite>,
        /// Id of the user.
        user: Path<i64>,
        if_match: IfMatch,
        Body(body): Body<MemberChangeIn>,
    ) -> Result<Tagged<MemberOut>> {
        let changes = Changes { role: body.role.map(Into::into), suspended: body.suspended };
        let (actor, condition) = (org.actor(), if_match.on::<MemberOut, _>());
        let member = members::update(&self.0, actor, org.access(), user.0, &changes, &condition).await?;
        Ok(Tagged(member.into()))
    }

    /// Removes a member.
    ///
    /// Revokes the API keys that the member has created in the organization. The member gets a mail, unless you remove yourself.
    /// Needs the permission `member:write`. Fails with 403 `role_too_high` if the member is the owner and not you, and
    /// with 409 `last_owner` if you are the owner and remove yourself.
    #[oai(path = "/members/:user", method = "delete", operation_id = "remove_member")]
    async fn remove(
        &self,
        org: OrgMember<perm::MemberWrite>,
        /// Id of the user.
        user: Path<i64>,
    ) -> Result<MemberRemoved> {
        members::remove(&self.0, org.actor(), org.access(), user.0).await?;
        Ok(MemberRemoved::NoContent)
    }
}
