//! The JSON representation of the scopes of API keys.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde_json::Value;

use crate::services::permissions::Permission;

/// A permission that an API key can have.
pub(super) struct Scope(pub(super) Permission);

impl Scope {
    /// Parses the stored scopes of a key, which are separated by spaces. Skips scopes that this release does not know:
    /// a later release may have stored them.
    pub(super) fn parse_list(stored: &str) -> Vec<Self> {
        stored.split(' ').filter_map(Self::parse).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        all_scopes().find(|scope| scope.as_str() == text).map(Self)
    }
}

fn all_scopes() -> impl Iterator<Item = Permission> {
    Permission::ALL.iter().copied().filter(|permission| permission.is_scope())
}

impl Type for Scope {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "scope".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            enum_items: all_scopes().map(|scope| scope.as_str().into()).collect(),
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

impl ToJSON for Scope {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.as_str().into())
    }
}

impl ParseFromJSON for Scope {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        let text = value.as_ref().and_then(Value::as_str);
        text.and_then(Self::parse).ok_or_else(|| ParseError::expected_type(value.unwrap_or_default()))
    }
}
