//! The invitations that the caller has received.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::Example,
};

use super::{org::Joined, role::RoleOut};
use crate::{
    api::{
        extract::{CurrentUser, Cursor, Limit},
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    models::invitation_list::InvitationDetails,
    services::invitation_claims::{self, Claim},
};

/// Operations on the invitations that the caller has received.
pub(in crate::api) struct MyInvitations(pub(super) App);

/// An invitation to you.
#[derive(Object)]
#[oai(rename = "ReceivedInvitation", example)]
struct ReceivedOut {
    id: i64,
    /// Id of the organization.
    org_id: i64,
    /// Name of the organization.
    organization: String,
    /// Name of the inviter; null if the account of the inviter has no name.
    #[oai(nullable)]
    inviter: Option<String>,
    /// Your role after you accept the invitation, unless you are a member already.
    role: RoleOut,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

impl Example for ReceivedOut {
    fn example() -> Self {
        Self {
            id: 5,
            org_id: 7,
            organization: "Acme".into(),
            inviter: Some("Grace Hopper".into()),
            role: RoleOut::Member,
            created_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default(),
            expires_at: DateTime::from_timestamp(1_767_830_400, 0).unwrap_or_default(),
        }
    }
}

impl From<InvitationDetails> for ReceivedOut {
    fn from(details: InvitationDetails) -> Self {
        let InvitationDetails { invitation, organization, inviter, .. } = details;
        Self {
            id: invitation.id,
            org_id: invitation.org_id,
            organization,
            inviter,
            role: invitation.role.into(),
            created_at: invitation.created_at,
            expires_at: invitation.expires_at,
        }
    }
}

impl PageItem for ReceivedOut {
    const PAGE: &str = "ReceivedInvitationPage";
    const PAGE_DESCRIPTION: &str = "A page of the pending invitations to you, the newest first.";
}

#[derive(ApiResponse)]
enum MyInvitationDeclined {
    /// The invitation is declined.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = "/users/me/invitations", tag = "Tag::Organizations")]
impl MyInvitations {
    /// Returns the pending invitations to your email address, the newest first.
    ///
    /// The list is empty until the address is verified.
    #[oai(path = "/", method = "get", operation_id = "list_my_invitations")]
    async fn list(
        &self,
        CurrentUser(actor): CurrentUser,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Page<ReceivedOut>> {
        let before = cursor.after()?;
        let found = invitation_claims::list(&self.0, &actor, before, limit.rows()).await?;
        Ok(Page::of(&cursor, limit.0, found, |details| details.invitation.id))
    }

    /// Accepts an invitation to your verified email address.
    ///
    /// Returns the organization. If you are a member already, your membership does not change. The inviter gets a mail. Fails
    /// with 400 `invitation_invalid` or `invitation_expired`, and with 404 `not_found` if you have no verified address or the
    /// invitation is not to this address. Fails with 409 `seat_limit_reached` if the organization has as many members as it
    /// may, and with 409 `membership_limit_reached` if you are a member of too many organizations.
    #[oai(path = "/:invitation/accept", method = "post", operation_id = "accept_my_invitation")]
    async fn accept(
        &self,
        CurrentUser(actor): CurrentUser,
        /// Id of the invitation.
        invitation: Path<i64>,
    ) -> Result<Joined> {
        let claim = Claim::Id(invitation.0);
        Ok(Joined::Ok(Json(invitation_claims::accept(&self.0, &actor, claim).await?.into())))
    }

    /// Declines an invitation to your verified email address.
    ///
    /// The inviter gets a mail. Fails with 400 `invitation_invalid` or `invitation_expired`, and with 404 `not_found` if you have
    /// no verified address or the invitation is not to this address.
    #[oai(path = "/:invitation/decline", method = "post", operation_id = "decline_my_invitation")]
    async fn decline(
        &self,
        CurrentUser(actor): CurrentUser,
        /// Id of the invitation.
        invitation: Path<i64>,
    ) -> Result<MyInvitationDeclined> {
        invitation_claims::decline(&self.0, &actor, invitation.0).await?;
        Ok(MyInvitationDeclined::NoContent)
    }
}
