//! The JSON representation of roles and permissions.

use std::borrow::Cow;

use poem_openapi::{
    Enum,
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde_json::Value;

use crate::{models::membership::OrgRole, services::permissions::Permission};

/// The role of a member of an organization.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "lowercase", rename = "OrgRole")]
pub(super) enum RoleOut {
    Owner,
    Admin,
    Member,
    Viewer,
}

impl From<OrgRole> for RoleOut {
    fn from(role: OrgRole) -> Self {
        match role {
            OrgRole::Owner => Self::Owner,
            OrgRole::Admin => Self::Admin,
            OrgRole::Member => Self::Member,
            OrgRole::Viewer => Self::Viewer,
        }
    }
}

impl From<RoleOut> for OrgRole {
    fn from(role: RoleOut) -> Self {
        match role {
            RoleOut::Owner => Self::Owner,
            RoleOut::Admin => Self::Admin,
            RoleOut::Member => Self::Member,
            RoleOut::Viewer => Self::Viewer,
        }
    }
}

/// A permission in an organization.
pub(super) struct PermissionOut(pub(super) Permission);

impl Type for PermissionOut {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "permission".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            enum_items: Permission::ALL.iter().map(|permission| permission.as_str().into()).collect(),
            ..MetaSchema::new("string")
        }))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ParseFromJSON for PermissionOut {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let value = value.unwrap_or_default();
        let known = Permission::ALL.iter().find(|permission| value == permission.as_str());
        known.map(|permission| Self(*permission)).ok_or_else(|| ParseError::expected_type(value))
    }
}

impl ToJSON for PermissionOut {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.as_str().into())
    }
}
