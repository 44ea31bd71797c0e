mod links;

use std::fmt;

use poem::{Request, web::cookie::CookieJar};
use poem_openapi::{ApiResponse, Enum, Object, OpenApi, param::Query, payload::Json, types::Example};

use super::{
    cookies,
    extract::{Body, CurrentUser, Email, Form, LogoutSession, NewPassword},
    problem::{ApiError, Result},
    respond::NoContent,
    tag::Tag,
    users::UserOut,
};
use crate::{
    app::App,
    context::RequestContext,
    error::Error,
    services::{
        self,
        login::{Challenge, Login},
        sessions::Grant,
        users::Registration,
    },
};

pub(super) struct Auth(pub(super) App);

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (Auth(app.clone()), links::Links(app.clone()))
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RegisterIn {
    email: Email,
    /// 8 characters to 72 bytes, and none that anybody would guess.
    password: NewPassword,
    #[oai(validator(max_length = 255))]
    full_name: Option<String>,
}

#[derive(ApiResponse)]
enum Registered {
    /// The new user.
    #[oai(status = 201)]
    Created(Json<UserOut>),
}

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

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RefreshIn {
    /// Left out by a browser that has it in a cookie.
    #[oai(validator(max_length = 128))]
    refresh_token: Option<String>,
}

/// How tokens travel.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Default)]
#[oai(rename_all = "lowercase")]
enum Delivery {
    /// In the answer.
    #[default]
    Body,
    /// In cookies that scripts cannot read.
    Cookie,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Body { "body" } else { "cookie" })
    }
}

#[derive(Object)]
#[oai(example)]
struct TokenOut {
    /// Goes into the header `Authorization: Bearer <access_token>`.
    access_token: String,
    token_type: String,
    /// Seconds that the access token lives.
    expires_in: u64,
    /// Gets the next access token, once, at `POST /auth/refresh`.
    refresh_token: String,
    /// Seconds that the refresh token lives, if it is not used.
    refresh_expires_in: u64,
}

impl Example for TokenOut {
    fn example() -> Self {
        Self {
            access_token: "eyJhbGciOiJIUzI1NiJ9.e30.c2ln".into(),
            token_type: "bearer".into(),
            expires_in: 1_800,
            refresh_token: "3f6c0d...".into(),
            refresh_expires_in: 2_592_000,
        }
    }
}

impl From<Grant> for TokenOut {
    fn from(grant: Grant) -> Self {
        Self {
            access_token: grant.access_token,
            token_type: "bearer".into(),
            expires_in: grant.expires_in,
            refresh_token: grant.refresh_token,
            refresh_expires_in: grant.refresh_expires_in,
        }
    }
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

#[derive(ApiResponse)]
enum Refreshed {
    /// The next tokens.
    #[oai(status = 200)]
    Tokens(Json<TokenOut>),
    /// The next tokens are in the cookies.
    #[oai(status = 204)]
    Cookies,
}

fn deliver(grant: Grant, delivery: Delivery, request: &Request, jar: &CookieJar) -> Result<LoggedIn> {
    if delivery == Delivery::Body {
        return Ok(LoggedIn::Tokens(Json(grant.into())));
    }
    cookies::set(request, jar, &grant)?;
    Ok(LoggedIn::Cookies)
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Auth {
    /// Make an account.
    ///
    /// A link to confirm the address is sent there. Fails with 400 `email_taken` where the address has an account
    /// already.
    #[oai(path = "/register", method = "post", operation_id = "register")]
    async fn register(&self, context: RequestContext, Body(body): Body<RegisterIn>) -> Result<Registered> {
        let new = Registration { email: body.email.0, password: body.password.0, full_name: body.full_name };
        let user = services::users::register(&self.0, &context, new).await?;
        Ok(Registered::Created(Json(user.into())))
    }

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
        match services::login::login(&self.0, &context, &form.username, form.password).await? {
            Login::LoggedIn(grant) => deliver(grant, delivery.0, request, jar),
            Login::Challenge(challenge) => Ok(LoggedIn::Challenge(Json(challenge.into()))),
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
        let grant =
            services::login::second_factor(&self.0, &context, &body.challenge_token, &body.code).await?;
        if delivery.0 == Delivery::Body {
            return Ok(Refreshed::Tokens(Json(grant.into())));
        }
        cookies::set(request, jar, &grant)?;
        Ok(Refreshed::Cookies)
    }

    /// Trade a refresh token for the next one and an access token.
    ///
    /// Each works once; the same again within 10 seconds gets the same answer, later it ends the session. A browser
    /// with cookies sends `{}`. Fails with 401 `invalid_token`.
    #[oai(path = "/refresh", method = "post", operation_id = "refresh")]
    async fn refresh(
        &self,
        request: &Request,
        jar: &CookieJar,
        context: RequestContext,
        Body(body): Body<RefreshIn>,
    ) -> Result<Refreshed> {
        if let Some(token) = body.refresh_token {
            let grant = services::sessions::refresh(&self.0, &context, &token).await?;
            return Ok(Refreshed::Tokens(Json(grant.into())));
        }
        let token = cookies::refresh_token(request).ok_or(ApiError::NotAuthenticated)?;
        cookies::refuse_cross_site(request)?;
        let grant = services::sessions::refresh(&self.0, &context, &token).await?;
        cookies::set(request, jar, &grant)?;
        Ok(Refreshed::Cookies)
    }

    /// Sign out: end this session.
    ///
    /// A browser with cookies may do so after its access token is over.
    #[oai(path = "/logout", method = "post", operation_id = "logout")]
    async fn logout(&self, request: &Request, jar: &CookieJar, caller: LogoutSession) -> Result<NoContent> {
        match services::sessions::revoke(
            &self.0,
            &caller.context,
            caller.session.user_id,
            caller.session.session_id,
        )
        .await
        {
            // It was quicker elsewhere.
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(other) => return Err(other.into()),
        }
        cookies::clear(request, jar)?;
        Ok(NoContent)
    }

    /// Sign out everywhere: end all your sessions.
    #[oai(path = "/logout-all", method = "post", operation_id = "logout_all")]
    async fn logout_all(&self, request: &Request, jar: &CookieJar, caller: CurrentUser) -> Result<NoContent> {
        services::sessions::revoke_all(&self.0, &caller.context, caller.user.id).await?;
        cookies::clear(request, jar)?;
        Ok(NoContent)
    }
}
