//! The JSON representation of an organization for its members.

use chrono::{DateTime, Utc};
use poem_openapi::{ApiResponse, Object, payload::Json, types::Example};

use super::role::{PermissionOut, RoleOut};
use crate::{
    api::respond::PageItem,
    models::membership::{IdentityMembership, OrgRole},
    services::{org_access::admit, organizations::MyOrganization},
};

/// An organization, with your role and your permissions in it.
#[derive(Object)]
#[oai(rename = "Organization", example)]
pub(super) struct OrgOut {
    id: i64,
    name: String,
    /// A unique name for the URLs of a front end; null if the organization has none.
    #[oai(nullable)]
    slug: Option<String>,
    /// Whether this is the personal organization of a user. A personal organization is only deleted with the account of its user.
    personal: bool,
    /// Your role.
    role: RoleOut,
    /// Your permissions now. Empty while your membership or the organization is suspended. While the deletion of the
    /// organization is scheduled, only the owner has a permission: `org:restore`.
    permissions: Vec<PermissionOut>,
    /// Whether an admin of the platform has suspended the organization.
    suspended: bool,
    /// Whether your membership is suspended.
    membership_suspended: bool,
    /// When the organization is due to be erased; null unless its deletion is scheduled.
    #[oai(nullable)]
    deletion_due_at: Option<DateTime<Utc>>,
    /// When you joined.
    joined_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Example for OrgOut {
    fn example() -> Self {
        let at = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        Self {
            id: 7,
            name: "Acme".into(),
            slug: Some("acme".into()),
            personal: false,
            role: RoleOut::Viewer,
            permissions: OrgRole::Viewer.permissions().map(PermissionOut).collect(),
            suspended: false,
            membership_suspended: false,
            deletion_due_at: None,
            joined_at: at,
            created_at: at,
            updated_at: at,
        }
    }
}

impl From<MyOrganization> for OrgOut {
    fn from((org, membership): MyOrganization) -> Self {
        let checked = IdentityMembership::of(&org, &membership);
        let allowed = membership.role.permissions().filter(|one| admit(checked, Some(*one)).is_ok());
        Self {
            id: org.id,
            personal: org.personal_of.is_some(),
            role: membership.role.into(),
            permissions: allowed.map(PermissionOut).collect(),
            suspended: checked.org_suspended,
            membership_suspended: checked.suspended,
            deletion_due_at: org.deletion_due_at,
            joined_at: membership.created_at,
            created_at: org.created_at,
            updated_at: org.updated_at,
            name: org.name,
            slug: org.slug,
        }
    }
}

impl PageItem for OrgOut {
    const PAGE: &str = "OrganizationPage";
    const PAGE_DESCRIPTION: &str = "A page of your organizations.";

    fn example_item() -> Option<Self> {
        Some(Self::example())
    }
}

/// The response to an accepted invitation.
#[derive(ApiResponse)]
pub(super) enum Joined {
    /// The organization, of which you are a member now.
    #[oai(status = 200)]
    Ok(Json<OrgOut>),
}
