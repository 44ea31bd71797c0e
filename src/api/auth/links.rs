//! The operations of links in mails: verify an address, reset a password, change an address, accept an invitation to the
//! product.

use poem_openapi::{ApiResponse, Object, OpenApi};

use crate::{
    api::{
        extract::{Body, Email, NewPassword},
        problem::Result,
        respond::Accepted,
        tag::Tag,
    },
    app::App,
    context::RequestContext,
    services::recovery,
};

/// Operations that send links by mail, and operations that accept the tokens of such links.
pub(in crate::api) struct Links(pub(super) App);

/// An email address.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct AddressIn {
    email: Email,
}

/// The token of a link.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct TokenIn {
    /// The token of the link: the text after `#token=`.
    #[oai(validator(max_length = 128))]
    token: String,
}

/// The token of a link and a new password.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ResetIn {
    /// The token of the link: the text after `#token=`.
    #[oai(validator(max_length = 128))]
    token: String,
    /// At least 8 characters, and at most 72 bytes in UTF-8. Common passwords and your own name or address are refused.
    password: NewPassword,
}

/// The token of an invitation, and the password and the name of the new user.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct AcceptIn {
    /// The token of the link: the text after `#token=`.
    #[oai(validator(max_length = 128))]
    token: String,
    /// At least 8 characters, and at most 72 bytes in UTF-8. Common passwords and your own name or address are refused.
    password: NewPassword,
    /// The default is the name that the admin entered.
    #[oai(nullable, validator(max_length = 255))]
    full_name: Option<String>,
}

#[derive(ApiResponse)]
enum EmailVerified {
    /// The email address was verified.
    #[oai(status = 204)]
    NoContent,
}

#[derive(ApiResponse)]
enum PasswordReset {
    /// The password was set, and all sessions were revoked.
    #[oai(status = 204)]
    NoContent,
}

#[derive(ApiResponse)]
enum EmailChanged {
    /// The email address was changed.
    #[oai(status = 204)]
    NoContent,
}

#[derive(ApiResponse)]
enum InvitationAccepted {
    /// The password was set. The user can sign in.
    #[oai(status = 204)]
    NoContent,
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Links {
    /// Verifies an email address with the token of a link.
    ///
    /// The token is valid once, for 24 hours. Fails with 400 `invalid_link` if the token is unknown, used or expired, if your
    /// address has changed since the mail was sent, or if your account is deactivated.
    #[oai(path = "/verify-email", method = "post", operation_id = "verify_email")]
    async fn verify_email(
        &self,
        context: RequestContext,
        Body(body): Body<TokenIn>,
    ) -> Result<EmailVerified> {
        recovery::verify_email(&self.0, &context, &body.token).await?;
        Ok(EmailVerified::NoContent)
    }

    /// Sends a new link to verify an email address.
    ///
    /// Same response for every address. A mail is sent only if an active user has the address and has not verified it, and
    /// not after too many requests for the address. Fails with 429 `too_many_attempts` after too many requests from one
    /// network.
    #[oai(path = "/verify-email/resend", method = "post", operation_id = "resend_verification")]
    async fn resend(&self, context: RequestContext, Body(body): Body<AddressIn>) -> Result<Accepted> {
        recovery::resend_verification(&self.0, &context, &body.email.0).await?;
        Ok(Accepted::mail_sent_if_registered())
    }

    /// Sends a link to reset the password.
    ///
    /// Same response whether or not the address is registered. A mail is sent only if an active user has the address, and not
    /// after too many requests for the address. Fails with 429 `too_many_attempts` after too many requests from one network.
    #[oai(path = "/forgot-password", method = "post", operation_id = "forgot_password")]
    async fn forgot_password(
        &self,
        context: RequestContext,
        Body(body): Body<AddressIn>,
    ) -> Result<Accepted> {
        recovery::forgot_password(&self.0, &context, &body.email.0).await?;
        Ok(Accepted::mail_sent_if_registered())
    }

    /// Sets a new password with the token of a link.
    ///
    /// The token is valid once, for 30 minutes. Revokes all sessions of the user and the open links to verify or change the
    /// address or to set a password, marks the address as verified, and cancels a scheduled deletion of the account. If the
    /// address was not verified before, also revokes the API keys of the user and the open invitations that the user has sent.
    /// The user gets a mail. Fails with 400 `invalid_link` as `POST /auth/verify-email` does, and with 429 `too_many_attempts`
    /// after many requests for one account from one network.
    #[oai(path = "/reset-password", method = "post", operation_id = "reset_password")]
    async fn reset_password(
        &self,
        context: RequestContext,
        Body(body): Body<ResetIn>,
    ) -> Result<PasswordReset> {
        recovery::reset_password(&self.0, &context, &body.token, body.password.0).await?;
        Ok(PasswordReset::NoContent)
    }

    /// Changes the email address with the token of a link.
    ///
    /// The token is valid once, for 24 hours. Revokes the other open links to verify or change the address or to set a
    /// password, and sends a notice to the old address. Fails with 400 `invalid_link` if the token is unknown, used or expired,
    /// if you have since requested another address or the change was canceled, or if your account is deactivated. Fails with
    /// 400 `email_taken` if another user has registered the address since.
    #[oai(path = "/confirm-email", method = "post", operation_id = "confirm_email")]
    async fn confirm_email(
        &self,
        context: RequestContext,
        Body(body): Body<TokenIn>,
    ) -> Result<EmailChanged> {
        recovery::confirm_email(&self.0, &context, &body.token).await?;
        Ok(EmailChanged::NoContent)
    }

    /// Accepts an invitation with the token of its link, and sets the password.
    ///
    /// The token is valid once, for 7 days. Marks the address as verified. Fails with 400 `invalid_link` as
    /// `POST /auth/verify-email` does, and with 429 `too_many_attempts` after many requests for one account from one network.
    #[oai(path = "/accept-invite", method = "post", operation_id = "accept_invite")]
    async fn accept_invite(
        &self,
        context: RequestContext,
        Body(body): Body<AcceptIn>,
    ) -> Result<InvitationAccepted> {
        recovery::accept_invite(&self.0, &context, &body.token, body.password.0, body.full_name).await?;
        Ok(InvitationAccepted::NoContent)
    }
}
