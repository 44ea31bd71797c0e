//! Requests to the operations of organizations. They are built from the API document, so most new operations need no code
//! here.

use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};

use crate::support::{
    TestApp,
    app::{Answer, PASSWORD},
    records::column,
    servers::unique,
};

/// An operation whose path names an organization.
pub struct Operation {
    pub id: String,
    pub method: Method,
    /// The path in the document, such as `/api/v1/orgs/{org}/products/{id}`.
    path: String,
    /// The schema of the body, if the operation takes JSON.
    body: Option<Value>,
    document: Value,
}

/// Returns the operations of members: those whose path begins with `/api/v1/orgs/{org}`. Operations of platform admins are
/// not among them.
pub async fn operations(app: &TestApp) -> Vec<Operation> {
    let document = Answer::of(app.at_root(Method::GET, "/openapi.json")).await.body;
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if !path.starts_with("/api/v1/orgs/{org}") {
                continue;
            }
            let body = &operation["requestBody"]["content"]["application/json; charset=utf-8"]["schema"];
            let other = &operation["requestBody"]["content"]["application/json"]["schema"];
            let body = [body, other].into_iter().find(|schema| schema.is_object()).cloned();
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(
                body.is_some() || !operation["requestBody"].is_object(),
                "{id}: this test sends JSON only: {}",
                operation["requestBody"]
            );
            let method = method.to_uppercase().parse().unwrap();
            found.push(Operation { id, method, path: path.clone(), body, document: document.clone() });
        }
    }
    found
}

impl Operation {
    /// Returns whether the path contains the id of a resource of the organization, such as a product.
    pub fn has_own_id(&self) -> bool {
        self.path.matches('{').count() > 1
    }

    /// Returns whether the body contains the id of a member of the organization.
    pub fn names_member(&self) -> bool {
        self.body.as_ref().is_some_and(|schema| self.example(schema, "body")["user_id"].is_number())
    }

    /// Returns whether an API key is one of the documented ways to authenticate.
    pub fn accepts_keys(&self) -> bool {
        let method = self.method.as_str().to_lowercase();
        let security = &self.document["paths"][&self.path][&method]["security"];
        security.as_array().unwrap().iter().any(|way| way["ApiKey"].is_array())
    }

    /// Builds the request to the organization `org`, with ids of resources of the organization `source`.
    pub async fn request(&self, app: &TestApp, org: i64, source: i64) -> RequestBuilder {
        let mut path = self.path.replace("{org}", &org.to_string());
        while let Some((before, after)) = path.split_once('{') {
            let step = before.trim_end_matches('/').rsplit('/').next().unwrap();
            let (_, after) = after.split_once('}').unwrap();
            path = format!("{before}{}{after}", self.id_of(app, step, source).await);
        }
        let request = app.at_root(self.method.clone(), &path);
        match &self.body {
            None => request,
            Some(schema) => {
                let mut body = self.example(schema, "body");
                // Replaces values that depend on the accounts of the test.
                for (name, value) in body.as_object_mut().into_iter().flatten() {
                    match name.as_str() {
                        "user_id" => {
                            *value = json!(self.id_of(app, "members", source).await.parse::<i64>().unwrap())
                        }
                        "password" => *value = json!(PASSWORD),
                        "email" => *value = json!(format!("someone{}@example.com", unique())),
                        "code" => *value = Value::Null,
                        _ => {}
                    }
                }
                request.json(&body)
            }
        }
    }

    /// Returns the id of a resource of an organization. `step` is the segment of the path before the id.
    async fn id_of(&self, app: &TestApp, step: &str, org: i64) -> String {
        let sql = match step {
            "members" => {
                format!("SELECT user_id FROM memberships WHERE org_id = {org} AND role = 'member' LIMIT 1")
            }
            "jobs" => format!("SELECT replace(id::text, '-', '') FROM org_jobs WHERE org_id = {org} LIMIT 1"),
            step => {
                let table = step.replace('-', "_");
                let is_known = format!("SELECT to_regclass('{table}') IS NOT NULL");
                let help = format!("{}: add a row to `id_of` in {} for the ids of {step}", self.id, file!());
                assert_eq!(column(&app.database, &is_known).await, ["t"], "{help}");
                format!("SELECT id FROM {table} WHERE org_id = {org} LIMIT 1")
            }
        };
        let found = column(&app.database, &sql).await;
        found.into_iter().next().unwrap_or_else(|| {
            panic!(
                "{}: the organization has no {step}: add some to `Org::create` in isolation/mod.rs",
                self.id
            )
        })
    }

    /// Returns a value that a schema accepts: its example, or a value made from its type. `at` is the place of the value in the
    /// body, for error messages.
    fn example(&self, schema: &Value, at: &str) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.document.pointer(reference.trim_start_matches('#'));
            return self.example(target.unwrap_or_else(|| panic!("{reference} is not in the document")), at);
        }
        if let Some(example) =
            [&schema["example"], &schema["examples"][0]].into_iter().find(|value| !value.is_null())
        {
            return example.clone();
        }
        for combined in ["allOf", "anyOf", "oneOf"] {
            let parts = schema[combined].as_array();
            if let Some(part) = parts.and_then(|parts| parts.iter().rfind(|part| part["type"] != "null")) {
                return self.example(part, at);
            }
        }
        // Takes the last value. Of the roles, it is the lowest.
        if let Some(value) =
            schema["enum"].as_array().and_then(|values| values.iter().rfind(|value| !value.is_null()))
        {
            return value.clone();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().find(|kind| **kind != "null").unwrap_or(&Value::Null),
            kind => kind,
        };
        match kind.as_str() {
            Some("object") => {
                let properties = schema["properties"].as_object().into_iter().flatten();
                let fields = properties
                    .map(|(name, schema)| (name.clone(), self.example(schema, &format!("{at}.{name}"))));
                Value::Object(fields.collect::<Map<_, _>>())
            }
            Some("array") => json!([self.example(&schema["items"], &format!("{at}[]"))]),
            Some("integer" | "number") => schema["minimum"].as_i64().unwrap_or(1).max(1).into(),
            Some("boolean") => false.into(),
            Some("string") => match (schema["format"].as_str(), schema["pattern"].as_str()) {
                (Some("date-time"), _) => "2030-01-01T00:00:00Z".into(),
                (Some("uuid"), _) => "0123456789ab4cde8f0123456789abcd".into(),
                (_, Some(pattern)) => {
                    panic!("{}: give {at}, which must match {pattern}, an example in the document", self.id)
                }
                _ => "x".repeat(schema["minLength"].as_u64().unwrap_or(1).max(1) as usize).into(),
            },
            _ => panic!("{}: give {at} an example in the document: {schema}", self.id),
        }
    }
}
