use poem_openapi::{Object, OpenApi};

use crate::{
    api::{
        extract::{Body, Email, NewPassword},
        problem::Result,
        respond::{Accepted, NoContent},
        tag::Tag,
    },
    app::App,
    context::RequestContext,
    services::recovery,
};

pub(in crate::api) struct Links(pub(super) App);

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct AddressIn {
    email: Email,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct TokenIn {
    /// What follows `#token=` in the link of the mail.
    #[oai(validator(max_length = 128))]
    token: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct ResetIn {
    /// What follows `#token=` in the link of the mail.
    #[oai(validator(max_length = 128))]
    token: String,
    /// 8 characters to 72 bytes, and none that anybody would guess.
    password: NewPassword,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct AcceptIn {
    /// What follows `#token=` in the link of the mail.
    #[oai(validator(max_length = 128))]
    token: String,
    /// 8 characters to 72 bytes, and none that anybody would guess.
    password: NewPassword,
    #[oai(validator(max_length = 255))]
    full_name: Option<String>,
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Links {
    /// Confirm an address.
    ///
    /// With the token of the link that was sent there; it works once, for 24 hours. Fails with 400 `invalid_link`.
    #[oai(path = "/verify-email", method = "post", operation_id = "verify_email")]
    async fn verify_email(&self, context: RequestContext, Body(body): Body<TokenIn>) -> Result<NoContent> {
        recovery::verify_email(&self.0, &context, &body.token).await?;
        Ok(NoContent)
    }

    /// Have the link to confirm an address sent again.
    ///
    /// Answers the same whether anybody has the address or not. Fails with 429 `too_many_attempts` where one place asks
    /// for too many.
    #[oai(path = "/verify-email/resend", method = "post", operation_id = "resend_verification")]
    async fn resend(&self, context: RequestContext, Body(body): Body<AddressIn>) -> Result<Accepted> {
        recovery::resend_verification(&self.0, &context, &body.email.0).await?;
        Ok(Accepted::mail_sent_if_registered())
    }

    /// Have a link sent to set a forgotten password.
    ///
    /// Answers the same whether anybody has the address or not. Fails with 429 `too_many_attempts` where one place asks
    /// for too many.
    #[oai(path = "/forgot-password", method = "post", operation_id = "forgot_password")]
    async fn forgot_password(
        &self,
        context: RequestContext,
        Body(body): Body<AddressIn>,
    ) -> Result<Accepted> {
        recovery::forgot_password(&self.0, &context, &body.email.0).await?;
        Ok(Accepted::mail_sent_if_registered())
    }

    /// Set a forgotten password.
    ///
    /// With the token of the link that was sent; it works once, for 30 minutes. All sessions end. Fails with 400
    /// `invalid_link`.
    #[oai(path = "/reset-password", method = "post", operation_id = "reset_password")]
    async fn reset_password(&self, context: RequestContext, Body(body): Body<ResetIn>) -> Result<NoContent> {
        recovery::reset_password(&self.0, &context, &body.token, body.password.0).await?;
        Ok(NoContent)
    }

    /// Take on a new address.
    ///
    /// With the token of the link that was sent there; it works once, for 24 hours. Fails with 400 `invalid_link`, or
    /// `email_taken` where somebody else has it by now.
    #[oai(path = "/confirm-email", method = "post", operation_id = "confirm_email")]
    async fn confirm_email(&self, context: RequestContext, Body(body): Body<TokenIn>) -> Result<NoContent> {
        recovery::confirm_email(&self.0, &context, &body.token).await?;
        Ok(NoContent)
    }

    /// Take an invitation.
    ///
    /// With the token of the link that was sent; it works once, for 7 days. Fails with 400 `invalid_link`.
    #[oai(path = "/accept-invite", method = "post", operation_id = "accept_invite")]
    async fn accept_invite(&self, context: RequestContext, Body(body): Body<AcceptIn>) -> Result<NoContent> {
        recovery::accept_invite(&self.0, &context, &body.token, body.password.0, body.full_name).await?;
        Ok(NoContent)
    }
}
