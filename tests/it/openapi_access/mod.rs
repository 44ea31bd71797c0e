//! Authorization of every operation in the API document.

mod credentials;
mod late;

use std::collections::BTreeSet;

use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api_keys::{SCOPES, create_key, create_org},
    support::{
        TestApp, User,
        app::{Answer, PASSWORD, SECRET},
    },
};

/// Operations without authentication, in alphabetical order. Review each addition with care.
const PUBLIC: &[&str] = &[
    "accept_invite",
    "confirm_email",
    "decline_invitation",
    "forgot_password",
    "health",
    "health_db",
    "health_live",
    "health_ready",
    "health_redis",
    "login",
    "login_two_factor",
    "preview_invitation",
    "refresh",
    "register",
    "register_with_invitation",
    "report_leaked_keys",
    "resend_verification",
    "reset_password",
    "verify_email",
];

/// Operations for admins, in alphabetical order. An operation that is neither here nor in `PUBLIC` is for signed-in users, or for
/// members of an organization.
const ADMINS: &[&str] = &[
    "cancel_any_job",
    "change_queue",
    "delete_user",
    "end_user_sessions",
    "invite_user",
    "invite_user_again",
    "list_all_orgs",
    "list_audit_entries",
    "list_jobs",
    "list_queues",
    "list_users",
    "list_workers",
    "purge_queue",
    "read_admin_only",
    "read_job",
    "read_org_overview",
    "read_queue",
    "read_user",
    "remove_user_two_factor",
    "requeue_job",
    "requeue_queue",
    "suspend_org",
    "update_user",
];

/// Operations that remain available to users without a second factor when the server requires it of all users. Review
/// each addition with care.
const WITHOUT_SECOND_FACTOR: &[&str] =
    &["begin_two_factor", "confirm_two_factor", "logout", "logout_all", "read_me", "read_two_factor"];

struct Operation {
    id: String,
    method: Method,
    /// The path with a harmless value for each parameter.
    path: String,
    takes_json: bool,
    /// The security requirements; empty for a public operation.
    security: Vec<Value>,
}

impl Operation {
    fn read(path: &str, method: &str, operation: &Value) -> Self {
        let mut path = path.to_owned();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] == "path" {
                let is_number = parameter["schema"]["type"] == "integer";
                // The value is valid as the id of a session or a job, and as the name of a queue.
                let value = if is_number { "1" } else { "0123456789ab4cde8f0123456789abcd" };
                path = path.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), value);
            }
        }
        assert!(!path.contains('{'), "{path}");
        let content = operation["requestBody"]["content"].as_object();
        Self {
            id: operation["operationId"].as_str().unwrap().to_owned(),
            method: method.to_uppercase().parse().unwrap(),
            path,
            takes_json: content.is_some_and(|kinds| kinds.keys().any(|kind| kind.contains("json"))),
            security: operation["security"].as_array().cloned().unwrap_or_default(),
        }
    }

    async fn call(&self, app: &TestApp, token: Option<&str>) -> Answer {
        let mut request = app.at_root(self.method.clone(), &self.path);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if self.takes_json {
            request = request.json(&json!({}));
        }
        Answer::of(request).await
    }
}

/// Returns all operations of the API document.
async fn read_operations(app: &TestApp) -> Vec<Operation> {
    let document = Answer::of(app.at_root(Method::GET, "/openapi.json")).await.body;
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push(Operation::read(path, method, operation));
        }
    }
    assert!(operations.len() > 50);
    operations
}

/// Returns the operations that require authentication.
async fn secured_operations(app: &TestApp) -> Vec<Operation> {
    read_operations(app).await.into_iter().filter(|operation| !operation.security.is_empty()).collect()
}

/// Asserts that a list in this file contains exactly the operations in `found`. The error message names each line to add or
/// remove. `unlisted` is the message about an operation that only `found` has, and `not_found` about one that only the list
/// has.
fn assert_list(name: &str, list: &[&str], found: &BTreeSet<String>, unlisted: &str, not_found: &str) {
    let changes = list_changes(name, list, found, unlisted, not_found);
    assert!(changes.is_empty(), "{}", changes.join("\n"));
}

/// Returns the lines to add to a list and to remove from it, as sentences.
fn list_changes(
    name: &str,
    list: &[&str],
    found: &BTreeSet<String>,
    unlisted: &str,
    not_found: &str,
) -> Vec<String> {
    let file = file!();
    let added = found.iter().filter(|id| !list.contains(&id.as_str())).map(|id| {
        let place = match list.iter().rfind(|other| **other < id.as_str()) {
            Some(before) => format!("after the line \"{before}\","),
            None => "as the first line".into(),
        };
        format!("{id} {unlisted}, add the line \"{id}\", to {name} in {file} {place}.")
    });
    let removed = list.iter().filter(|id| !found.contains(**id));
    let removed = removed.map(|id| {
        format!("{id} {not_found}, or it is gone, remove the line \"{id}\", from {name} in {file}.")
    });
    added.chain(removed).collect()
}

#[test]
fn the_error_about_a_list_of_operations_names_the_line_to_change() {
    let found: BTreeSet<_> = ["a", "c", "e"].map(str::to_owned).into();
    assert_eq!(list_changes("LIST", &["a", "c", "e"], &found, "x", "y"), [""; 0]);
    let changes = list_changes("LIST", &["b", "c", "d"], &found, "is open. If so", "is closed");
    let file = "tests/it/openapi_access/mod.rs";
    assert_eq!(
        changes,
        [
            format!("a is open. If so, add the line \"a\", to LIST in {file} as the first line."),
            format!("e is open. If so, add the line \"e\", to LIST in {file} after the line \"d\",."),
            format!("b is closed, or it is gone, remove the line \"b\", from LIST in {file}."),
            format!("d is closed, or it is gone, remove the line \"d\", from LIST in {file}."),
        ]
    );
}

/// Asserts that every secured operation refuses the request with this status and code. Tokens in these tests belong to
/// admins, so that no operation refuses a request because of the role of the caller.
async fn assert_all_refuse(app: &TestApp, token: Option<&str>, status: u16, code: &str) {
    let mut others = Vec::new();
    let operations = secured_operations(app).await;
    for operation in &operations {
        let answer = operation.call(app, token).await;
        if (answer.status.as_u16(), &answer.body["code"]) != (status, &json!(code)) {
            others.push(format!("{}: {} {}", operation.id, answer.status, answer.text));
        } else {
            answer.is_some_problem(status, code);
            let names_error = answer.header("www-authenticate").contains("error=\"invalid_token\"");
            assert_eq!(names_error, code == "invalid_token", "{}", operation.id);
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    assert!(operations.len() > 35);
}

#[tokio::test]
async fn smoke_the_list_of_public_operations_is_complete() {
    let app = TestApp::start().await;
    let (mut public, mut ways) = (BTreeSet::new(), BTreeSet::new());
    for operation in read_operations(&app).await {
        if operation.security.is_empty() {
            public.insert(operation.id);
        } else {
            ways.insert(Value::from(operation.security).to_string());
        }
    }
    let needs_none =
        "needs no authentication. If it has to, its handler takes `CurrentUser` or `Admin`. If it is public";
    let needs_some = "needs authentication";
    assert_list("PUBLIC", PUBLIC, &public, needs_none, needs_some);
    let either = json!([{ "OAuth2PasswordBearer": [] }, { "HTTPBearer": [] }, { "AccessTokenCookie": [] }]);
    let mut or_key = either.clone();
    or_key.as_array_mut().unwrap().push(json!({ "ApiKey": [] }));
    let expected: BTreeSet<_> = [either.to_string(), or_key.to_string()].into();
    assert_eq!(ways, expected, "operations need a session, or a session or an API key");
}

/// Signs a user in again if an operation has revoked the session. A login before each operation would exceed the rate
/// limit of logins.
async fn ensure_signed_in(app: &TestApp, user: User) -> User {
    match app.get("/users/me", Some(&user)).await.status.as_u16() {
        401 => User::signed_in(user.id, &user.email, &app.login(&user.email, PASSWORD).await),
        _ => user,
    }
}

#[tokio::test]
async fn smoke_a_user_is_refused_exactly_by_the_admin_operations() {
    let app = TestApp::start().await;
    let mut user = app.user().await;
    let mut refused = BTreeSet::new();
    for operation in secured_operations(&app).await {
        user = ensure_signed_in(&app, user).await;
        let answer = operation.call(&app, Some(&user.token)).await;
        match answer.status.as_u16() {
            403 => {
                answer.is_problem(403, "forbidden", "Not enough permissions");
                refused.insert(operation.id);
            }
            status => assert!(status != 401 && status < 500, "{}: {}", operation.id, answer.text),
        }
    }
    let is_for_admins = "is refused to users who are not admins. If that is intended";
    let is_for_users =
        "is allowed to users who are not admins. If it is for admins, its handler takes `Admin`. If not";
    assert_list("ADMINS", ADMINS, &refused, is_for_admins, is_for_users);
}

#[tokio::test]
async fn without_a_required_second_factor_only_the_listed_operations_are_allowed() {
    let app = TestApp::with(&["--require-two-factor=all"]).await;
    let (mut user, mut allowed) = (app.admin().await, BTreeSet::new());
    for operation in secured_operations(&app).await {
        user = ensure_signed_in(&app, user).await;
        let answer = operation.call(&app, Some(&user.token)).await;
        match answer.body["code"] == "two_factor_required" {
            true => answer.is_some_problem(403, "two_factor_required"),
            false => drop(allowed.insert(operation.id)),
        }
    }
    assert_eq!(allowed.iter().map(String::as_str).collect::<Vec<_>>(), WITHOUT_SECOND_FACTOR);
}

#[tokio::test]
async fn an_admin_may_call_every_admin_operation() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    for mut operation in secured_operations(&app).await {
        if ADMINS.contains(&&*operation.id) {
            // The operation acts on a user other than the calling admin.
            operation.path = operation.path.replace("/users/1", &format!("/users/{}", user.id));
            let answer = operation.call(&app, Some(&admin.token)).await;
            let status = answer.status.as_u16();
            assert!(![401, 403].contains(&status) && status < 500, "{}: {}", operation.id, answer.text);
        }
    }
}
