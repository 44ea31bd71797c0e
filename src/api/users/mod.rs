use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object, OpenApi, payload::Json, types::Example};

use super::{
    Tag,
    extract::{Admin, CurrentUser},
};
use crate::{
    error::Result,
    models::user::{self, User},
};

pub(super) struct Users;

#[derive(Enum)]
#[oai(rename_all = "lowercase", rename = "Role")]
enum RoleOut {
    User,
    Admin,
}

/// A user, as others may see them.
#[derive(Object)]
#[oai(rename = "User", example)]
pub(super) struct UserOut {
    id: i64,
    email: String,
    #[oai(nullable)]
    full_name: Option<String>,
    role: RoleOut,
    is_active: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Example for UserOut {
    fn example() -> Self {
        let at = DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default();
        Self {
            id: 1,
            email: "ada@example.com".into(),
            full_name: Some("Ada Lovelace".into()),
            role: RoleOut::User,
            is_active: true,
            created_at: at,
            updated_at: at,
        }
    }
}

impl From<User> for UserOut {
    fn from(user: User) -> Self {
        let role = match user.role {
            user::Role::User => RoleOut::User,
            user::Role::Admin => RoleOut::Admin,
        };
        Self {
            id: user.id,
            email: user.email,
            full_name: user.full_name,
            role,
            is_active: user.is_active,
            created_at: user.created_at,
            updated_at: user.updated_at,
        }
    }
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
    /// The signed-in user.
    #[oai(path = "/me", method = "get", operation_id = "read_me")]
    async fn me(&self, CurrentUser(user): CurrentUser) -> Result<Json<UserOut>> {
        Ok(Json(user.into()))
    }

    /// Something that only admins get.
    #[oai(path = "/admin-only", method = "get", operation_id = "read_admin_only")]
    async fn admin_only(&self, Admin(admin): Admin) -> Result<Json<AdminGreeting>> {
        Ok(Json(AdminGreeting { message: "This is an admin-only endpoint".into(), admin_user: admin.email }))
    }
}
