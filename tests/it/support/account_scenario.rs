//! A scenario over HTTP: one account from registration to deletion, and the accounts that an admin invites. The scenario
//! collects the secrets that it uses, except the codes of the authenticator, which are too short to search for.

use std::collections::BTreeSet;

use reqwest::{Client, Method, RequestBuilder};
use saas::security::api_key;
use serde_json::{Value, json};

use super::{app::Answer, authenticator::Authenticator};

const EMAIL: &str = "ada@example.com";
const NEW_EMAIL: &str = "lovelace@example.com";
const INVITED: &str = "bob@example.com";
const GUEST: &str = "eve@example.com";
const PASSWORDS: [&str; 4] =
    ["first horse battery", "second horse battery", "third horse battery", "fourth horse battery"];
const WRONG_PASSWORD: &str = "no-horse-battery-at-all";

/// Fields of requests and responses that contain a secret.
const SECRET_FIELDS: [&str; 8] = [
    "password",
    "current_password",
    "new_password",
    "token",
    "access_token",
    "refresh_token",
    "challenge_token",
    "secret",
];

pub struct AccountScenario<M> {
    client: Client,
    url: String,
    mailed_token: M,
    secrets: BTreeSet<String>,
}

/// Asserts that a text contains none of the secrets, and nothing in the format of an API key. `place` says where the text
/// is from.
#[track_caller]
pub fn assert_none_in(secrets: &BTreeSet<String>, place: &str, text: &str) {
    let found: Vec<_> = secrets.iter().filter(|secret| text.contains(*secret)).collect();
    assert!(found.is_empty(), "{place} has {found:?}");
    assert_eq!(find_api_key(text), None, "{place}");
}

/// Returns the first API key in a text, as a secret scanner finds it.
fn find_api_key(text: &str) -> Option<&str> {
    let length = api_key::PREFIX.len() + 40 + 1 + 6;
    let starts = text.match_indices(api_key::PREFIX).map(|(at, _)| at);
    starts.filter_map(|at| text.get(at..at + length)).find(|candidate| api_key::is_well_formed(candidate))
}

#[test]
fn an_api_key_is_found_in_a_text() {
    let key = api_key::random().unwrap();
    for text in [key.clone(), format!("saas_{key}"), format!("{{\"token\":\"{key}\"}}"), format!("é{key}é")]
    {
        assert_eq!(find_api_key(&text), Some(key.as_str()), "{text}");
    }
    assert_eq!(find_api_key(&format!("{} saas_ saas", &key[..50])), None);
}

impl<M: AsyncFn(&str) -> String> AccountScenario<M> {
    /// Runs the scenario on a server. Returns its secrets: passwords, tokens, API keys, two-factor secrets and recovery
    /// codes.
    ///
    /// `mailed_token` returns the token of the last link that was sent to an address.
    pub async fn run(url: &str, admin: (&str, &str), mailed_token: M) -> BTreeSet<String> {
        let (client, url) = (Client::new(), format!("{url}/api/v1"));
        let mut scenario = Self { client, url, mailed_token, secrets: BTreeSet::new() };
        let access = scenario.register().await;
        scenario.use_api_keys(&access).await;
        scenario.change_passwords(&access).await;
        let (access, recovery_code) = scenario.turn_on_two_factor().await;
        scenario.change_email(&access, &recovery_code).await;
        scenario.invite(admin).await;
        scenario.send_malformed_requests().await;
        scenario.delete_account(&access).await;
        scenario.secrets
    }

    /// Registers, verifies the address, signs in and refreshes. Also signs in with cookies. Returns the access token of the
    /// refresh.
    async fn register(&mut self) -> String {
        let new = json!({ "email": EMAIL, "password": PASSWORDS[0], "full_name": "Ada" });
        self.post(201, "/auth/register", "", new).await;
        let token = (self.mailed_token)(EMAIL).await;
        self.post(204, "/auth/verify-email", "", json!({ "token": token })).await;
        self.sign_in(401, EMAIL, WRONG_PASSWORD).await;
        let login = self.sign_in(200, EMAIL, PASSWORDS[0]).await;
        let spent = json!({ "refresh_token": login.body["refresh_token"] });
        let next = self.post(200, "/auth/refresh", "", spent).await;
        self.sign_in_with_cookies().await;
        text_field(&next, "access_token")
    }

    async fn sign_in_with_cookies(&mut self) {
        let login = self.request(Method::POST, "/auth/login?delivery=cookie");
        let login = login.header("sec-fetch-site", "same-origin");
        let answer = Answer::of(login.form(&[("username", EMAIL), ("password", PASSWORDS[0])])).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
        let mut jar = Vec::new();
        for cookie in answer.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
            self.record_secret(cookie.split_once('=').unwrap().1);
            jar.push(cookie);
        }
        assert_eq!(jar.len(), 2);
        let me = self.request(Method::GET, "/users/me").header("cookie", jar.join("; "));
        assert_eq!(Answer::of(me).await.status, 200);
    }

    async fn change_passwords(&mut self, access: &str) {
        let change = |current: &str| json!({ "current_password": current, "new_password": PASSWORDS[1] });
        self.post(400, "/users/me/password", access, change(WRONG_PASSWORD)).await;
        self.post(204, "/users/me/password", access, change(PASSWORDS[0])).await;
        self.post(202, "/auth/forgot-password", "", json!({ "email": EMAIL })).await;
        let token = (self.mailed_token)(EMAIL).await;
        let reset = json!({ "token": token, "password": PASSWORDS[2] });
        self.post(204, "/auth/reset-password", "", reset.clone()).await;
        self.post(400, "/auth/reset-password", "", reset).await;
    }

    /// Turns two-factor authentication on and signs in with it. Returns the access token and an unused
    /// recovery code.
    async fn turn_on_two_factor(&mut self) -> (String, String) {
        let access = text_field(&self.sign_in(200, EMAIL, PASSWORDS[2]).await, "access_token");
        let begin = json!({ "password": PASSWORDS[2] });
        let secret = text_field(&self.post(200, "/users/me/two-factor", &access, begin).await, "secret");
        let authenticator = Authenticator::with_secret(&secret);
        let bytes = authenticator.secret().iter().map(|byte| format!("{byte:02x}"));
        self.record_secret(&bytes.collect::<String>());
        let code = json!({ "code": authenticator.code() });
        let codes = self.post(200, "/users/me/two-factor/confirm", &access, code).await;
        self.post(204, "/auth/logout", &access, Value::Null).await;

        let challenge = text_field(&self.sign_in(403, EMAIL, PASSWORDS[2]).await, "challenge_token");
        let answer = |code: &str| json!({ "challenge_token": challenge, "code": code });
        self.post(400, "/auth/login/two-factor", "", answer("aaaa-bbbb-cccc-dddd")).await;
        let [one, other] =
            [0, 1].map(|n: usize| codes.body["recovery_codes"][n].as_str().unwrap().to_owned());
        let login = self.post(200, "/auth/login/two-factor", "", answer(&one)).await;
        (text_field(&login, "access_token"), other)
    }

    /// Changes the address, and turns two-factor authentication off.
    async fn change_email(&mut self, access: &str, recovery_code: &str) {
        let new = json!({ "email": NEW_EMAIL, "password": PASSWORDS[2] });
        self.post(202, "/users/me/email", access, new).await;
        let token = (self.mailed_token)(NEW_EMAIL).await;
        self.post(204, "/auth/confirm-email", "", json!({ "token": token })).await;
        let off = json!({ "password": PASSWORDS[2], "code": recovery_code });
        self.send(204, Method::DELETE, "/users/me/two-factor", access, off).await;
    }

    /// Creates, uses and rotates an API key, and reports it as leaked. Also sends the key in places where keys are not accepted.
    async fn use_api_keys(&mut self, access: &str) {
        let org = self.post(201, "/orgs", access, json!({ "name": "Acme" })).await.body["id"].clone();
        let (keys, products) = (format!("/orgs/{org}/api-keys"), format!("/orgs/{org}/products"));
        let new = json!({ "name": "CI", "scopes": ["product:read", "product:write"] });
        let created = self.post(201, &keys, access, new).await;
        let key = text_field(&created, "secret");
        // The random part of the key is a secret too, because a shortened key would contain it.
        self.record_secret(&key[api_key::PREFIX.len()..45]);
        let product = json!({ "sku": "T-1", "name": "Tea", "price": 100, "currency": "EUR" });
        self.post(201, &products, &key, product.clone()).await;
        self.post(422, &products, &key, product).await;
        self.send(200, Method::GET, &products, &key, Value::Null).await;
        self.send(403, Method::GET, "/users/me", &key, Value::Null).await;
        self.send(401, Method::GET, &products, &key[..51], Value::Null).await;
        for path in
            [format!("/users/{key}/{key}"), format!("{products}?cursor={key}"), format!("{products}/{key}")]
        {
            let answer = Answer::of(self.request(Method::GET, &path).bearer_auth(access)).await;
            assert!(answer.status.is_client_error(), "{}", answer.text);
        }
        self.post(422, &keys, access, json!({ "name": key, "scopes": [key] })).await;
        let rotate = format!("{keys}/{}/rotate", created.body["key"]["id"]);
        let rotated = self.post(200, &rotate, access, json!({ "overlap_hours": 0 })).await;
        self.send(401, Method::GET, &products, &key, Value::Null).await;
        let next = text_field(&rotated, "secret");
        self.post(204, "/secret-scanning/revoke", "", json!({ "keys": [key, next] })).await;
        self.send(401, Method::GET, &products, &next, Value::Null).await;
    }

    async fn invite(&mut self, (email, password): (&str, &str)) {
        let access = text_field(&self.sign_in(200, email, password).await, "access_token");
        let invited = self.post(201, "/users", &access, json!({ "email": INVITED })).await;
        let token = (self.mailed_token)(INVITED).await;
        let accept = json!({ "token": token, "password": PASSWORDS[3] });
        self.post(204, "/auth/accept-invite", "", accept).await;
        let path = format!("/users/{}", invited.body["id"]);
        self.send(200, Method::PATCH, &path, &access, json!({ "role": "admin" })).await;
        self.invite_to_org(&access).await;
    }

    /// Invites a person without an account to an organization twice. The person registers with the second link.
    async fn invite_to_org(&mut self, access: &str) {
        let org = self.post(201, "/orgs", access, json!({ "name": "Acme" })).await;
        let path = format!("/orgs/{}/invitations", org.body["id"]);
        let made = self.post(201, &path, access, json!({ "email": GUEST, "role": "member" })).await;
        let first = (self.mailed_token)(GUEST).await;
        self.post(200, &format!("{path}/{}/resend", made.body["id"]), access, Value::Null).await;
        let token = (self.mailed_token)(GUEST).await;
        self.post(400, "/invitations/accept", access, json!({ "token": first })).await;
        self.post(403, "/invitations/accept", access, json!({ "token": token })).await;
        self.post(200, "/invitations/preview", "", json!({ "token": token })).await;
        let sign_up = json!({ "token": token, "password": PASSWORDS[3] });
        self.post(200, "/invitations/register", "", sign_up).await;
    }

    /// Sends secrets in URLs, unknown fields and truncated bodies.
    async fn send_malformed_requests(&mut self) {
        let token = self.secrets.iter().find(|secret| secret.len() == 64).unwrap().clone();
        for path in
            [format!("/auth/verify-email?token={token}"), format!("/users/me?password={WRONG_PASSWORD}")]
        {
            let answer = Answer::of(self.request(Method::GET, &path)).await;
            assert!(answer.status.is_client_error(), "{}", answer.text);
        }
        let unknown = self.request(Method::GET, &format!("/users/{token}/{token}"));
        assert_eq!(Answer::of(unknown).await.status, 404);
        let wrong_field = json!({ "token": token, "password": WRONG_PASSWORD, "passwort": WRONG_PASSWORD });
        self.post(422, "/auth/reset-password", "", wrong_field).await;
        let half = format!("{{\"token\": \"{token}\", \"password\": \"{WRONG_PASSWORD}");
        let request = self.request(Method::POST, "/auth/reset-password");
        let request = request.header("content-type", "application/json").body(half);
        assert_eq!(Answer::of(request).await.status, 400);
    }

    async fn delete_account(&mut self, access: &str) {
        let body = json!({ "password": PASSWORDS[2] });
        self.send(202, Method::DELETE, "/users/me", access, body).await;
    }

    async fn sign_in(&mut self, status: u16, email: &str, password: &str) -> Answer {
        let form = [("username", email), ("password", password)];
        let answer = Answer::of(self.request(Method::POST, "/auth/login").form(&form)).await;
        self.record_secret(password);
        self.check_response(status, &answer);
        answer
    }

    async fn post(&mut self, status: u16, path: &str, access: &str, body: Value) -> Answer {
        self.send(status, Method::POST, path, access, body).await
    }

    async fn send(&mut self, status: u16, method: Method, path: &str, access: &str, body: Value) -> Answer {
        let mut request = self.request(method, path);
        if !access.is_empty() {
            request = request.bearer_auth(access);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = Answer::of(request).await;
        self.record_secret_fields(&body);
        self.check_response(status, &answer);
        answer
    }

    #[track_caller]
    fn check_response(&mut self, status: u16, answer: &Answer) {
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
        self.record_secret_fields(&answer.body);
        for code in answer.body["recovery_codes"].as_array().into_iter().flatten() {
            let code = code.as_str().unwrap();
            for form in [code.to_owned(), code.replace('-', ""), code.replace('-', "").to_uppercase()] {
                self.record_secret(&form);
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    fn record_secret_fields(&mut self, body: &Value) {
        let found = SECRET_FIELDS.iter().filter_map(|name| body[*name].as_str());
        found.for_each(|secret| self.record_secret(secret));
    }

    fn record_secret(&mut self, secret: &str) {
        assert!(secret.len() >= 12, "{secret:?} is too short to search for");
        self.secrets.insert(secret.to_owned());
    }
}

fn text_field(answer: &Answer, name: &str) -> String {
    answer.body[name].as_str().unwrap().to_owned()
}
