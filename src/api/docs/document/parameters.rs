//! Documents the parameters that many operations share, and the headers of conditional requests.

use serde_json::{Value, json};

use super::{Object, operations};
use crate::api::extract::IDEMPOTENCY_KEY_FORMAT;

/// Default descriptions of parameters that have the same meaning in all operations.
const DESCRIPTIONS: [(&str, &str); 4] = [
    ("cursor", "Where the page begins: `next_cursor` of the page before, with the same other parameters."),
    ("limit", "Maximum number of items of the page."),
    (
        IF_MATCH,
        "Changes the resource only if its `ETag` is one of these; else fails with 412. `*` allows any. With the setting \
         `REQUIRE_IF_MATCH`, a request without this header fails with 428.",
    ),
    (
        IF_NONE_MATCH,
        "The `ETag` of a response that the client has. If this `ETag` is still current, the response is 304 without a body.",
    ),
];
const IF_MATCH: &str = "If-Match";
const IF_NONE_MATCH: &str = "If-None-Match";
/// The pattern of `If-Match` and `If-None-Match` (RFC 9110 section 13.1) with tags of ASCII characters.
const ENTITY_TAGS: &str = r#"^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*")*)$"#;
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const IDEMPOTENCY_KEY_DESCRIPTION: &str = "\
    A key that you choose for this request, such as a UUID. Send the request again with the same key if you get no response, \
    or 409 `idempotency_key_in_use` while the first one is in progress. It then has one effect, and for 24 hours you get the \
    same response again, with the header `Idempotency-Replayed`. Fails with 422 `idempotency_key_reused` if the key was used \
    for a different request. Failures are not stored.";

/// Completes the parameters of all operations.
pub(super) fn complete(spec: &mut Value) {
    for operation in reads(spec) {
        if operation["responses"]["200"]["headers"]["ETag"].is_object() {
            document_conditional_read(operation);
        }
    }
    for (_, operation) in operations(spec) {
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        for parameter in parameters.into_iter().flatten().filter_map(Value::as_object_mut) {
            complete_parameter(parameter);
        }
    }
}

/// Returns all operations of the method GET.
fn reads(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = spec.get_mut("paths").and_then(Value::as_object_mut).into_iter().flatten();
    paths.filter_map(|(_, methods)| methods.get_mut("get"))
}

fn document_conditional_read(operation: &mut Value) {
    let header =
        json!({ "name": IF_NONE_MATCH, "in": "header", "required": false, "schema": { "type": "string" } });
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(header),
        None => operation["parameters"] = json!([header]),
    }
    // The module `responses` replaces the headers of this response with references.
    operation["responses"]["304"] =
        json!({ "description": "The client has this response already.", "headers": { "ETag": {} } });
}

/// Returns whether an operation accepts the header `Idempotency-Key`.
pub(super) fn takes_idempotency_key(operation: &Object) -> bool {
    let parameters = operation.get("parameters").and_then(Value::as_array);
    parameters.is_some_and(|all| all.iter().any(|parameter| parameter["name"] == IDEMPOTENCY_KEY))
}

/// Completes the parameter `Idempotency-Key`. It is found by its format, because operations may give the argument any
/// name.
fn complete_idempotency_key(parameter: &mut Object) {
    let Some(schema) = parameter.get_mut("schema").and_then(Value::as_object_mut) else { return };
    if schema.get("format").is_some_and(|format| format == IDEMPOTENCY_KEY_FORMAT) {
        // Removes the format, because only this program knows it.
        schema.remove("format");
        parameter.insert("name".into(), IDEMPOTENCY_KEY.into());
        parameter.insert("description".into(), IDEMPOTENCY_KEY_DESCRIPTION.into());
    }
}

fn complete_parameter(parameter: &mut Object) {
    complete_idempotency_key(parameter);
    // In the document of poem-openapi, a header has the name of the Rust argument.
    if parameter.get("in").is_some_and(|place| place == "header") {
        let name = header_name(parameter["name"].as_str().unwrap_or_default());
        parameter.insert("name".into(), name.into());
    }
    if [IF_MATCH, IF_NONE_MATCH].iter().any(|name| parameter["name"] == *name) {
        parameter["schema"]["pattern"] = ENTITY_TAGS.into();
    }
    let known = DESCRIPTIONS.iter().find(|(name, _)| parameter["name"] == *name);
    if let Some((_, description)) = known {
        parameter.entry("description").or_insert((*description).into());
    }
}

/// Returns the name of the header for the name of an argument: `If-Match` for `if_match`.
fn header_name(argument: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect::<String>()
    };
    argument.split(['_', '-']).map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_becomes_the_name_of_a_header() {
        for (argument, header) in
            [("if_match", "If-Match"), ("If-None-Match", "If-None-Match"), ("x_id", "X-Id")]
        {
            assert_eq!(header_name(argument), header);
        }
    }
}
