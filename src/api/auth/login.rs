//! Sign-in with one or two factors.

use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{Object, OpenApi, param::Query};

use super::{
    grants::{LoginGrant, LoginIn, RefreshFormIn},
    tokens::{Delivery, Granted, deliver, replaced_sessions},
};
use crate::{
    api::{
        extract::{Body, Form},
        problem::{ApiError, Result},
        tag::Tag,
    },
    app::App,
    context::RequestContext,
    error::Error,
    services::{login, sessions},
};

/// Operations that sign a user in.
pub(in crate::api) struct Login(pub(super) App);

/// The challenge of the first step, and a code of the second factor.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SecondFactorIn {
    /// The `challenge_token` of the first step. It allows 5 attempts.
    #[oai(validator(max_length = 128))]
    challenge_token: String,
    /// A code of 6 digits from the authenticator, or a recovery code.
    #[oai(validator(max_length = 64))]
    code: String,
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Login {
    /// Signs in with email address and password.
    ///
    /// A sign-in cancels a scheduled deletion of the account. With `delivery=cookie`, the new session replaces the session
    /// whose tokens the browser has in its cookies: the old session is revoked.
    ///
    /// Fails with 403 `two_factor_required` if the password is correct and the user has a second factor: send the
    /// `challenge_token` of this response with a code to `POST /auth/login/two-factor`. Fails with 401 `bad_credentials`
    /// for an unknown address, a wrong password or an inactive user, and for an admin whose password is a default or example
    /// password, unless `DEBUG` is on. Fails with 429 `too_many_attempts` and `Retry-After` after too many attempts. Fails with
    /// 403 `email_not_verified` if the server requires verified addresses, and the address of the user is not verified.
    ///
    /// Errors have the OAuth2 code in `error`. OAuth2 clients can also refresh their tokens here, with
    /// `grant_type=refresh_token` and `refresh_token` (RFC 6749 section 6). A `grant_type` other than `password` and
    /// `refresh_token` fails with 400 `unsupported_grant_type`.
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(
        &self,
        request: &Request,
        jar: &CookieJar,
        /// How to return the tokens: in the body, or in cookies that scripts of a page cannot read.
        #[oai(default)]
        delivery: Query<Delivery>,
        context: RequestContext,
        Form(form): Form<LoginGrant>,
    ) -> Result<Granted> {
        let LoginIn { username, password, .. } = match form {
            LoginGrant::Password(form) => form,
            LoginGrant::Refresh(RefreshFormIn { refresh_token, .. }) => {
                if delivery.0 == Delivery::Cookie {
                    let msg = "A form that refreshes tokens gets them in the body";
                    return Err(Error::invalid("delivery", msg).into());
                }
                let grant = sessions::refresh(&self.0, &context, &refresh_token).await?;
                return deliver(grant, Delivery::Body, request, jar);
            }
        };
        let replaced = replaced_sessions(&self.0, request, delivery.0).await?;
        match login::login(&self.0, &context, &username, password, &replaced).await? {
            login::Login::LoggedIn(grant) => deliver(grant, delivery.0, request, jar),
            login::Login::Challenge(challenge) => Err(ApiError::SecondFactorRequired(challenge)),
        }
    }

    /// Completes the sign-in with a code of the second factor.
    ///
    /// A sign-in cancels a scheduled deletion of the account. With `delivery=cookie`, the new session replaces an old session,
    /// as in `POST /auth/login`.
    ///
    /// Fails with 400 `invalid_code` for a wrong or used code, and for a challenge that is unknown or used, has expired, has no
    /// attempts left, or belongs to an inactive user. Fails with 401 `bad_credentials` if the user was deactivated or the
    /// password was set while the code was checked. Fails with 429 `too_many_attempts` after several failures.
    #[oai(path = "/login/two-factor", method = "post", operation_id = "login_two_factor")]
    async fn second_factor(
        &self,
        request: &Request,
        jar: &CookieJar,
        /// How to return the tokens: in the body, or in cookies that scripts of a page cannot read.
        #[oai(default)]
        delivery: Query<Delivery>,
        context: RequestContext,
        Body(body): Body<SecondFactorIn>,
    ) -> Result<Granted> {
        let replaced = replaced_sessions(&self.0, request, delivery.0).await?;
        let (challenge, code) = (&body.challenge_token, &body.code);
        let grant = login::complete_with_code(&self.0, &context, challenge, code, &replaced).await?;
        deliver(grant, delivery.0, request, jar)
    }
}
