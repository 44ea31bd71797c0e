//! Logging in, with one or two factors.

use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{ApiResponse, Object, OpenApi, param::Query, payload::Json, types::Example};

use super::tokens::{Delivery, Refreshed, TokenOut, deliver};
use crate::{
    api::{
        cookies,
        extract::{Body, Form},
        problem::Result,
        tag::Tag,
    },
    app::App,
    context::RequestContext,
    services::login::{self, Challenge},
};

pub(in crate::api) struct Login(pub(super) App);

/// The OAuth2 password flow (RFC 6749 section 4.3.2).
#[derive(Object)]
struct LoginIn {
    /// The email address.
    username: String,
    password: String,
    /// `password`, where the client sends it.
    grant_type: Option<String>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct SecondFactorIn {
    /// What the login has answered.
    #[oai(validator(max_length = 128))]
    challenge_token: String,
    /// 6 digits of the authenticator, or a recovery code.
    #[oai(validator(max_length = 64))]
    code: String,
}

/// The password was right; a code is wanted too.
#[derive(Object)]
#[oai(example)]
struct ChallengeOut {
    /// Goes to `POST /auth/login/two-factor` together with a code. 5 tries.
    challenge_token: String,
    /// Seconds.
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
    /// Signed in.
    #[oai(status = 200)]
    Tokens(Json<TokenOut>),
    /// The password was right; a code of the second factor is wanted too.
    #[oai(status = 202)]
    Challenge(Json<ChallengeOut>),
    /// Signed in; the tokens are in cookies.
    #[oai(status = 204)]
    Cookies,
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Login {
    /// Sign in.
    ///
    /// Fails with 401 `bad_credentials` for an unknown address, a wrong password and an inactive user alike; with 429
    /// `too_many_attempts` and `Retry-After` after some failures; with 403 `email_not_verified` where the server wants
    /// addresses to be confirmed first.
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(
        &self,
        request: &Request,
        jar: &CookieJar,
        /// `cookie` for a browser that is to keep the tokens where no script can read them.
        #[oai(default)]
        delivery: Query<Delivery>,
        context: RequestContext,
        Form(form): Form<LoginIn>,
    ) -> Result<LoggedIn> {
        if delivery.0 == Delivery::Cookie {
            cookies::refuse_cross_site(request)?;
        }
        match login::login(&self.0, &context, &form.username, form.password).await? {
            login::Login::LoggedIn(grant) => {
                let tokens = deliver(grant, delivery.0, request, jar)?;
                Ok(tokens.map_or(LoggedIn::Cookies, LoggedIn::Tokens))
            }
            login::Login::Challenge(challenge) => Ok(LoggedIn::Challenge(Json(challenge.into()))),
        }
    }

    /// Sign in, second step.
    ///
    /// Fails with 400 `invalid_code` for a wrong or used code, and for a challenge that is too old or has had its 5
    /// tries.
    #[oai(path = "/login/two-factor", method = "post", operation_id = "login_two_factor")]
    async fn second_factor(
        &self,
        request: &Request,
        jar: &CookieJar,
        /// As with the first step.
        #[oai(default)]
        delivery: Query<Delivery>,
        context: RequestContext,
        Body(body): Body<SecondFactorIn>,
    ) -> Result<Refreshed> {
        if delivery.0 == Delivery::Cookie {
            cookies::refuse_cross_site(request)?;
        }
        let grant = login::second_factor(&self.0, &context, &body.challenge_token, &body.code).await?;
        let tokens = deliver(grant, delivery.0, request, jar)?;
        Ok(tokens.map_or(Refreshed::Cookies, Refreshed::Tokens))
    }
}
