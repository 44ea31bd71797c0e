//! An example of an operation for admins.

use poem_openapi::{Object, OpenApi, payload::Json, types::Example};

use crate::api::{extract::Admin, problem::Result, tag::Tag};

/// The example operation.
pub(in crate::api) struct AdminOnly;

/// A greeting.
#[derive(Object)]
#[oai(example)]
struct AdminGreeting {
    message: String,
    /// Email address of the calling admin.
    admin_user: String,
}

impl Example for AdminGreeting {
    fn example() -> Self {
        Self { message: "This is an admin-only endpoint".into(), admin_user: "admin@example.com".into() }
    }
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl AdminOnly {
    /// Returns a greeting.
    ///
    /// An example of an operation for admins.
    #[oai(path = "/admin-only", method = "get", operation_id = "read_admin_only")]
    async fn admin_only(&self, Admin(actor): Admin) -> Result<Json<AdminGreeting>> {
        Ok(Json(AdminGreeting {
            message: "This is an admin-only endpoint".into(),
            admin_user: actor.user().email.clone(),
        }))
    }
}
