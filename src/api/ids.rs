//! The ids of jobs and sessions and the names of queues, with their patterns and formats in the OpenAPI document.
//!
//! As parameters, the types accept any text. The operation decides how to respond to an invalid text: for example, with
//! 404, because no job has such an id.

use std::borrow::Cow;

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde_json::Value;

/// Defines a text type. `$field` is the keyword of its JSON schema that restricts the text.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $field:ident: $value:expr) => {
        $(#[$doc])*
        pub(super) struct $name(pub(super) String);

        impl Type for $name {
            const IS_REQUIRED: bool = true;
            type RawValueType = String;
            type RawElementValueType = String;

            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new(MetaSchema {
                    $field: Some($value),
                    ..MetaSchema::new("string")
                }))
            }

            fn as_raw_value(&self) -> Option<&String> {
                Some(&self.0)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a String> + 'a> {
                Box::new(std::iter::once(&self.0))
            }
        }

        impl ToJSON for $name {
            fn to_json(&self) -> Option<Value> {
                self.0.to_json()
            }
        }

        impl ParseFromJSON for $name {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                String::parse_from_json(value).map(Self).map_err(ParseError::propagate)
            }
        }

        impl ParseFromParameter for $name {
            fn parse_from_parameter(value: &str) -> ParseResult<Self> {
                Ok(Self(value.to_owned()))
            }
        }
    };
}

id_type!(
    /// The id of a job.
    JobId, pattern: "^[0-9a-f]{32}$".to_owned()
);
id_type!(
    /// The id of a session.
    SessionId, format: "uuid"
);
id_type!(
    /// The name of a queue, as [`Queues::check_name`](crate::queue::Queues::check_name) accepts it.
    QueueName, pattern: "^[A-Za-z0-9._-]{1,100}$".to_owned()
);
