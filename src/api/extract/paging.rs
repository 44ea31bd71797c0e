//! The query parameters `limit` and `offset` of a list.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde_json::Value;

/// Number of items of a list to skip.
pub type Offset = Bounded<0, 1_000_000, 0>;
/// Maximum number of items of a page.
pub type Limit = Bounded<1, 200, 50>;

/// An integer from `MIN` to `MAX`, with a default.
#[derive(Clone, Copy)]
pub struct Bounded<const MIN: u32, const MAX: u32, const DEFAULT: u32>(pub u32);

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Bounded<MIN, MAX, DEFAULT> {
    pub const LARGEST: Self = Self(MAX);

    /// Returns the number of rows to read for a page of this size. The additional row shows whether there is a next
    /// page.
    pub fn rows(self) -> i64 {
        i64::from(self.0) + 1
    }
}

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Default for Bounded<MIN, MAX, DEFAULT> {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Type for Bounded<MIN, MAX, DEFAULT> {
    const IS_REQUIRED: bool = true;
    type RawValueType = u32;
    type RawElementValueType = u32;

    fn name() -> Cow<'static, str> {
        u64::name()
    }

    fn schema_ref() -> MetaSchemaRef {
        u64::schema_ref().merge(MetaSchema {
            minimum: Some(MIN.into()),
            maximum: Some(MAX.into()),
            ..MetaSchema::ANY
        })
    }

    fn as_raw_value(&self) -> Option<&u32> {
        Some(&self.0)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a u32> + 'a> {
        Box::new(std::iter::once(&self.0))
    }
}

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> ToJSON for Bounded<MIN, MAX, DEFAULT> {
    fn to_json(&self) -> Option<Value> {
        Some(self.0.into())
    }
}

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> ParseFromParameter for Bounded<MIN, MAX, DEFAULT> {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        match value.parse().map_err(ParseError::custom)? {
            number if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(ParseError::custom(format!("not from {MIN} to {MAX}"))),
        }
    }
}
