//! Completes the schemas: which fields the server accepts in requests, and which fields it always returns. Converts
//! them to OpenAPI 3.1.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Object, schema_name};

/// Completes all schemas.
pub(super) fn complete(spec: &mut Value) {
    let in_requests = names_below(spec, |operation| &operation["requestBody"]);
    let in_json = names_below(spec, |operation| &operation["requestBody"]["content"]["application/json"]);
    for (name, schema) in named_schemas(spec) {
        if in_json.contains(name) {
            forbid_unknown_fields(schema);
        }
        if !in_requests.contains(name) {
            require_nullable_fields(schema);
        }
    }
    let mut convert = |schema: &mut Object| {
        remove_repetition(schema);
        convert_nullable(schema);
        name_values(schema);
    };
    for (_, schema) in named_schemas(spec) {
        convert_all(schema, &mut convert);
    }
    if let Some(paths) = spec.get_mut("paths") {
        convert_below(paths, &mut convert);
    }
}

fn named_schemas(spec: &mut Value) -> impl Iterator<Item = (&str, &mut Value)> {
    let schemas = spec.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    schemas.into_iter().flatten().map(|(name, schema)| (name.as_str(), schema))
}

/// Returns the names of all schemas in the part of each operation that `part` selects, and of the schemas that they refer to.
fn names_below(spec: &Value, part: impl Fn(&Value) -> &Value) -> BTreeSet<String> {
    let paths = spec["paths"].as_object().into_iter().flat_map(|paths| paths.values());
    let operations = paths.filter_map(Value::as_object).flat_map(|operations| operations.values());
    let mut names = BTreeSet::new();
    for operation in operations {
        collect_names(&spec["components"]["schemas"], part(operation), &mut names);
    }
    names
}

fn collect_names(schemas: &Value, node: &Value, names: &mut BTreeSet<String>) {
    match node {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(schema_name)
                && names.insert(name.to_owned())
            {
                collect_names(schemas, &schemas[name], names);
            }
            fields.values().for_each(|value| collect_names(schemas, value, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_names(schemas, item, names)),
        _ => {}
    }
}

/// Forbids fields that are not in the schema. The extractor of JSON bodies refuses such fields. The extractor of forms
/// ignores them, so schemas of forms do not forbid them.
fn forbid_unknown_fields(schema: &mut Value) {
    if schema["type"] == "object"
        && let Some(schema) = schema.as_object_mut()
    {
        schema.entry("additionalProperties").or_insert(false.into());
    }
}

/// Makes nullable fields required, because a response always contains them, with null if there is no value.
fn require_nullable_fields(schema: &mut Value) {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let nullable = properties.filter(|(_, property)| property["nullable"] == true);
    let nullable: Vec<Value> = nullable.map(|(name, _)| name.as_str().into()).collect();
    if nullable.is_empty() {
        return;
    }
    let mut required = schema["required"].as_array().cloned().unwrap_or_default();
    for name in nullable {
        if !required.contains(&name) {
            required.push(name);
        }
    }
    schema["required"] = required.into();
}

/// Applies a conversion to a schema and to all schemas in it.
fn convert_all(schema: &mut Value, convert: &mut dyn FnMut(&mut Object)) {
    let Value::Object(fields) = schema else { return };
    convert(fields);
    for (key, value) in fields.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for property in properties.values_mut() {
                    convert_all(property, convert);
                }
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                for part in parts {
                    convert_all(part, convert);
                }
            }
            ("items" | "additionalProperties", inner) => convert_all(inner, convert),
            _ => {}
        }
    }
}

/// Applies a conversion to all schemas in operations: the schemas of parameters, bodies and headers.
fn convert_below(node: &mut Value, convert: &mut dyn FnMut(&mut Object)) {
    match node {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match key.as_str() {
                    "schema" => convert_all(value, convert),
                    _ => convert_below(value, convert),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                convert_below(item, convert);
            }
        }
        _ => {}
    }
}

/// Removes each part of an `allOf` that only repeats keywords next to the `allOf`. poem-openapi writes such a part for
/// a reference with a default or a description. Code generators would treat it as a type.
fn remove_repetition(schema: &mut Object) {
    let Some(Value::Array(mut parts)) = schema.remove("allOf") else { return };
    parts.retain(|part| {
        let is_beside = |(key, value): (&String, &Value)| schema.get(key) == Some(value);
        let is_repeated = part.as_object().is_some_and(|fields| fields.iter().all(is_beside));
        !is_repeated
    });
    schema.insert("allOf".into(), parts.into());
}

/// Converts `nullable` of OpenAPI 3.0 to the type `null` of OpenAPI 3.1.
fn convert_nullable(schema: &mut Object) {
    // poem-openapi writes `nullable` only if it is true.
    if schema.remove("nullable").is_none() {
        return;
    }
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!([kind, "null"]);
        if let Some(Value::Array(values)) = schema.get_mut("enum") {
            values.push(Value::Null);
        }
    } else if let Some(Value::Array(mut choices)) = schema.remove("allOf") {
        // The only remaining part is the reference.
        choices.push(json!({ "type": "null" }));
        schema.insert("anyOf".into(), choices.into());
    }
}

/// Adds `x-enum-varnames` to an enum with values that begin with `-`, such as the sort order `-email`. Code generators need
/// these names, because such a value is not a valid identifier.
fn name_values(schema: &mut Object) {
    let values = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    let values: Vec<_> = values.filter_map(Value::as_str).collect();
    if values.iter().any(|value| value.starts_with('-')) {
        let names = values.iter().map(|value| match value.strip_prefix('-') {
            Some(column) => format!("{}_DESC", column.to_uppercase()),
            None => value.to_uppercase(),
        });
        let names: Value = names.collect();
        schema.insert("x-enum-varnames".into(), names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(schema: Value) -> Value {
        let mut spec = json!({ "components": { "schemas": { "A": { "properties": { "a": schema } } } } });
        complete(&mut spec);
        spec["components"]["schemas"]["A"]["properties"]["a"].take()
    }

    #[test]
    fn a_reference_keeps_its_siblings_and_can_be_null() {
        let role = json!({ "$ref": "#/components/schemas/Role" });
        let beside = json!({ "allOf": [role, { "default": "user" }], "default": "user" });
        assert_eq!(converted(beside), json!({ "allOf": [role], "default": "user" }));
        let nullable = json!({ "allOf": [role, { "nullable": true }], "nullable": true });
        assert_eq!(converted(nullable), json!({ "anyOf": [role, { "type": "null" }] }));
        let text = json!({ "type": "string", "enum": ["a"], "nullable": true });
        assert_eq!(converted(text), json!({ "type": ["string", "null"], "enum": ["a", null] }));
    }

    #[test]
    fn a_field_may_have_the_name_of_a_keyword() {
        let fields = json!({ "properties": { "default": { "type": "string", "nullable": true } } });
        let found = converted(fields)["properties"]["default"].take();
        assert_eq!(found, json!({ "type": ["string", "null"] }));
    }
}
