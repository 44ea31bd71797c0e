//! The invitations of an organization.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::Example,
};

use super::role::RoleOut;
use crate::{
    api::{
        conditional::Tagged,
        extract::{Body, Cursor, Email, IdempotencyKey, Limit, OrgMember},
        idempotency::Replayable,
        paths::{ORG_PATH, PREFIX},
        problem::Result,
        respond::{Page, PageItem},
        tag::Tag,
    },
    app::App,
    models::{
        invitation::{Invitation, InvitationState},
        invitation_list::InvitationListing,
    },
    services::{
        invitations::{self, IssuedInvitation},
        permissions::perm,
    },
};

/// Operations on the invitations of an organization.
pub(in crate::api) struct Invitations(pub(super) App);

/// A new invitation.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct InvitationIn {
    email: Email,
    /// The role of the new member. It must not be `owner`, and not above your own role.
    role: RoleOut,
}

/// The state of an invitation. `void`: the inviter may no longer invite, or the organization is suspended or
/// scheduled for deletion.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase", rename = "InvitationState")]
enum StateOut {
    Pending,
    Accepted,
    Declined,
    Revoked,
    Expired,
    Void,
}

impl From<InvitationState> for StateOut {
    fn from(state: InvitationState) -> Self {
        match state {
            InvitationState::Pending => Self::Pending,
            InvitationState::Accepted => Self::Accepted,
            InvitationState::Declined => Self::Declined,
            InvitationState::Revoked => Self::Revoked,
            InvitationState::Expired => Self::Expired,
            InvitationState::Void => Self::Void,
        }
    }
}

impl From<StateOut> for InvitationState {
    fn from(state: StateOut) -> Self {
        match state {
            StateOut::Pending => Self::Pending,
            StateOut::Accepted => Self::Accepted,
            StateOut::Declined => Self::Declined,
            StateOut::Revoked => Self::Revoked,
            StateOut::Expired => Self::Expired,
            StateOut::Void => Self::Void,
        }
    }
}

/// An invitation of an email address to an organization.
#[derive(Object)]
#[oai(rename = "Invitation", example)]
struct InvitationOut {
    id: i64,
    email: String,
    /// The role of the new member.
    role: RoleOut,
    state: StateOut,
    /// Id of the inviter; null if the account of the inviter was erased.
    #[oai(nullable)]
    invited_by: Option<i64>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    /// The link, which you pass on to the invited person only. Null if the server can send mails. If it cannot, only the
    /// response to the request that creates the link contains the link.
    #[oai(nullable)]
    invite_url: Option<String>,
}

impl Example for InvitationOut {
    fn example() -> Self {
        Self {
            id: 5,
            email: "ada@example.com".into(),
            role: RoleOut::Member,
            state: StateOut::Pending,
            invited_by: Some(1),
            created_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default(),
            expires_at: DateTime::from_timestamp(1_767_830_400, 0).unwrap_or_default(),
            invite_url: None,
        }
    }
}

impl From<Invitation> for InvitationOut {
    fn from(invitation: Invitation) -> Self {
        Self {
            id: invitation.id,
            email: invitation.email,
            role: invitation.role.into(),
            state: invitation.state.into(),
            invited_by: invitation.invited_by,
            created_at: invitation.created_at,
            expires_at: invitation.expires_at,
            invite_url: None,
        }
    }
}

impl From<&IssuedInvitation> for InvitationOut {
    fn from(issued: &IssuedInvitation) -> Self {
        Self { invite_url: issued.link.clone(), ..issued.invitation.clone().into() }
    }
}

impl PageItem for InvitationOut {
    const PAGE: &str = "InvitationPage";
    const PAGE_DESCRIPTION: &str = "A page of the invitations of an organization, the newest first.";
}

#[derive(ApiResponse)]
enum InvitationCreated {
    /// The invitation was created. If the server can send mails, it sends the link by mail.
    #[oai(status = 201)]
    Created(
        Json<InvitationOut>,
        /// The path of the invitation.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
enum InvitationRevoked {
    /// The invitation is revoked, and its link is invalid.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = ORG_PATH, tag = "Tag::Organizations")]
impl Invitations {
    /// Returns the invitations of the organization, the newest first.
    ///
    /// A nightly job deletes invitations in any state whose `expires_at` is more than 30 days ago. An accepted, declined, revoked
    /// or expired invitation is also deleted when the account that has verified the invited address is erased. Needs the
    /// permission `member:write`.
    #[oai(path = "/invitations", method = "get", operation_id = "list_invitations")]
    async fn list(
        &self,
        org: OrgMember<perm::MemberWrite>,
        /// Only invitations in this state.
        state: Query<Option<StateOut>>,
        cursor: Cursor,
        #[oai(default)] limit: Query<Limit>,
    ) -> Result<Page<InvitationOut>> {
        let listing = InvitationListing {
            org_id: org.org_id(),
            state: state.0.map(Into::into),
            before: cursor.after()?,
            limit: limit.rows(),
        };
        let invitations = self.0.db.run(async |conn| Ok(listing.load(conn).await?)).await?;
        Ok(Page::of(&cursor, limit.0, invitations, |invitation| invitation.id))
    }

    /// Invites the owner of an email address, who may have no account yet.
    ///
    /// The mail has a link, which is valid once, for 7 days. If the server cannot send mails, the response has the link
    /// in `invite_url`. An earlier invitation to the address is revoked, unless it was accepted or declined. Needs the permission
    /// `member:write`.
    ///
    /// Fails with 403 `role_too_high` for a role above your own and for `owner`, with 409 `already_member`, and with 409
    /// `seat_limit_reached` if all seats are taken by members and pending invitations. Fails with 429 `too_many_attempts`
    /// after many invitations. Fails with 400 `idempotency_not_supported` if the request has an `Idempotency-Key` and the
    /// response would contain the link.
    #[oai(path = "/invitations", method = "post", operation_id = "create_invitation")]
    async fn create(
        &self,
        org: OrgMember<perm::MemberWrite>,
        key: IdempotencyKey,
        Body(body): Body<InvitationIn>,
    ) -> Result<Replayable<InvitationCreated>> {
        let org_id = org.org_id();
        let once = key.once(|issued: &IssuedInvitation| {
            let location = format!("{PREFIX}/orgs/{org_id}/invitations/{}", issued.invitation.id);
            InvitationCreated::Created(Json(issued.into()), location)
        });
        let role = body.role.into();
        let done =
            invitations::invite(&self.0, org.actor(), org.access(), &once, &body.email.0, role).await?;
        Ok(done.into())
    }

    /// Returns an invitation.
    ///
    /// Needs the permission `member:write`.
    #[oai(path = "/invitations/:invitation", method = "get", operation_id = "read_invitation")]
    async fn read(
        &self,
        org: OrgMember<perm::MemberWrite>,
        /// Id of the invitation.
        invitation: Path<i64>,
    ) -> Result<Tagged<InvitationOut>> {
        Ok(Tagged(invitations::find(&self.0, org.access(), invitation.0).await?.into()))
    }

    /// Sends an invitation again, with a new link.
    ///
    /// The old link becomes invalid, and the new link is valid for 7 days. You become the inviter. Needs the permission
    /// `member:write`. Fails with the errors of `POST /orgs/{org}/invitations`, and with 409 `conflict` if the invitation was
    /// accepted, declined or revoked.
    #[oai(path = "/invitations/:invitation/resend", method = "post", operation_id = "resend_invitation")]
    async fn resend(
        &self,
        org: OrgMember<perm::MemberWrite>,
        key: IdempotencyKey,
        /// Id of the invitation.
        invitation: Path<i64>,
    ) -> Result<Replayable<Json<InvitationOut>>> {
        let once = key.once(|issued: &IssuedInvitation| Json(InvitationOut::from(issued)));
        Ok(invitations::resend(&self.0, org.actor(), org.access(), &once, invitation.0).await?.into())
    }

    /// Revokes an invitation.
    ///
    /// Needs the permission `member:write`. Does nothing if the invitation is already revoked. Fails with 409 `conflict` if the
    /// invitation was accepted or declined.
    #[oai(path = "/invitations/:invitation", method = "delete", operation_id = "revoke_invitation")]
    async fn revoke(
        &self,
        org: OrgMember<perm::MemberWrite>,
        /// Id of the invitation.
        invitation: Path<i64>,
    ) -> Result<InvitationRevoked> {
        invitations::revoke(&self.0, org.actor(), org.access(), invitation.0).await?;
        Ok(InvitationRevoked::NoContent)
    }
}
