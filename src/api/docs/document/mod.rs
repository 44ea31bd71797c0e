//! The OpenAPI document.
//!
//! poem-openapi creates a document for OpenAPI 3.0 from the types of the operations. This module completes it with
//! rules that apply to all operations, so that no operation repeats them. The description of a single field or operation
//! is its Rust doc comment.

mod parameters;
mod responses;
mod schemas;

use std::mem;

use serde_json::{Map, Value, json};

use crate::api::paths::documented;

/// The groups at the beginning of the document's list of groups of operations. The groups that are neither here nor in
/// [`LAST_TAGS`] follow in their existing order.
const FIRST_TAGS: [&str; 2] = ["Auth", "Users"];
/// The groups at the end of the list.
const LAST_TAGS: [&str; 2] = ["Health", "Admin"];

/// A JSON object.
type Object = Map<String, Value>;

/// The relative URL of the server from which a client downloads the document.
pub(in crate::api) const THIS_SERVER: &str = "/";

/// Converts the document of poem-openapi to a complete document for OpenAPI 3.1. `servers` are the URLs of the API.
/// Generated clients use the first URL by default.
///
/// # Errors
/// If the document is not valid JSON.
pub(in crate::api) fn document(spec: &str, servers: &[String]) -> anyhow::Result<String> {
    let mut spec: Value = serde_json::from_str(spec)?;
    spec["openapi"] = json!("3.1.0");
    // The license of the product's API, not of this repository. Linters require a license.
    spec["info"]["license"] = json!({ "name": "Proprietary", "identifier": "LicenseRef-Proprietary" });
    spec["servers"] = servers.iter().map(|url| json!({ "url": url })).collect();
    // OpenAPI requires the field `scopes` in an "OAuth Flow Object".
    let schemes = spec.pointer_mut("/components/securitySchemes").and_then(Value::as_object_mut);
    for scheme in schemes.into_iter().flat_map(|schemes| schemes.values_mut()) {
        if let Some(flow) = scheme.pointer_mut("/flows/password").and_then(Value::as_object_mut) {
            flow.entry("scopes").or_insert(json!({}));
        }
    }
    if let Some(paths) = spec.get_mut("paths").and_then(Value::as_object_mut) {
        *paths = mem::take(paths).into_iter().map(|(path, methods)| (documented(&path), methods)).collect();
    }
    for (_, operation) in operations(&mut spec) {
        // An empty list says that the operation needs no authentication. Linters report operations without a list.
        operation.entry("security").or_insert(json!([]));
        let summary = operation.get("summary").cloned().unwrap_or_default();
        operation.entry("description").or_insert(summary);
    }
    // The documentation pages show the groups in this order.
    if let Some(tags) = spec.get_mut("tags").and_then(Value::as_array_mut) {
        tags.sort_by_key(|tag| rank(tag["name"].as_str().unwrap_or_default()));
    }
    parameters::complete(&mut spec);
    responses::complete(&mut spec);
    schemas::complete(&mut spec);
    Ok(serde_json::to_string_pretty(&spec)?)
}

/// Returns all operations, each with its path.
fn operations(spec: &mut Value) -> impl Iterator<Item = (&str, &mut Object)> {
    let paths = spec.get_mut("paths").and_then(Value::as_object_mut).into_iter().flatten();
    paths.flat_map(|(path, methods)| {
        let operations = methods.as_object_mut().into_iter().flat_map(|methods| methods.values_mut());
        operations.filter_map(Value::as_object_mut).map(move |operation| (path.as_str(), operation))
    })
}

/// Returns the sort key of a group. Groups with the same key keep their order.
fn rank(tag: &str) -> (usize, usize) {
    let place = |tags: &[&str]| tags.iter().position(|name| *name == tag);
    match (place(&FIRST_TAGS), place(&LAST_TAGS)) {
        (Some(at), _) => (0, at),
        (None, None) => (1, 0),
        (None, Some(at)) => (2, at),
    }
}

/// Returns the name of the schema that a `$ref` refers to.
fn schema_name(reference: &Value) -> Option<&str> {
    reference.as_str()?.strip_prefix("#/components/schemas/")
}
