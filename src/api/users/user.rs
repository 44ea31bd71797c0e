//! The JSON representation of a user.

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object, types::Example};

use crate::models::user::{Role, User};

/// The role of a user.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase", rename = "Role")]
pub(super) enum RoleOut {
    User,
    Admin,
}

impl From<Role> for RoleOut {
    fn from(role: Role) -> Self {
        match role {
            Role::User => Self::User,
            Role::Admin => Self::Admin,
        }
    }
}

impl From<RoleOut> for Role {
    fn from(role: RoleOut) -> Self {
        match role {
            RoleOut::User => Self::User,
            RoleOut::Admin => Self::Admin,
        }
    }
}

/// A user.
#[derive(Object)]
#[oai(rename = "User", example)]
pub(in crate::api) struct UserOut {
    id: i64,
    /// The address to sign in with, in lower case.
    email: String,
    #[oai(nullable)]
    full_name: Option<String>,
    role: RoleOut,
    /// Whether the user is active. A deactivated user cannot sign in.
    is_active: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// Whether the email address is verified.
    email_verified: bool,
    /// When the account is due to be erased; null unless its deletion is scheduled.
    #[oai(nullable)]
    deletion_due_at: Option<DateTime<Utc>>,
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
            email_verified: true,
            deletion_due_at: None,
        }
    }
}

impl From<User> for UserOut {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            email: user.email,
            full_name: user.full_name,
            role: user.role.into(),
            is_active: user.is_active,
            created_at: user.created_at,
            updated_at: user.updated_at,
            email_verified: user.email_verified_at.is_some(),
            deletion_due_at: user.deletion_due_at,
        }
    }
}
