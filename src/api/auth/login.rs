//! Sign-in with one or two factors.

use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{ApiResponse, Object, OpenApi, param::Query, payload::Json, types::Example};

use super::tokens::{Delivery, Refreshed, TokenOut, deliver, replaced_sessions};
use crate::{
    api::{
        extract::{Body, Form},
        problem::Result,
        tag::Tag,
    },
    app::App,
    context::RequestContext,
    services::login::{self, Challenge},
};

/// Operations that sign a user in.
pub(in crate::api) struct Login(pub(super) App);

/// The form of the OAuth2 password flow (RFC 6749 section 4.3.2).
#[derive(Object)]
struct LoginIn {
    /// Email address of the user.
    username: String,
    password: String,
    /// `password`, if present. It is ignored.
    grant_type: Option<String>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SecondFactorIn {
    /// The `challenge_token` of the first step.
    #[oai(validator(max_length = 128))]
    challenge_token: String,
    /// A code of 6 digits from the authenticator, or a recovery code.
    #[oai(validator(max_length = 64))]
    code: String,
}

/// A challenge: the password is correct, and a code is required too.
#[derive(Object)]
#[oai(example)]
struct ChallengeOut {
    /// Send it with a code to `POST /auth/login/two-factor`. It allows 5 attempts.
    challenge_token: String,
    /// Lifetime of the challenge in seconds.
    expires_in: u64,
}

impl Example for ChallengeOut {
    fn example() -> Self {
        Self { challenge_token: "9b1f5d...".into(), expires_in: 300 }
    }
}

impl From<Challenge> for ChallengeOut {
    fn from(challenge: Challenge) -> Self {
        Self { challenge_token: challenge.token, expires_in: challenge.expires_in }
    }
}

#[derive(ApiResponse)]
enum LoggedIn {
    /// The user is signed in.
    #[oai(status = 200)]
    Tokens(Json<TokenOut>),
    /// The password is correct, and a code of the second factor is required too.
    #[oai(status = 202)]
    Challenge(Json<ChallengeOut>),
    /// The user is signed in. The tokens are in cookies.
    #[oai(status = 204)]
    Cookies,
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Login {
    /// Signs in with email address and password.
    ///
    /// With cookies, the new session replaces the one whose cookies the browser sends: that one is revoked.
    ///
    /// Fails with 401 `bad_credentials` for an unknown address, a wrong password or an inactive user. Fails with 429
    /// `too_many_attempts` and `Retry-After` after several failures. Fails with 403 `email_not_verified` if the server
    /// requires verified addresses.
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(
        &self,
        request: &Request,
        jar: &CookieJar,
        /// How to return the tokens: in the body, or in cookies that scripts of a page cannot read.
        #[oai(default)]
        delivery: Query<Delivery>,
        context: RequestContext,
        Form(form): Form<LoginIn>,
    ) -> Result<LoggedIn> {
        let replaced = replaced_sessions(&self.0, request, delivery.0).await?;
        match login::login(&self.0, &context, &form.username, form.password, &replaced).await? {
            login::Login::LoggedIn(grant) => {
                let tokens = deliver(grant, delivery.0, request, jar)?;
                Ok(tokens.map_or(LoggedIn::Cookies, LoggedIn::Tokens))
            }
            login::Login::Challenge(challenge) => Ok(LoggedIn::Challenge(Json(challenge.into()))),
        }
    }

    /// Completes the sign-in with a code of the second factor.
    ///
    /// Fails with 400 `invalid_code` for a wrong or used code, and for a challenge that has expired or has no attempts
    /// left.
    #[oai(path = "/login/two-factor", method = "post", operation_id = "login_two_factor")]
    async fn second_factor(
        &self,
        request: &Request,
        jar: &CookieJar,
        /// How to return the tokens, as in the first step.
        #[oai(default)]
        delivery: Query<Delivery>,
        context: RequestContext,
        Body(body): Body<SecondFactorIn>,
    ) -> Result<Refreshed> {
        let replaced = replaced_sessions(&self.0, request, delivery.0).await?;
        let (challenge, code) = (&body.challenge_token, &body.code);
        let grant = login::second_factor(&self.0, &context, challenge, code, &replaced).await?;
        let tokens = deliver(grant, delivery.0, request, jar)?;
        Ok(tokens.map_or(Refreshed::Cookies, Refreshed::Tokens))
    }
}
