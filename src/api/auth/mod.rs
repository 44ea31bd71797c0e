use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json, types::Example};

use super::{
    Tag,
    extract::{Body, Email, Form, NewPassword},
    users::UserOut,
};
use crate::{
    app::App,
    error::Result,
    services::{self, users::Registration},
};

pub(super) struct Auth(pub(super) App);

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RegisterIn {
    email: Email,
    /// 8 characters to 72 bytes.
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
#[oai(example)]
struct TokenOut {
    /// Goes into the header `Authorization: Bearer <access_token>`.
    access_token: String,
    token_type: String,
    /// Seconds.
    expires_in: u64,
}

impl Example for TokenOut {
    fn example() -> Self {
        Self {
            access_token: "eyJhbGciOiJIUzI1NiJ9.e30.c2ln".into(),
            token_type: "bearer".into(),
            expires_in: 1_800,
        }
    }
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Auth {
    /// Make an account.
    ///
    /// Fails with 400 `email_taken` where the address has one already.
    #[oai(path = "/register", method = "post", operation_id = "register")]
    async fn register(&self, Body(body): Body<RegisterIn>) -> Result<Registered> {
        let new = Registration { email: body.email.0, password: body.password.0, full_name: body.full_name };
        let user = services::users::register(&self.0, new).await?;
        Ok(Registered::Created(Json(user.into())))
    }

    /// Sign in.
    ///
    /// Fails with 401 `bad_credentials` for an unknown address, a wrong password and an inactive user alike.
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(&self, Form(form): Form<LoginIn>) -> Result<Json<TokenOut>> {
        let user = services::users::authenticate(&self.0, &form.username, form.password).await?;
        let (access_token, expires_in) = self.0.tokens.issue(user.id)?;
        Ok(Json(TokenOut { access_token, token_type: "bearer".into(), expires_in }))
    }
}
