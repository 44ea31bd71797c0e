//! Registration of new users.

use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json};

use crate::{
    api::{
        extract::{Body, Email, NewPassword},
        paths::api_path,
        problem::Result,
        tag::Tag,
        users::UserOut,
    },
    app::App,
    context::RequestContext,
    services::users::{self, Registration},
};

/// The operation that registers a user.
pub(in crate::api) struct Register(pub(super) App);

/// A new account.
#[derive(Object)]
#[oai(deny_unknown_fields)]
struct RegisterIn {
    email: Email,
    /// At least 8 characters, and at most 72 bytes in UTF-8. Common passwords and your own name or address are refused.
    password: NewPassword,
    #[oai(nullable, validator(max_length = 255))]
    full_name: Option<String>,
}

#[derive(ApiResponse)]
enum Registered {
    /// The new user.
    #[oai(status = 201)]
    Created(
        Json<UserOut>,
        /// The path of the user: `/api/v1/users/me`. The user has to sign in to read it.
        #[oai(header = "Location")]
        String,
    ),
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Auth")]
impl Register {
    /// Registers a user.
    ///
    /// Sends a link to verify the email address. Fails with 400 `email_taken` if the address is registered. Fails with 429
    /// `too_many_attempts` after too many requests from one network or for one mailbox.
    #[oai(path = "/register", method = "post", operation_id = "register")]
    async fn register(&self, context: RequestContext, Body(body): Body<RegisterIn>) -> Result<Registered> {
        let new = Registration { email: body.email.0, password: body.password.0, full_name: body.full_name };
        let user = users::register(&self.0, &context, new).await?;
        Ok(Registered::Created(Json(user.into()), api_path!("/users/me").into()))
    }
}
