//! API keys: their permissions, how they end, and the mails about them.

mod access;
mod copies;
mod leaks;
mod manage;
mod notices;
mod races;
mod rotation;
mod uses;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{TestApp, User, app::Answer};

/// Caches keys for a minute, so that no copy expires during a test. A change by the process itself still discards a copy.
const LONG_CACHE: &str = "--identity-cache-ms=60000";
/// All scopes that a key can have.
pub const SCOPES: [&str; 5] = ["audit:read", "job:read", "job:write", "product:read", "product:write"];

/// A key with its secret, as its creation or its rotation returns them.
#[derive(Clone)]
pub struct Key {
    pub org: i64,
    pub id: i64,
    pub secret: String,
}

impl Key {
    #[track_caller]
    fn of(org: i64, answer: &Answer) -> Self {
        let secret = answer.body["secret"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned();
        Self { org, id: answer.body["key"]["id"].as_i64().unwrap(), secret }
    }

    pub fn path(&self) -> String {
        format!("/orgs/{}/api-keys/{}", self.org, self.id)
    }
}

/// Creates an organization, and returns its id.
pub async fn create_org(app: &TestApp, owner: &User) -> i64 {
    let made = app.post("/orgs", Some(owner), json!({ "name": "Acme" })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body["id"].as_i64().unwrap()
}

/// Creates a user who is a member of the organization with this role.
async fn member(app: &TestApp, org: i64, role: &str) -> User {
    let user = app.user().await;
    let insert = "INSERT INTO memberships (org_id, user_id, role) VALUES";
    app.sql(&format!("{insert} ({org}, {}, '{role}')", user.id)).await;
    user
}

async fn post_key(app: &TestApp, org: i64, user: &User, body: Value) -> Answer {
    app.post(&format!("/orgs/{org}/api-keys"), Some(user), body).await
}

/// Creates a key with these scopes.
pub async fn create_key(app: &TestApp, org: i64, user: &User, scopes: &[&str]) -> Key {
    let made = post_key(app, org, user, json!({ "name": "CI", "scopes": scopes })).await;
    assert_eq!(made.status, 201, "{}", made.text);
    Key::of(org, &made)
}

async fn send(app: &TestApp, method: Method, path: &str, token: &str, body: Value) -> Answer {
    let mut request = app.request(method, path).bearer_auth(token);
    if !body.is_null() {
        request = request.json(&body);
    }
    Answer::of(request).await
}

async fn rotate(app: &TestApp, key: &Key, user: &User, body: Value) -> Answer {
    send(app, Method::POST, &format!("{}/rotate", key.path()), &user.token, body).await
}

async fn read_products(app: &TestApp, org: i64, secret: &str) -> Answer {
    send(app, Method::GET, &format!("/orgs/{org}/products"), secret, Value::Null).await
}

async fn add_product(app: &TestApp, org: i64, secret: &str, sku: &str) -> Answer {
    let product = json!({ "sku": sku, "name": "Tea", "price": 100, "currency": "EUR" });
    send(app, Method::POST, &format!("/orgs/{org}/products"), secret, product).await
}

/// Returns the status and the code of the response to a read with a key.
async fn read(app: &TestApp, key: &Key) -> (u16, String) {
    outcome(&read_products(app, key.org, &key.secret).await)
}

/// Returns the status of a response, and the error code, or an empty text if there is none.
fn outcome(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default().to_owned())
}

/// Builds the expected value of [`outcome`]. `code` is empty for a success.
fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
