mod me;
mod two_factor;
mod user;
mod user_admin;

pub(super) use user::UserOut;

use poem_openapi::{Object, OpenApi, payload::Json, types::Example};

use super::{extract::Admin, problem::Result, tag::Tag};
use crate::app::App;

pub(super) struct Users;

pub(super) fn resources(app: &App) -> impl OpenApi + use<> {
    (Users, me::Me(app.clone()), two_factor::TwoFactor(app.clone()), user_admin::UserAdmin(app.clone()))
}

#[derive(Object)]
#[oai(example)]
struct AdminGreeting {
    message: String,
    /// The address of the admin who asked.
    admin_user: String,
}

impl Example for AdminGreeting {
    fn example() -> Self {
        Self { message: "This is an admin-only endpoint".into(), admin_user: "admin@example.com".into() }
    }
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl Users {
    /// Something that only admins get.
    #[oai(path = "/admin-only", method = "get", operation_id = "read_admin_only")]
    async fn admin_only(&self, admin: Admin) -> Result<Json<AdminGreeting>> {
        Ok(Json(AdminGreeting {
            message: "This is an admin-only endpoint".into(),
            admin_user: admin.user.email,
        }))
    }
}
