//! The permissions in an organization: which permissions each role has, and which permissions an API key can have.

use super::{
    actor::Actor,
    org_caller::{AcceptedCaller, OrgCaller},
};
use crate::models::membership::OrgRole;

/// Defines the permissions, their texts, and the callers that can have them. Also defines a type for each permission:
/// an operation requires a permission by naming this type.
macro_rules! permissions {
    ($($name:ident = $text:literal for $caller:ident,)+) => {
        /// A permission in an organization. The texts are part of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Permission {
            $($name,)+
        }

        impl Permission {
            /// All permissions, in the order in which the API lists them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the name of the permission in the API, such as `product:read`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// Returns whether an API key can have the permission as a scope.
            pub const fn is_scope(self) -> bool {
                match self {
                    $(Self::$name => <$caller as AcceptedCaller>::ACCEPTS_KEYS,)+
                }
            }
        }

        /// The permissions as types: `OrgMember<perm::ProductRead>`.
        pub mod perm {
            use super::{Actor, OrgCaller, OrgPermission, Permission};

            /// Any member who may act in the organization.
            pub struct Member;

            impl OrgPermission for Member {
                const PERMISSION: Option<Permission> = None;
                type Caller = Actor;
            }

            $(
                #[doc = concat!("A member with the permission `", $text, "`.")]
                pub struct $name;

                impl OrgPermission for $name {
                    const PERMISSION: Option<Permission> = Some(Permission::$name);
                    type Caller = $caller;
                }
            )+
        }
    };
}

/// A type that specifies the permission and the caller that an operation requires.
pub trait OrgPermission {
    /// `None` if any member who may act in the organization may call the operation.
    const PERMISSION: Option<Permission>;
    /// `Actor` if the operation requires a session. `OrgCaller` if the operation also accepts an API key with the
    /// permission.
    type Caller: AcceptedCaller;
}

// An API key can have the permissions for `OrgCaller` as scopes. Permissions to change the organization, its members and its
// keys are for `Actor`, because a stolen key must not extend its own rights.
permissions! {
    OrgUpdate = "org:update" for Actor,
    OrgDelete = "org:delete" for Actor,
    // Allows canceling the deletion of the organization. No other permission is effective while a deletion is
    // scheduled.
    OrgRestore = "org:restore" for Actor,
    OrgTransfer = "org:transfer" for Actor,
    MemberRead = "member:read" for Actor,
    MemberWrite = "member:write" for Actor,
    AuditRead = "audit:read" for OrgCaller,
    KeyRead = "key:read" for Actor,
    KeyWrite = "key:write" for Actor,
    JobRead = "job:read" for OrgCaller,
    JobWrite = "job:write" for OrgCaller,
    ProductRead = "product:read" for OrgCaller,
    ProductWrite = "product:write" for OrgCaller,
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
