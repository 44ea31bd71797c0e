//! Who is asking. Taking one of these as an argument is the check.

use poem::Request;
use poem_openapi::{SecurityScheme, auth::Bearer};

use crate::{
    app::App,
    error::{Error, Result},
    models::user::{Role, User},
    services, telemetry,
};

/// An active user. Sign in with email and password, or paste the token from `POST /api/v1/auth/login`.
#[derive(SecurityScheme)]
#[oai(
    rename = "OAuth2PasswordBearer",
    ty = "oauth2",
    flows(password(token_url = "/api/v1/auth/login")),
    checker = "any_user"
)]
pub struct CurrentUser(pub User);

/// An active user who is an admin.
#[derive(SecurityScheme)]
#[oai(
    rename = "OAuth2PasswordBearer",
    ty = "oauth2",
    flows(password(token_url = "/api/v1/auth/login")),
    checker = "admin_only"
)]
pub struct Admin(pub User);

async fn any_user(req: &Request, bearer: Bearer) -> poem::Result<User> {
    Ok(authenticate(req, &bearer.token).await?)
}

async fn admin_only(req: &Request, bearer: Bearer) -> poem::Result<User> {
    let user = authenticate(req, &bearer.token).await?;
    if user.role == Role::Admin { Ok(user) } else { Err(Error::Forbidden.into()) }
}

async fn authenticate(req: &Request, token: &str) -> Result<User> {
    let app =
        req.data::<App>().ok_or_else(|| Error::internal("the application is not attached to the route"))?;
    let user = services::users::from_token(app, token).await?;
    let _ = telemetry::REQUEST.try_with(|request| request.user.set(user.id));
    Ok(user)
}
