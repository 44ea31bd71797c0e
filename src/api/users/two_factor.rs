//! Two-factor authentication of the caller.

use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json, types::Example};

use crate::{
    api::{
        conditional::Tagged,
        extract::{Body, CurrentUser, SignedIn},
        problem::Result,
        tag::Tag,
    },
    app::App,
    services::{login::confirm_password, two_factor},
};

/// Operations on the second factor of the caller.
pub(in crate::api) struct TwoFactor(pub(super) App);

/// The password, which is required to create a secret for an authenticator.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct BeginIn {
    /// The current password.
    password: String,
}

/// A code of the second factor.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct CodeIn {
    /// A code of 6 digits from the authenticator. To replace the recovery codes, a recovery code is accepted, too.
    #[oai(validator(max_length = 64))]
    code: String,
}

/// The password and a code.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct PasswordAndCodeIn {
    /// The current password.
    password: String,
    /// A code of 6 digits from the authenticator, or a recovery code.
    #[oai(validator(max_length = 64))]
    code: String,
}

/// Whether two-factor authentication is on, and the number of unused recovery codes.
#[derive(Object)]
#[oai(example)]
struct StatusOut {
    enabled: bool,
    /// Number of unused recovery codes.
    recovery_codes_left: i64,
}

impl Example for StatusOut {
    fn example() -> Self {
        Self { enabled: true, recovery_codes_left: 10 }
    }
}

/// The secret for an authenticator.
#[derive(Object)]
#[oai(example)]
struct SetupOut {
    /// The secret in Base32, for manual input.
    secret: String,
    /// The secret as a URI, to be shown as a QR code.
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

#[derive(ApiResponse)]
enum TwoFactorDisabled {
    /// Two-factor authentication was turned off.
    #[oai(status = 204)]
    NoContent,
}

/// New recovery codes.
#[derive(Object)]
#[oai(example)]
struct RecoveryCodes {
    /// Each code is accepted once, instead of a code of the authenticator. The API does not return the codes again.
    recovery_codes: Vec<String>,
}

impl Example for RecoveryCodes {
    fn example() -> Self {
        Self { recovery_codes: vec!["k5jq-2f7a-xw3m-2d6c-y7pl-q4tz".into()] }
    }
}

#[OpenApi(prefix_path = "/users/me/two-factor", tag = "Tag::Users")]
impl TwoFactor {
    /// Returns whether two-factor authentication is on.
    ///
    /// Also returns the number of unused recovery codes.
    #[oai(path = "/", method = "get", operation_id = "read_two_factor")]
    async fn read(&self, SignedIn(actor): SignedIn) -> Result<Tagged<StatusOut>> {
        let two_factor::Status { enabled, recovery_codes_left } =
            two_factor::status(&self.0, actor.user()).await?;
        Ok(Tagged(StatusOut { enabled, recovery_codes_left }))
    }

    /// Creates a secret for an authenticator.
    ///
    /// Two-factor authentication is off until a code confirms the secret. Fails with 400 `wrong_password`, and with 403
    /// `email_not_verified` if your email address is not verified. Fails with 409 `conflict` if two-factor authentication is
    /// already on, or if the server has no `TWO_FACTOR_KEY`. Fails with 429 `too_many_attempts` after several failures.
    #[oai(path = "/", method = "post", operation_id = "begin_two_factor")]
    async fn begin(&self, SignedIn(actor): SignedIn, Body(body): Body<BeginIn>) -> Result<Json<SetupOut>> {
        let user = confirm_password(&self.0, &actor, body.password).await?.user;
        let two_factor::Setup { secret, otpauth_uri } = two_factor::begin(&self.0, &actor, &user).await?;
        Ok(Json(SetupOut { secret, otpauth_uri }))
    }

    /// Turns two-factor authentication on and returns recovery codes.
    ///
    /// Revokes your other sessions, and sends you a mail. Fails with 400 `invalid_code`, and with 429 `too_many_attempts` after
    /// several failures. Fails with 409 `conflict` if two-factor authentication is already on, or if you have not created a
    /// secret with `POST /users/me/two-factor`.
    #[oai(path = "/confirm", method = "post", operation_id = "confirm_two_factor")]
    async fn confirm(
        &self,
        SignedIn(actor): SignedIn,
        Body(body): Body<CodeIn>,
    ) -> Result<Json<RecoveryCodes>> {
        let recovery_codes = two_factor::confirm(&self.0, &actor, &body.code).await?;
        Ok(Json(RecoveryCodes { recovery_codes }))
    }

    /// Turns two-factor authentication off.
    ///
    /// Deletes the recovery codes, and sends you a mail. Fails with 400 `wrong_password`, with 400 `invalid_code` if the code
    /// is wrong or used or if two-factor authentication is off, and with 429 `too_many_attempts` after several failures.
    #[oai(path = "/disable", method = "post", operation_id = "turn_off_two_factor")]
    async fn turn_off(
        &self,
        CurrentUser(actor): CurrentUser,
        Body(body): Body<PasswordAndCodeIn>,
    ) -> Result<TwoFactorDisabled> {
        let user = confirm_password(&self.0, &actor, body.password).await?.user;
        two_factor::disable(&self.0, &actor, &user, &body.code).await?;
        Ok(TwoFactorDisabled::NoContent)
    }

    /// Turns two-factor authentication off, as `POST /users/me/two-factor/disable` does.
    ///
    /// Prefer the operation with POST, because not every client can send a body with DELETE. Fails with 400
    /// `wrong_password` or `invalid_code`, and with 429 `too_many_attempts`.
    #[oai(path = "/", method = "delete", operation_id = "disable_two_factor", deprecated = true)]
    async fn disable(&self, caller: CurrentUser, body: Body<PasswordAndCodeIn>) -> Result<TwoFactorDisabled> {
        self.turn_off(caller, body).await
    }

    /// Replaces the recovery codes. The old codes become invalid.
    ///
    /// Fails with 400 `invalid_code` if the code is wrong or used or if two-factor authentication is off, and with 429
    /// `too_many_attempts` after several failures.
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
