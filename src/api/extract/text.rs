//! Text types with validation: a request with an invalid text is refused.

use std::borrow::Cow;

use poem_openapi::{
    NewType,
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde_json::Value;

use crate::{
    api::validation::{NUL_IN_TEXT, check_format},
    email_address::MAX_EMAIL_CHARS,
    models::organization::{MAX_SLUG_CHARS, MIN_SLUG_CHARS},
    security::MAX_PASSWORD_BYTES,
    services::users::MIN_PASSWORD_CHARS,
};

/// An email address as the client sent it, not normalized.
pub struct Email(pub String);

/// A new password. It is not `Debug`, so that it cannot be logged by mistake.
pub struct NewPassword(pub String);

/// The name of an organization in URLs.
pub struct Slug(pub String);

/// The code of a currency (ISO 4217).
pub struct Currency(pub String);

/// Implements the traits of a text type. The arguments are its format, its minimum and maximum length, an example, and
/// an optional pattern. `check_format` validates the text according to the format. The other arguments are only for the
/// OpenAPI document.
macro_rules! text_type {
    ($name:ident, $format:literal, $min:expr, $max:expr, $example:literal $(, $pattern:literal)?) => {
        impl Type for $name {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> Cow<'static, str> {
                concat!("string_", $format).into()
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new(MetaSchema {
                    format: Some($format),
                    min_length: Some($min),
                    max_length: Some($max),
                    example: Some($example.into()),
                    $(pattern: Some($pattern.into()),)?
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

        impl ToJSON for $name {
            fn to_json(&self) -> Option<Value> {
                Some(self.0.as_str().into())
            }
        }

        impl ParseFromJSON for $name {
            fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
                let Some(Value::String(text)) = value else {
                    return Err(ParseError::expected_type(value.unwrap_or_default()));
                };
                check_format($format, &text).map_err(ParseError::custom)?;
                Ok(Self(text))
            }
        }
    };
}

text_type!(Email, "email", 3, MAX_EMAIL_CHARS, "ada@example.com");
text_type!(NewPassword, "password", MIN_PASSWORD_CHARS, MAX_PASSWORD_BYTES, "correct horse battery");
text_type!(Currency, "currency", 3, 3, "EUR", "^[A-Z]{3}$");
text_type!(Slug, "slug", MIN_SLUG_CHARS, MAX_SLUG_CHARS, "acme-inc", "^[a-z][a-z0-9]*(-[a-z0-9]+)*$");

// Text without the NUL character, which PostgreSQL cannot store. This is not a doc comment, because `NewType` would add it
// to the OpenAPI document.
#[derive(NewType)]
#[oai(from_json = false, from_parameter = false, from_multipart = false, to_json = false, to_header = false)]
pub struct Text(String);

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl ParseFromParameter for Text {
    fn parse_from_parameter(value: &str) -> ParseResult<Self> {
        match value.contains('\0') {
            true => Err(ParseError::custom(NUL_IN_TEXT)),
            false => Ok(Self(value.to_owned())),
        }
    }
}
