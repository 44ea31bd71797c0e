//! The validation of values against the schemas of poem-openapi. It reports up to [`MAX_FIELD_ERRORS`] errors, while the
//! parser of poem-openapi stops at the first error.

use poem_openapi::registry::{MetaOperationParam, MetaParamIn, MetaSchema, MetaSchemaRef, Registry};
use serde_json::{Number, Value};

use crate::{
    email_address::EmailAddress,
    error::{FieldError, Loc},
    services::{org_names::check_slug, users::check_password},
};

/// The error message for the NUL character, which PostgreSQL cannot store in text.
pub(super) const NUL_IN_TEXT: &str = "Text cannot contain the NUL character";

/// Maximum number of invalid fields that a response lists. A client chooses how many fields it sends, so the number of
/// errors must have a limit.
pub(super) const MAX_FIELD_ERRORS: usize = 50;

/// Returns at most [`MAX_FIELD_ERRORS`] errors. If there are more, the last entry reports this. Its location is the part of the
/// request, such as `body`, of the first error that is left out.
pub(super) fn limit_errors(mut errors: Vec<FieldError>) -> Vec<FieldError> {
    if errors.len() > MAX_FIELD_ERRORS {
        let left_out = errors.split_off(MAX_FIELD_ERRORS - 1).into_iter().next();
        let loc = left_out.into_iter().flat_map(|error| error.loc).take(1).collect();
        let msg = format!("More fields are invalid; only the first {} are listed", MAX_FIELD_ERRORS - 1);
        errors.push(FieldError { loc, msg, kind: "too_many_errors" });
    }
    errors
}

/// Checks one value and collects its errors. Stops when there are more than [`MAX_FIELD_ERRORS`].
pub(super) struct Checker<'a> {
    registry: &'a Registry,
    path: Vec<Loc>,
    errors: Vec<FieldError>,
    /// Whether there are more than [`MAX_FIELD_ERRORS`] errors. The check then stops.
    is_full: bool,
    /// Whether objects may have fields that are not in their schema.
    lenient: bool,
}

impl<'a> Checker<'a> {
    pub(super) fn new(registry: &'a Registry, root: &str, lenient: bool) -> Self {
        Self { registry, path: vec![Loc::key(root)], errors: Vec::new(), is_full: false, lenient }
    }

    /// Returns the errors, as [`limit_errors`] does.
    pub(super) fn finish(self) -> Vec<FieldError> {
        limit_errors(self.errors)
    }

    fn report(&mut self, kind: &'static str, msg: impl Into<String>) {
        if !self.is_full {
            self.errors.push(FieldError { loc: self.path.clone(), msg: msg.into(), kind });
            self.is_full = self.errors.len() > MAX_FIELD_ERRORS;
        }
    }

    /// Runs a check with `step` appended to the path.
    fn at(&mut self, step: Loc, check: impl FnOnce(&mut Self)) {
        self.path.push(step);
        check(self);
        self.path.pop();
    }

    /// Checks a value against a schema. Converts a number such as `1.0` to an integer if the schema requires an
    /// integer. JSON Schema treats both the same (validation vocabulary, section 6.1.1), but the parser does not.
    pub(super) fn check(&mut self, schema: &MetaSchemaRef, value: &mut Value) {
        let schema = match schema {
            MetaSchemaRef::Inline(schema) => schema,
            MetaSchemaRef::Reference(name) => match self.registry.schemas.get(name) {
                Some(schema) => schema,
                None => return,
            },
        };
        for part in &schema.all_of {
            self.check(part, value);
        }
        if schema.ty == "integer"
            && let Some(whole) = value.as_f64().filter(|_| value.is_f64()).and_then(whole_number)
        {
            *value = whole.into();
        }
        let is_null = value.is_null();
        match (schema.ty, value) {
            ("", _) => {}
            ("object", Value::Object(fields)) => self.object(schema, fields),
            ("array", Value::Array(items)) => self.array(schema, items),
            ("string", Value::String(text)) => self.string(schema, text),
            ("integer", Value::Number(number)) if number.is_i64() || number.is_u64() => {
                self.number(schema, number)
            }
            ("number", Value::Number(number)) => self.number(schema, number),
            ("boolean", Value::Bool(_)) => {}
            (expected, _) => {
                let (kind, what) = match expected {
                    "object" => ("object_type", "an object"),
                    "array" => ("list_type", "a list"),
                    "string" => ("string_type", "a string"),
                    "integer" => ("int_type", "a whole number"),
                    "number" => ("float_type", "a number"),
                    _ => ("bool_type", "true or false"),
                };
                let not_null = if is_null { ", not null" } else { "" };
                self.report(kind, format!("Input should be {what}{not_null}"));
            }
        }
    }

    fn object(&mut self, schema: &MetaSchema, fields: &mut serde_json::Map<String, Value>) {
        for name in &schema.required {
            if !fields.contains_key(*name) {
                self.at(Loc::key(name), |this| this.report("missing", "Field required"));
            }
        }
        for (name, value) in fields {
            if self.is_full {
                return;
            }
            let known = schema.properties.iter().find(|(property, _)| property == name);
            match known.map(|(_, property)| property).or(schema.additional_properties.as_deref()) {
                Some(property) if value.is_null() && is_nullable(property) => {}
                Some(property) => self.at(Loc::key(name), |this| this.check(property, value)),
                None if !self.lenient => {
                    self.at(Loc::key(name), |this| {
                        this.report("extra_forbidden", "This field is not known; check its spelling");
                    });
                }
                _ => {}
            }
        }
    }

    fn array(&mut self, schema: &MetaSchema, items: &mut [Value]) {
        if schema.min_items.is_some_and(|min| items.len() < min) {
            self.report(
                "too_short",
                format!("List should have at least {} items", schema.min_items.unwrap_or(0)),
            );
        }
        if schema.max_items.is_some_and(|max| items.len() > max) {
            self.report(
                "too_long",
                format!("List should have at most {} items", schema.max_items.unwrap_or(0)),
            );
        }
        if let Some(item_schema) = &schema.items {
            for (index, item) in items.iter_mut().enumerate() {
                if self.is_full {
                    return;
                }
                self.at(Loc::Index(index), |this| this.check(item_schema, item));
            }
        }
    }

    fn string(&mut self, schema: &MetaSchema, text: &str) {
        // `check_format` has its own messages, including those about the length.
        if let Some(format @ ("currency" | "email" | "password" | "slug")) = schema.format {
            if let Err(msg) = check_format(format, text) {
                self.report("value_error", msg);
            }
            return;
        }
        let length = text.chars().count();
        if let Some(min) = schema.min_length.filter(|min| length < *min) {
            self.report("string_too_short", format!("String should have at least {min} characters"));
        }
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            self.report("string_too_long", format!("String should have at most {max} characters"));
        }
        if !schema.enum_items.is_empty() && !schema.enum_items.iter().any(|item| item == text) {
            let choices: Vec<_> = schema.enum_items.iter().filter_map(Value::as_str).collect();
            self.report("enum", format!("Input should be one of: {}", choices.join(", ")));
        }
        if text.contains('\0') {
            self.report("value_error", NUL_IN_TEXT);
        }
    }

    fn number(&mut self, schema: &MetaSchema, number: &Number) {
        let reported = self.errors.len();
        let value = number.as_f64().unwrap_or(f64::NAN);
        if let Some(min) = schema.minimum {
            let exclusive = schema.exclusive_minimum == Some(true);
            if value < min || (exclusive && value == min) {
                let (kind, comparison) = if exclusive {
                    ("greater_than", "greater than")
                } else {
                    ("greater_than_equal", "at least")
                };
                self.report(kind, format!("Input should be {comparison} {min}"));
            }
        }
        if let Some(max) = schema.maximum {
            let exclusive = schema.exclusive_maximum == Some(true);
            if value > max || (exclusive && value == max) {
                let (kind, comparison) =
                    if exclusive { ("less_than", "less than") } else { ("less_than_equal", "at most") };
                self.report(kind, format!("Input should be {comparison} {max}"));
            }
        }
        let fits = match schema.format {
            Some("int32") => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            Some("int64") => number.as_i64().is_some(),
            Some("uint32") => number.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
            Some("uint64") => number.as_u64().is_some(),
            _ => true,
        };
        if !fits && self.errors.len() == reported {
            self.report("int_range", "Input is too large or too small");
        }
    }
}

/// Returns a number without a fraction as an integer. `None` if the number has a fraction, or if its absolute value is at least
/// 2^53: the float may then differ from the integer that the client sent.
fn whole_number(number: f64) -> Option<i64> {
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() < MAX_EXACT).then_some(number as i64)
}

/// Returns whether the schema allows null for a field. If a field refers to another schema, poem-openapi writes
/// `nullable` next to the reference.
fn is_nullable(property: &MetaSchemaRef) -> bool {
    matches!(property, MetaSchemaRef::Inline(schema) if schema.nullable)
}

/// Returns the errors of the query and path parameters of an operation, at most [`MAX_FIELD_ERRORS`] for each parameter. `query`
/// and `path` are the parameters that the client sent.
pub(super) fn check_params(
    registry: &Registry,
    params: &[MetaOperationParam],
    query: &[(String, String)],
    path: &[(String, String)],
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for param in params {
        let (root, sent) = match param.in_type {
            MetaParamIn::Query => ("query", query),
            MetaParamIn::Path => ("path", path),
            _ => continue,
        };
        let mut checker = Checker::new(registry, root, false);
        let value = sent.iter().find(|(name, _)| *name == param.name).map(|(_, value)| value);
        checker.at(Loc::key(&param.name), |this| match value {
            Some(text) => this.check(&param.schema, &mut parse_param(registry, &param.schema, text)),
            None if param.required => this.report("missing", "Field required"),
            None => {}
        });
        errors.extend(checker.finish());
    }
    errors
}

/// Converts the text of a parameter to the type of its schema. Returns the text as a string if this fails.
fn parse_param(registry: &Registry, schema: &MetaSchemaRef, text: &str) -> Value {
    let ty = match schema {
        MetaSchemaRef::Inline(schema) if schema.ty.is_empty() => {
            return schema.all_of.first().map_or(text.into(), |part| parse_param(registry, part, text));
        }
        MetaSchemaRef::Inline(schema) => schema.ty,
        MetaSchemaRef::Reference(name) => registry.schemas.get(name).map_or("", |schema| schema.ty),
    };
    let parsed = match ty {
        // The parser of poem-openapi accepts `1` for an integer, but not `1.0`.
        "integer" => text.parse().ok().filter(|number: &Number| !number.is_f64()).map(Value::Number),
        "number" => text.parse().ok().map(Value::Number),
        "boolean" => text.parse().ok().map(Value::Bool),
        _ => None,
    };
    parsed.unwrap_or_else(|| text.into())
}

/// Checks that a currency code has three capital letters. Does not check whether the code exists, because the list of
/// ISO 4217 changes.
fn check_currency(code: &str) -> Result<(), &'static str> {
    match code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        true => Ok(()),
        false => Err("Input should be three capital letters, such as EUR"),
    }
}

/// Checks a text against the `format` of a schema.
///
/// # Errors
/// A message for the user.
pub(super) fn check_format(format: &str, text: &str) -> Result<(), &'static str> {
    match format {
        "email" => EmailAddress::parse(text).map(drop),
        "password" => check_password(text),
        "slug" => check_slug(text),
        "currency" => check_currency(text),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::Type;

    use super::*;

    #[test]
    fn a_check_stops_after_the_maximum_number_of_errors() {
        let registry = Registry::new();
        let check = |schema: &MetaSchemaRef, mut value: Value| {
            let mut checker = Checker::new(&registry, "body", false);
            checker.check(schema, &mut value);
            checker.finish()
        };
        let list = Vec::<bool>::schema_ref();
        let errors = check(&list, vec![0; 50].into());
        assert_eq!((errors.len(), errors[49].kind), (50, "bool_type"));
        // With more than 50 errors, the last entry reports that further fields are invalid.
        for faults in [51, 100_000] {
            let errors = check(&list, vec![0; faults].into());
            assert_eq!(
                (errors.len(), errors[48].kind, errors[49].kind),
                (50, "bool_type", "too_many_errors")
            );
        }
        let lists = Vec::<Vec<bool>>::schema_ref();
        assert_eq!(check(&lists, vec![vec![0; 1_000]; 1_000].into()).len(), 50);
        let object = MetaSchemaRef::Inline(Box::new(MetaSchema::new("object")));
        let fields = (0..1_000).map(|n| (format!("{n}{}", "é".repeat(1_000)), Value::Null));
        let errors = check(&object, Value::Object(fields.collect()));
        assert_eq!(errors.len(), 50);
        let Some(Loc::Key(name)) = errors[0].loc.last() else { panic!("{errors:?}") };
        assert!(name.chars().count() == 64 && name.ends_with("é…"), "{name}");
    }
}
