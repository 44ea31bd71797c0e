//! Rules that hold for all operations in the API document, and that the server follows.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    openapi::{fetch_document, list_operations, resolve_ref},
    support::{
        TestApp, User,
        app::{Answer, PASSWORD},
    },
};

const JSON: &str = "application/json";

/// Calls `visit` with each object in `node`, except examples and default values, which are not schemas.
fn visit_schemas(node: &Value, visit: &mut dyn FnMut(&Value)) {
    match node {
        Value::Object(fields) => {
            visit(node);
            for (name, value) in fields {
                if !["example", "default"].contains(&name.as_str()) || value["type"].is_string() {
                    visit_schemas(value, visit);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                visit_schemas(item, visit);
            }
        }
        _ => {}
    }
}

/// Collects the names of the schemas that a node references, directly or through other schemas.
fn collect_schemas(document: &Value, node: &Value, names: &mut BTreeSet<String>) {
    visit_schemas(node, &mut |node| {
        let name = node["$ref"].as_str().and_then(|text| text.strip_prefix("#/components/schemas/"));
        if let Some(name) = name
            && names.insert(name.to_owned())
        {
            collect_schemas(document, &document["components"]["schemas"][name], names);
        }
    });
}

fn allows_null(schema: &Value) -> bool {
    let null = json!("null");
    let types = schema["type"].as_array().is_some_and(|types| types.contains(&null));
    types || schema["anyOf"].as_array().is_some_and(|parts| parts.iter().any(|part| part["type"] == null))
}

#[tokio::test]
async fn schemas_have_only_parts_that_client_generators_support() {
    let document = fetch_document().await;
    let mut schemas = 0;
    visit_schemas(&document, &mut |node| {
        schemas += 1;
        assert!(node.get("nullable").is_none(), "OpenAPI 3.1 has no nullable: {node}");
        for part in node["allOf"].as_array().into_iter().flatten() {
            assert!(part["$ref"].is_string(), "{node}");
        }
        for value in node["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let has_name = node["x-enum-varnames"].is_array() || !value.starts_with('-');
            assert!(has_name, "{value} is not a name in a program: {node}");
        }
    });
    assert!(schemas > 1_000);
}

/// The server refuses null and unknown fields exactly where the document does not allow them.
#[tokio::test]
async fn a_body_may_have_only_the_documented_fields_and_nulls() {
    let app = TestApp::start().await;
    let (document, admin) = (fetch_document().await, app.admin().await);
    let user = app.user().await;
    let org = app.post("/orgs", Some(&admin), json!({ "name": "Acme" })).await.body["id"].to_string();
    let mut asked = 0;
    for (path, method, operation) in list_operations(&document) {
        let schema = resolve_ref(&document, &operation["requestBody"]["content"][JSON]["schema"]);
        let Some(properties) = schema["properties"].as_object() else { continue };
        assert_eq!(schema["additionalProperties"], false, "{path}");
        let path = path.replace("{id}", &user.id.to_string()).replace("{name}", "chores");
        let path = path.replace("{org}", &org).replace("{user}", &user.id.to_string());
        let mut send = async |field: &str| {
            asked += 1;
            let request =
                app.at_root(method.to_uppercase().parse().unwrap(), &path).bearer_auth(&admin.token);
            let answer = Answer::of(request.json(&json!({ field: null }))).await;
            let errors = answer.body["errors"].as_array().cloned().unwrap_or_default();
            let refused = errors.iter().find(|error| error["loc"] == json!(["body", field])).cloned();
            assert!(refused.is_none() || answer.status == 422, "{}", answer.text);
            refused.map(|error| error["type"].clone())
        };
        for (field, property) in properties {
            let refused = send(field).await;
            assert_eq!(refused.is_none(), allows_null(property), "{method} {path}: {field}: {refused:?}");
        }
        assert_eq!(send("unknown").await, Some(json!("extra_forbidden")), "{method} {path}");
    }
    assert!(asked > 40, "{asked}");
}

#[tokio::test]
async fn nullable_fields_of_responses_are_required() {
    let document = fetch_document().await;
    let (mut sent, mut returned) = (BTreeSet::new(), BTreeSet::new());
    for (_, _, operation) in list_operations(&document) {
        collect_schemas(&document, &operation["requestBody"], &mut sent);
        collect_schemas(&document, &operation["responses"], &mut returned);
    }
    let mut nullable = 0;
    for name in returned.difference(&sent) {
        let schema = &document["components"]["schemas"][name];
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            if allows_null(property) {
                nullable += 1;
                assert!(schema["required"].as_array().unwrap().contains(&json!(field)), "{name}.{field}");
            }
        }
    }
    assert!(nullable > 20, "{nullable}");
}

/// Asserts that a value has the fields and types of its schema.
fn assert_valid(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolve_ref(document, schema);
    for key in ["allOf", "anyOf"] {
        let parts: Vec<_> = schema[key].as_array().into_iter().flatten().collect();
        if let Some(part) = parts.iter().find(|part| value.is_null() == (part["type"] == "null")) {
            assert_valid(document, part, value, at);
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = &schema["type"];
    let fits = types == kind || types.as_array().is_some_and(|types| types.contains(&json!(kind)));
    let is_number = kind == "integer" && types.to_string().contains("\"number\"");
    assert!(types.is_null() || fits || is_number, "{at} is {kind}, not {types}");
    if let (Some(properties), Value::Object(fields)) = (schema["properties"].as_object(), value) {
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(fields.contains_key(name.as_str().unwrap()), "{at}.{name} is missing");
        }
        for (name, value) in fields {
            let property = properties.get(name).unwrap_or_else(|| panic!("{at}.{name} is not documented"));
            assert_valid(document, property, value, &format!("{at}.{name}"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        assert_valid(document, &schema["items"], item, &format!("{at}[]"));
    }
}

#[tokio::test]
async fn responses_have_the_documented_fields_and_headers() {
    let app = TestApp::with(&["--rate-limits=true"]).await;
    let (document, admin) = (fetch_document().await, app.admin().await);
    let job = app.enqueue("/jobs/example?name=x", &admin).await;
    let org = app.post("/orgs", Some(&admin), json!({ "name": "Acme" })).await.body["id"].to_string();
    let mut seen = 0;
    let all = list_operations(&document).into_iter();
    for (path, method, operation) in all.filter(|(_, method, _)| method == "get") {
        let id = if path.contains("/jobs/") { job.clone() } else { admin.id.to_string() };
        let url = path.replace("{id}", &id).replace("{name}", "default").replace("{org}", &org);
        for user in [Some(&admin), None] {
            let mut request = app.at_root(Method::GET, &url);
            if let Some(User { token, .. }) = user {
                request = request.bearer_auth(token);
            }
            let answer = Answer::of(request).await;
            let name = format!("{method} {path} {}", answer.status.as_u16());
            let response = resolve_ref(&document, &operation["responses"][answer.status.as_str()]);
            let content = &response["content"][answer.header("content-type")];
            assert!(content.is_object(), "{name} is not documented");
            assert_valid(&document, &content["schema"], &answer.body, &name);
            let plain = ["x-request-id", "www-authenticate", "retry-after", "set-cookie", "location"];
            for header in plain.into_iter().chain(["ratelimit", "ratelimit-policy"]) {
                let headers = response["headers"].as_object().unwrap();
                let is_documented = headers.keys().any(|name| name.eq_ignore_ascii_case(header));
                assert!(is_documented || !answer.headers.contains_key(header), "{name} has {header}");
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
    let form = [("username", admin.email.as_str()), ("password", PASSWORD)];
    let browser = app.form("/auth/login?delivery=cookie", &form).header("origin", &app.url);
    let signed_in = Answer::of(browser).await;
    assert!(signed_in.status == 204 && signed_in.headers.contains_key("set-cookie"), "{}", signed_in.text);
    let headers = &document["paths"]["/api/v1/auth/login"]["post"]["responses"]["204"]["headers"];
    assert!(headers["Set-Cookie"].is_object(), "{headers}");
}

#[tokio::test]
async fn each_operation_documents_its_responses() {
    let document = fetch_document().await;
    let mut texts = BTreeMap::<&str, Vec<String>>::new();
    for (path, method, operation) in list_operations(&document) {
        let name = format!("{method} {path}");
        let responses = operation["responses"].as_object().unwrap();
        let has = |status: &str| assert!(responses.contains_key(status), "{name} does not document {status}");
        let security = operation["security"].as_array().unwrap_or_else(|| panic!("{name} has no security"));
        let rules: [(bool, &[&str]); 5] = [
            (true, &["421", "default"]),
            (!path.contains("/health"), &["429"]),
            (!security.is_empty(), &["401", "403"]),
            (operation["requestBody"].is_object(), &["400", "413", "415", "422"]),
            (path.contains('{'), &["404"]),
        ];
        for status in rules.iter().filter(|(applies, _)| *applies).flat_map(|(_, all)| *all) {
            has(status);
        }
        let words: Vec<_> = operation["description"].as_str().unwrap().split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| pair[1].starts_with('`')) {
            if pair[0].parse::<u16>().is_ok_and(|status| (400..600).contains(&status)) {
                has(pair[0]);
            }
        }
        for (status, response) in responses {
            let response = resolve_ref(&document, response);
            assert!(response["headers"]["X-Request-Id"].is_object(), "{name} {status}");
            let text = response["description"].as_str().unwrap();
            assert!(text.ends_with('.') && text.starts_with(char::is_uppercase), "{name} {status}: {text}");
            if status.starts_with('2') {
                texts.entry(text).or_default().push(name.clone());
            }
            let wants =
                |header: &str| assert!(response["headers"][header].is_object(), "{name} {status}: {header}");
            match status.as_str() {
                "201" => wants("Location"),
                "401" => wants("WWW-Authenticate"),
                "429" | "503" => wants("Retry-After"),
                _ => {}
            }
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let schema = &parameter["schema"];
            let is_id = parameter["in"] == "path" && schema["type"] == "string";
            assert!(
                !is_id || schema["pattern"].is_string() || schema["format"].is_string(),
                "{name}: {parameter}"
            );
        }
    }
    let repeated: Vec<_> = texts.iter().filter(|(_, names)| names.len() > 3).collect();
    assert!(repeated.is_empty(), "these texts say nothing about their operations: {repeated:#?}");
}
