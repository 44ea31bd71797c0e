//! Corrections of the OpenAPI document.

use serde_json::{Value, json};

/// Adds what the document of poem-openapi lacks: the scopes of OAuth flows, descriptions of responses, and a server
/// URL.
///
/// # Errors
/// If the document is not valid JSON.
pub(in crate::api) fn document(spec: &str) -> anyhow::Result<String> {
    let mut spec: Value = serde_json::from_str(spec)?;
    // OpenAPI 3.0, "OAuth Flow Object": `scopes` is required.
    let schemes = spec.pointer_mut("/components/securitySchemes").and_then(Value::as_object_mut);
    for scheme in schemes.into_iter().flat_map(|schemes| schemes.values_mut()) {
        if let Some(flow) = scheme.pointer_mut("/flows/password").and_then(Value::as_object_mut) {
            flow.entry("scopes").or_insert(json!({}));
        }
    }
    // OpenAPI 3.0, "Response Object": `description` is required. poem-openapi leaves that of a plain `Json` empty.
    let paths =
        spec.get_mut("paths").and_then(Value::as_object_mut).into_iter().flat_map(|paths| paths.values_mut());
    let operations = paths.filter_map(Value::as_object_mut).flat_map(|operations| operations.values_mut());
    let responses =
        operations.filter_map(|operation| operation.get_mut("responses").and_then(Value::as_object_mut));
    for (_, response) in responses.flatten().filter(|(_, response)| response["description"] == "") {
        response["description"] = json!("The request succeeded.");
    }
    // An empty list of servers means "/", but some generators do not support it.
    if spec.pointer("/servers/0").is_none() {
        spec["servers"] = json!([{ "url": "/" }]);
    }
    Ok(serde_json::to_string_pretty(&spec)?)
}
