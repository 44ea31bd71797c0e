//! What each role may do in an organization: the one place that says so.

use crate::models::membership::OrgRole;

/// Defines the permissions with their texts, and a type for each, by which an operation asks for it.
macro_rules! permissions {
    ($($name:ident = $text:literal,)+) => {
        /// A permission in an organization. The texts are part of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Permission {
            $($name,)+
        }

        impl Permission {
            /// All permissions, in the order in which the API lists them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the text in the API.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }

        /// The permissions as types: `OrgMember<perm::ProductRead>`.
        pub mod perm {
            use super::{OrgPermission, Permission};

            /// Any member who is not suspended.
            pub struct Member;

            impl OrgPermission for Member {
                const PERMISSION: Option<Permission> = None;
            }

            $(
                #[doc = concat!("A member with the permission `", $text, "`.")]
                pub struct $name;

                impl OrgPermission for $name {
                    const PERMISSION: Option<Permission> = Some(Permission::$name);
                }
            )+
        }
    };
}

/// A type that says which permission an operation needs.
pub trait OrgPermission {
    /// `None` if any member may call the operation.
    const PERMISSION: Option<Permission>;
}

permissions! {
    OrgUpdate = "org:update",
    OrgDelete = "org:delete",
    // Cancels the deletion. It is the only permission that counts while the deletion is scheduled.
    OrgRestore = "org:restore",
    OrgTransfer = "org:transfer",
    MemberRead = "member:read",
    MemberWrite = "member:write",
    AuditRead = "audit:read",
    KeyRead = "key:read",
    KeyWrite = "key:write",
    JobRead = "job:read",
    JobWrite = "job:write",
    ProductRead = "product:read",
    ProductWrite = "product:write",
}

impl OrgRole {
    /// Returns whether the role has a permission.
    pub const fn may(self, permission: Permission) -> bool {
        use Permission::*;
        match permission {
            OrgDelete | OrgRestore | OrgTransfer => matches!(self, Self::Owner),
            OrgUpdate | MemberWrite | AuditRead | KeyRead | KeyWrite => {
                matches!(self, Self::Owner | Self::Admin)
            }
            JobWrite | ProductWrite => matches!(self, Self::Owner | Self::Admin | Self::Member),
            MemberRead | JobRead | ProductRead => true,
        }
    }

    /// Returns the permissions of the role.
    pub fn permissions(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |permission| self.may(*permission))
    }
}
