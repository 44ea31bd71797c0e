//! The query parameters of a list.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde_json::Value;

macro_rules! bounded_integer {
    ($(#[$doc:meta])* $name:ident from $min:literal to $max:literal, $default:literal by default) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name(pub u32);

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl Type for $name {
            const IS_REQUIRED: bool = true;
            type RawValueType = u32;
            type RawElementValueType = u32;

            fn name() -> Cow<'static, str> {
                "integer(uint64)".into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new(MetaSchema {
                    minimum: Some($min as f64),
                    maximum: Some($max as f64),
                    ..MetaSchema::new_with_format("integer", "uint64")
                }))
            }

            fn as_raw_value(&self) -> Option<&u32> {
                Some(&self.0)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a u32> + 'a> {
                Box::new(std::iter::once(&self.0))
            }
        }

        impl ToJSON for $name {
            fn to_json(&self) -> Option<Value> {
                Some(self.0.into())
            }
        }

        impl ParseFromParameter for $name {
            fn parse_from_parameter(value: &str) -> ParseResult<Self> {
                let number = value.parse().map_err(ParseError::custom)?;
                match ($min..=$max).contains(&number) {
                    true => Ok(Self(number)),
                    false => Err(ParseError::custom(concat!("not from ", $min, " to ", $max))),
                }
            }
        }
    };
}

bounded_integer! {
    /// How many items of a list to skip.
    Offset from 0 to 1_000_000, 0 by default
}

bounded_integer! {
    /// How many items of a list to return.
    Limit from 1 to 200, 50 by default
}
