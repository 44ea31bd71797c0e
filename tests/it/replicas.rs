//! Two processes of `saas serve` with cached copies. A change in one process is effective in both.

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    app::PASSWORD,
    eventually,
    process::{Running, production_command, start_server},
    proxy::{Link, Proxy},
    servers::{TestDatabase, servers, unique},
};

const ADMIN: (&str, &str) = ("admin@example.com", "a password of ours");

struct Replica {
    _process: Running,
    url: String,
    client: Client,
}

/// Two replicas with separate caches. `here` makes most changes, and `there` observes them.
struct Pair {
    here: Replica,
    there: Replica,
    admin: String,
    prefix: String,
}

impl Replica {
    async fn start(database: &TestDatabase, prefix: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = production_command(&["serve", "--port", "0"], database, prefix).await;
        command.envs(settings.iter().copied());
        let (process, address) = start_server(command).await;
        Self { _process: process, url: format!("http://{address}/api/v1"), client: Client::new() }
    }

    async fn send_request(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    async fn send_ok(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.send_request(method, path, token, body).await;
        assert!(status.is_success(), "{path}: {answer}");
        answer
    }

    /// Returns the user of a token, or the status of the refusal.
    async fn read_user(&self, token: &str) -> Result<Value, StatusCode> {
        let (status, me) = self.send_request(Method::GET, "/users/me", token, None).await;
        if status.is_success() { Ok(me) } else { Err(status) }
    }

    async fn sign_in(&self, (email, password): (&str, &str)) -> String {
        let form = [("username", email), ("password", password)];
        let login = self.client.post(format!("{}/auth/login", self.url)).form(&form).send().await.unwrap();
        let login: Value = login.json().await.unwrap();
        login["access_token"].as_str().unwrap_or_else(|| panic!("{login}")).to_owned()
    }
}

/// A signed-in user.
struct TestUser {
    id: i64,
    email: String,
    token: String,
}

impl Pair {
    /// Starts both replicas, each with its own settings.
    async fn start(database: &TestDatabase, here: &[(&str, &str)], there: &[(&str, &str)]) -> Self {
        let prefix = format!("r{}", unique());
        let here = Replica::start(database, &prefix, here).await;
        let there = Replica::start(database, &prefix, there).await;
        let admin = here.sign_in(ADMIN).await;
        Self { here, there, admin, prefix }
    }

    /// Registers a user and reads it through both replicas, so that both have cached copies.
    async fn user(&self) -> TestUser {
        let email = format!("replica{}@example.com", unique());
        let body = json!({ "email": email, "password": PASSWORD });
        let made = self.here.send_ok(Method::POST, "/auth/register", &self.admin, Some(body)).await;
        let token = self.here.sign_in((&email, PASSWORD)).await;
        for replica in [&self.there, &self.here, &self.there, &self.here, &self.there] {
            assert_eq!(replica.read_user(&token).await.unwrap()["role"], "user");
        }
        TestUser { id: made["id"].as_i64().unwrap(), email, token }
    }

    /// Asserts that `here` refuses a user with this status, and waits until `there` refuses the user too.
    async fn assert_refused(&self, user: &TestUser, status: u16) {
        assert_eq!(self.here.read_user(&user.token).await.unwrap_err(), status);
        eventually("the other replica refuses the user", || async {
            let answer = self.there.read_user(&user.token).await;
            (answer.err()? == status).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn smoke_a_change_is_effective_on_every_replica() {
    let database = TestDatabase::migrated().await;
    let pair = Pair::start(&database, &[], &[]).await;
    let (here, admin) = (&pair.here, &pair.admin);

    let user = pair.user().await;
    let path = format!("/users/{}", user.id);
    database.sql("UPDATE users SET email_verified_at = now()").await;
    here.send_ok(Method::PATCH, &path, admin, Some(json!({ "role": "admin" }))).await;
    pair.assert_refused(&user, 401).await;
    let token = here.sign_in((&user.email, PASSWORD)).await;
    for replica in [here, &pair.there] {
        assert_eq!(replica.read_user(&token).await.unwrap()["role"], "admin");
    }
    here.send_ok(Method::PATCH, &path, admin, Some(json!({ "role": "user" }))).await;
    assert_eq!(here.read_user(&token).await.unwrap()["role"], "user", "at once in the process of the change");
    eventually("the other replica has the new role", || async {
        (pair.there.read_user(&token).await.unwrap()["role"] == "user").then_some(())
    })
    .await;

    here.send_ok(Method::PATCH, &path, admin, Some(json!({ "is_active": false }))).await;
    pair.assert_refused(&user, 403).await;

    let user = pair.user().await;
    here.send_ok(Method::POST, "/auth/logout", &user.token, None).await;
    pair.assert_refused(&user, 401).await;

    let user = pair.user().await;
    here.send_ok(Method::DELETE, &format!("/users/{}", user.id), admin, None).await;
    pair.assert_refused(&user, 401).await;

    let user = pair.user().await;
    let elsewhere = pair.there.sign_in((&user.email, PASSWORD)).await;
    let new = json!({ "current_password": PASSWORD, "new_password": "another good password" });
    pair.there.send_ok(Method::POST, "/users/me/password", &elsewhere, Some(new)).await;
    eventually("the other sessions are revoked", || async { here.read_user(&user.token).await.err() }).await;
    here.read_user(&elsewhere).await.unwrap();
}

#[tokio::test]
async fn a_change_is_effective_without_redis() {
    let database = TestDatabase::migrated().await;
    let (proxy, url) = Proxy::before(&servers().await.redis_url()).await;
    for link in [Link::Cut, Link::Stalled] {
        proxy.set(Link::Up);
        let redis = [("REDIS_URL", &*url)];
        let pair = Pair::start(&database, &redis, &redis).await;
        let user = pair.user().await;
        proxy.set(link);
        pair.here.send_ok(Method::POST, "/auth/logout", &user.token, None).await;
        pair.assert_refused(&user, 401).await;
        // After the outage, the replica that observed the logout still refuses the token.
        proxy.set(Link::Up);
        for _ in 0..20 {
            assert_eq!(pair.there.read_user(&user.token).await.unwrap_err(), 401);
        }
        // The cache of a new replica is empty, so the replica reads the database and refuses the token.
        let third = Replica::start(&database, &pair.prefix, &redis).await;
        assert_eq!(third.read_user(&user.token).await.unwrap_err(), 401);
    }
}

#[tokio::test]
async fn a_replica_without_a_database_does_not_respond_from_copies() {
    let database = TestDatabase::migrated().await;
    let (proxy, url) = Proxy::before(&database.url).await;
    for link in [Link::Stalled, Link::Cut] {
        proxy.set(Link::Up);
        let pair = Pair::start(&database, &[], &[("DATABASE_URL", &url)]).await;
        let user = pair.user().await;
        proxy.set(link);
        pair.here.send_ok(Method::POST, "/auth/logout", &user.token, None).await;
        eventually("the copies have expired", || async {
            (pair.there.read_user(&user.token).await.err()? == 503).then_some(())
        })
        .await;
        for _ in 0..3 {
            assert_eq!(pair.there.read_user(&user.token).await.unwrap_err(), 503, "{link:?}");
        }
        proxy.set(Link::Up);
        pair.assert_refused(&user, 401).await;
    }
}
