use poem_openapi::{Object, OpenApi, payload::Json, types::Example};

use crate::{
    api::{
        extract::{Body, CurrentUser},
        problem::Result,
        respond::NoContent,
        tag::Tag,
    },
    app::App,
    services::{login::confirm_password, two_factor},
};

pub(in crate::api) struct TwoFactor(pub(super) App);

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct BeginIn {
    /// The current one.
    password: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct CodeIn {
    /// 6 digits of the authenticator.
    #[oai(validator(max_length = 64))]
    code: String,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordAndCodeIn {
    /// The current one.
    password: String,
    /// 6 digits of the authenticator, or a recovery code.
    #[oai(validator(max_length = 64))]
    code: String,
}

#[derive(Object)]
#[oai(example)]
struct StatusOut {
    enabled: bool,
    recovery_codes_left: i64,
}

impl Example for StatusOut {
    fn example() -> Self {
        Self { enabled: true, recovery_codes_left: 10 }
    }
}

#[derive(Object)]
#[oai(example)]
struct SetupOut {
    /// To be typed into an authenticator.
    secret: String,
    /// The same, to be shown as a QR code.
    otpauth_uri: String,
}

impl Example for SetupOut {
    fn example() -> Self {
        Self {
            secret: "JBSWY3DPEHPK3PXP...".into(),
            otpauth_uri: "otpauth://totp/saas:ada%40example.com?secret=JBSWY3DPEHPK3PXP...&issuer=saas"
                .into(),
        }
    }
}

#[derive(Object)]
#[oai(example)]
struct RecoveryCodes {
    /// Each signs in once in the place of a code. They are not shown again.
    recovery_codes: Vec<String>,
}

impl Example for RecoveryCodes {
    fn example() -> Self {
        Self { recovery_codes: vec!["k5jq-2f7a-xw3m-2d6c-y7pl-q4tz".into()] }
    }
}

#[OpenApi(prefix_path = "/users/me/two-factor", tag = "Tag::Users")]
impl TwoFactor {
    /// Whether you have a second factor.
    #[oai(path = "/", method = "get", operation_id = "read_two_factor")]
    async fn read(&self, CurrentUser(actor): CurrentUser) -> Result<Json<StatusOut>> {
        let two_factor::Status { enabled, recovery_codes_left } =
            two_factor::status(&self.0, actor.user()).await?;
        Ok(Json(StatusOut { enabled, recovery_codes_left }))
    }

    /// Get a secret for an authenticator.
    ///
    /// The second factor is on once a code has confirmed it. Fails with 400 `wrong_password`, with 403
    /// `email_not_verified`, with 409 `conflict` where it is on already or the server is not set up for it.
    #[oai(path = "/", method = "post", operation_id = "begin_two_factor")]
    async fn begin(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<BeginIn>,
    ) -> Result<Json<SetupOut>> {
        confirm_password(&self.0, &actor, body.password).await?;
        let two_factor::Setup { secret, otpauth_uri } = two_factor::begin(&self.0, &actor).await?;
        Ok(Json(SetupOut { secret, otpauth_uri }))
    }

    /// Turn the second factor on, with a first code.
    ///
    /// Your other sessions end. Fails with 400 `invalid_code`.
    #[oai(path = "/confirm", method = "post", operation_id = "confirm_two_factor")]
    async fn confirm(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<CodeIn>,
    ) -> Result<Json<RecoveryCodes>> {
        let recovery_codes = two_factor::confirm(&self.0, &actor, &body.code).await?;
        Ok(Json(RecoveryCodes { recovery_codes }))
    }

    /// Turn the second factor off.
    ///
    /// Fails with 400 `wrong_password` or `invalid_code`.
    #[oai(path = "/", method = "delete", operation_id = "disable_two_factor")]
    async fn disable(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<PasswordAndCodeIn>,
    ) -> Result<NoContent> {
        confirm_password(&self.0, &actor, body.password).await?;
        two_factor::disable(&self.0, &actor, &body.code).await?;
        Ok(NoContent)
    }

    /// Get new recovery codes; the old ones are void.
    ///
    /// Fails with 400 `invalid_code`.
    #[oai(path = "/recovery-codes", method = "post", operation_id = "replace_recovery_codes")]
    async fn replace(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<CodeIn>,
    ) -> Result<Json<RecoveryCodes>> {
        let recovery_codes = two_factor::replace_codes(&self.0, &actor, &body.code).await?;
        Ok(Json(RecoveryCodes { recovery_codes }))
    }
}
