//! Documents the responses: their descriptions and headers, and the errors.
//!
//! Most errors are derived from the parts of an operation, such as a request body. The description of the operation
//! states the other errors, as in "Fails with 409 `conflict`". A response has the header `Set-Cookie` if its description
//! contains "cookie".

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Object, operations, parameters::takes_idempotency_key, schema_name};
use crate::api::quotas::is_limited;

/// The documented errors: status, name and description.
const ERRORS: [(u16, &str, &str); 14] = [
    (400, "BadRequest", "The body cannot be parsed, or the request is refused: `code` says why."),
    (401, "Unauthorized", "The credentials are missing or invalid."),
    (403, "Forbidden", "The caller may not do this: `code` says why."),
    (404, "NotFound", "It does not exist, or the caller may not see it."),
    (408, "RequestTimeout", "The body did not arrive in time."),
    (409, "Conflict", "The current state does not allow this: `code` says why."),
    (412, "PreconditionFailed", "The resource has changed: its `ETag` is none of those in `If-Match`."),
    (413, "ContentTooLarge", "The body is too large."),
    (415, "UnsupportedMediaType", "The operation does not accept this media type."),
    (421, "MisdirectedRequest", "This server does not serve the host of the request."),
    (422, "UnprocessableContent", "Fields are invalid: `errors` lists them."),
    (428, "PreconditionRequired", "The server requires `If-Match` here, by its setting `REQUIRE_IF_MATCH`."),
    (429, "TooManyRequests", "Too many requests, attempts or jobs: `Retry-After` says when to try again."),
    (503, "ServiceUnavailable", "The server cannot do this now: `code` says why."),
];

/// The name of the response for all other errors.
const OTHER_ERROR: &str = "Error";

/// The documented headers: name, type and description.
const HEADERS: [(&str, &str, &str); 10] = [
    (
        "ETag",
        "string",
        "The state of the resource, for `If-None-Match` and `If-Match` (RFC 9110 section 8.8.3).",
    ),
    (
        "Idempotency-Replayed",
        "boolean",
        "Present if the response is that of an earlier request with the key.",
    ),
    ("Link", "string", "The next page, with `rel=\"next\"` (RFC 8288). Absent on the last page."),
    ("Location", "string", "URI of the created resource."),
    (
        "RateLimit",
        "string",
        "Requests that remain, and seconds until all are available again: `\"read\";r=1199;t=1`. If none remains, seconds \
         until the next request.",
    ),
    ("RateLimit-Policy", "string", "Allowed requests, and in how many seconds: `\"read\";q=1200;w=60`."),
    ("Retry-After", "integer", "Seconds after which to try again."),
    ("Set-Cookie", "string", "Sets or removes a cookie with a token."),
    ("WWW-Authenticate", "string", "The authentication scheme (RFC 6750 section 3)."),
    ("X-Request-Id", "string", "Id of the request: that of the client if it has sent a valid one."),
];

/// Completes all responses.
pub(super) fn complete(spec: &mut Value) {
    let schemas = schema_descriptions(spec);
    // The default response, which `ApiError` documents. It is the same for all operations.
    let mut other_error = Value::Null;
    let mut used = BTreeSet::new();
    for (path, operation) in operations(spec) {
        let statuses = error_statuses(path, operation);
        let takes_key = takes_idempotency_key(operation);
        let summary = text(operation, "summary").to_owned();
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { continue };
        if let Some(response) = responses.remove("default") {
            other_error = response;
        }
        for (status, response) in responses.iter_mut() {
            if response["description"] == "" {
                response["description"] = describe(response, &summary, &schemas).into();
            }
            response["headers"] = headers(status, response, is_limited(path));
            if takes_key {
                response["headers"]["Idempotency-Replayed"] = reference("headers", "Idempotency-Replayed");
            }
        }
        for (status, name, _) in ERRORS.iter().filter(|(status, ..)| statuses.contains(status)) {
            responses.entry(status.to_string()).or_insert(reference("responses", name));
            used.insert(*status);
        }
        responses.insert("default".into(), reference("responses", OTHER_ERROR));
    }
    let mut errors = Object::new();
    for (status, name, description) in ERRORS.iter().filter(|(status, ..)| used.contains(status)) {
        let mut response = json!({ "description": description, "content": other_error["content"] });
        // A request for a wrong host is refused before it is counted, so the response has no headers about rate limits.
        response["headers"] = headers(&status.to_string(), &response, *status != 421);
        errors.insert((*name).into(), response);
    }
    other_error["headers"] = headers("default", &other_error, true);
    errors.insert(OTHER_ERROR.into(), other_error);
    spec["components"]["responses"] = errors.into();
    spec["components"]["headers"] = Value::Object(HEADERS.map(header).into_iter().collect());
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the description of each schema.
fn schema_descriptions(spec: &Value) -> BTreeMap<String, String> {
    let schemas = spec["components"]["schemas"].as_object().into_iter().flatten();
    let described = schemas.filter_map(|(name, schema)| Some((name, schema["description"].as_str()?)));
    described.map(|(name, description)| (name.clone(), description.to_owned())).collect()
}

/// Returns a description for a response without one: the summary of the operation without "Returns", else the description
/// of the schema, else the whole summary.
fn describe(response: &Value, summary: &str, schemas: &BTreeMap<String, String>) -> String {
    if let Some(result) = summary.strip_prefix("Returns ") {
        let mut chars = result.chars();
        return chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
    }
    let content = response["content"].as_object().and_then(|kinds| kinds.values().next());
    let name = content.and_then(|content| schema_name(&content["schema"]["$ref"]));
    name.and_then(|name| schemas.get(name)).map_or(summary, String::as_str).to_owned()
}

/// Returns the status codes of the errors of an operation.
fn error_statuses(path: &str, operation: &Object) -> BTreeSet<u16> {
    let security = operation.get("security").and_then(Value::as_array);
    let responses = operation.get("responses").and_then(Value::as_object);
    let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
    let has = |field: &str, values: &[&str]| {
        let is_one = |parameter: &Value| values.iter().any(|value| parameter[field] == *value);
        parameters.clone().any(is_one)
    };
    let rules: [(bool, &[u16]); 10] = [
        // Documented for every operation, because the document does not depend on the setting `ALLOWED_HOSTS`.
        (true, &[421]),
        (is_limited(path), &[429]),
        (security.is_some_and(|ways| !ways.is_empty()), &[401, 403]),
        // An operation that sets cookies can refuse a request from a page of another site.
        (responses.is_some_and(|all| all.values().any(sets_cookies)), &[403]),
        (operation.contains_key("requestBody"), &[400, 408, 413, 415, 422]),
        (has("in", &["query", "path"]), &[422]),
        (has("name", &["If-Match", "If-None-Match"]), &[400]),
        (has("name", &["If-Match"]), &[412, 428]),
        (path.contains('{'), &[404]),
        (takes_idempotency_key(operation), &[409, 422]),
    ];
    let by_rule = rules.into_iter().filter(|(applies, _)| *applies).flat_map(|(_, statuses)| statuses);
    by_rule.copied().chain(stated(text(operation, "description"))).collect()
}

/// Returns the status codes in a description. Each is followed by an error code, as in "Fails with 409 `conflict`".
fn stated(description: &str) -> impl Iterator<Item = u16> {
    let words = description.split_whitespace();
    let pairs = words.clone().zip(words.skip(1));
    pairs.filter(|(_, code)| code.starts_with('`')).filter_map(|(status, _)| status.parse().ok())
}

fn sets_cookies(response: &Value) -> bool {
    response["description"].as_str().is_some_and(|description| description.contains("cookie"))
}

/// Returns the headers of a response. `is_limited` says whether these include the headers of rate limits.
fn headers(status: &str, response: &Value, is_limited: bool) -> Value {
    let declares = |name: &str| response["headers"][name].is_object();
    let rules = [
        ("ETag", declares("ETag")),
        ("Link", declares("Link")),
        ("Location", status == "201"),
        ("RateLimit", is_limited),
        ("RateLimit-Policy", is_limited),
        ("Retry-After", ["429", "503", "default"].contains(&status)),
        ("Set-Cookie", sets_cookies(response)),
        ("WWW-Authenticate", ["401", "403"].contains(&status)),
        ("X-Request-Id", true),
    ];
    let names = rules.into_iter().filter(|(_, applies)| *applies).map(|(name, _)| name);
    Value::Object(names.map(|name| (name.to_owned(), reference("headers", name))).collect())
}

fn header((name, kind, description): (&str, &str, &str)) -> (String, Value) {
    (name.to_owned(), json!({ "description": description, "schema": { "type": kind } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_before_error_codes_are_found_in_a_description() {
        let description =
            "Fails with 400 `wrong_password` or `invalid_code`, and with\n409 `conflict` after 5 attempts.";
        assert!(stated(description).eq([400, 409]));
        assert_eq!(stated("At most 100 jobs, see `Retry-After`.").count(), 0);
    }
}
