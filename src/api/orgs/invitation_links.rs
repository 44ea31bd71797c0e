//! Operations for the holders of invitation links. They accept a token only in the body of a POST. A GET must not use the
//! token up, because some mail servers open every link in a mail.

use chrono::{DateTime, Utc};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi, payload::Json, types::Example};

use super::{org::Joined, role::RoleOut};
use crate::{
    api::{
        extract::{Body, CurrentUser, NewPassword},
        problem::Result,
        tag::Tag,
    },
    app::App,
    context::RequestContext,
    services::{
        invitation_claims::{self, Claim, masked},
        invitation_guests::{self, Preview, SignUp},
    },
};

/// Operations that accept the token of an invitation link.
pub(in crate::api) struct InvitationLinks(pub(super) App);

/// The token of an invitation.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct InvitationTokenIn {
    /// The token of the link: the text after `#token=`.
    #[oai(validator(max_length = 128))]
    token: String,
}

/// The token of an invitation, and the password and the name of the new user.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct InvitationRegisterIn {
    /// The token of the link: the text after `#token=`.
    #[oai(validator(max_length = 128))]
    token: String,
    /// At least 8 characters, and at most 72 bytes in UTF-8. Common passwords and your own name or address are refused.
    password: NewPassword,
    #[oai(nullable, validator(max_length = 255))]
    full_name: Option<String>,
}

/// How the invited person becomes a member. `new`: by registering with the invitation. `existing`: by signing in to the
/// account of the invited address, and accepting the invitation.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase", rename = "InvitedAccount")]
enum AccountOut {
    New,
    Existing,
}

/// The part of an invitation that the holder of its link may see.
#[derive(Object)]
#[oai(rename = "InvitationPreview", example)]
struct PreviewOut {
    /// Name of the organization.
    organization: String,
    /// Name of the inviter; null if the account of the inviter has no name.
    #[oai(nullable)]
    inviter: Option<String>,
    /// The invited address. At most the first character of its local part is shown, such as `a***@example.com`.
    email: String,
    /// The role of the new member.
    role: RoleOut,
    account: AccountOut,
    expires_at: DateTime<Utc>,
}

impl Example for PreviewOut {
    fn example() -> Self {
        Self {
            organization: "Acme".into(),
            inviter: Some("Grace Hopper".into()),
            email: "a***@example.com".into(),
            role: RoleOut::Member,
            account: AccountOut::New,
            expires_at: DateTime::from_timestamp(1_767_830_400, 0).unwrap_or_default(),
        }
    }
}

impl From<Preview> for PreviewOut {
    fn from(Preview { details, can_register }: Preview) -> Self {
        Self {
            organization: details.organization,
            inviter: details.inviter,
            email: masked(&details.invitation.email),
            role: details.invitation.role.into(),
            account: if can_register { AccountOut::New } else { AccountOut::Existing },
            expires_at: details.invitation.expires_at,
        }
    }
}

#[derive(ApiResponse)]
enum InvitationDeclined {
    /// The invitation is declined.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = "/invitations", tag = "Tag::Organizations")]
impl InvitationLinks {
    /// Returns a preview of an invitation.
    ///
    /// The token stays valid. Fails with 400 `invitation_expired`. Fails with 400 `invitation_invalid` if the token is unknown,
    /// if the invitation was accepted, declined, revoked or replaced by a newer invitation, if its inviter may no longer
    /// invite, or if the organization is suspended or scheduled for deletion.
    #[oai(path = "/preview", method = "post", operation_id = "preview_invitation")]
    async fn preview(
        &self,
        _context: RequestContext,
        Body(body): Body<InvitationTokenIn>,
    ) -> Result<Json<PreviewOut>> {
        Ok(Json(invitation_guests::preview(&self.0, &body.token).await?.into()))
    }

    /// Accepts an invitation.
    ///
    /// The token is valid once. Returns the organization. If you are a member already, your membership does not change. The
    /// inviter gets a mail.
    ///
    /// Fails with 400 `invitation_invalid` or `invitation_expired`. Fails with 403 `invitation_other_address` if your account
    /// has another email address. Fails with 403 `email_not_verified` if your address is not verified and the link was sent by
    /// mail. Fails with 409 `seat_limit_reached` if the organization has as many members as it may, and with 409
    /// `membership_limit_reached` if you are a member of too many organizations.
    #[oai(path = "/accept", method = "post", operation_id = "accept_invitation")]
    async fn accept(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<InvitationTokenIn>,
    ) -> Result<Joined> {
        let claim = Claim::Token(&body.token);
        Ok(Joined::Ok(Json(invitation_claims::accept(&self.0, &actor, claim).await?.into())))
    }

    /// Declines an invitation.
    ///
    /// Needs no account. The inviter gets a mail. Fails with 400 `invitation_invalid` or `invitation_expired`.
    #[oai(path = "/decline", method = "post", operation_id = "decline_invitation")]
    async fn decline(
        &self,
        context: RequestContext,
        Body(body): Body<InvitationTokenIn>,
    ) -> Result<InvitationDeclined> {
        invitation_guests::decline(&self.0, &context, &body.token).await?;
        Ok(InvitationDeclined::NoContent)
    }

    /// Creates an account with the invited email address, and accepts the invitation.
    ///
    /// If the link was sent by mail, the address counts as verified. A link that was sent by mail also takes over an active
    /// account that has the address, but has not verified it. The password and the name of this account are replaced, and its
    /// sessions, its API keys, the open links to verify or change its address or to set its password, and the open invitations
    /// that it has sent are revoked. A mail reports this to the address. The inviter gets a mail, too. Returns the
    /// organization. Sign in with `POST /auth/login` next.
    ///
    /// Fails with 400 `invitation_invalid` or `invitation_expired`. Fails with 400 `email_taken` if the address has an account
    /// that the invitation does not take over: sign in to this account and accept the invitation. Fails with 409
    /// `seat_limit_reached` if the organization has as many members as it may, and with 409 `membership_limit_reached` if the
    /// account is a member of too many organizations. Fails with 429 `too_many_attempts` after many attempts.
    #[oai(path = "/register", method = "post", operation_id = "register_with_invitation")]
    async fn register(
        &self,
        context: RequestContext,
        Body(body): Body<InvitationRegisterIn>,
    ) -> Result<Joined> {
        let new = SignUp { token: &body.token, password: body.password.0, full_name: body.full_name };
        Ok(Joined::Ok(Json(invitation_guests::register(&self.0, &context, new).await?.into())))
    }
}
