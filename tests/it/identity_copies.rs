//! Cached copies of users and sessions. A copy is at most `IDENTITY_CACHE_MS` old. A change by the same process
//! discards the copy at once.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::PASSWORD,
    authenticator::{Authenticator, recovery_codes},
    proxy::Proxy,
    servers::TestDatabase,
};

/// Longer than any test, so that no copy expires.
const LONG_CACHE: &str = "--identity-cache-ms=60000";

async fn read_role(app: &TestApp, user: &User) -> Result<String, u16> {
    let answer = app.get("/users/me", Some(user)).await;
    match answer.status.as_u16() {
        200 => Ok(answer.body["role"].as_str().unwrap().to_owned()),
        status => Err(status),
    }
}

async fn send_change(app: &TestApp, method: Method, path: &str, user: &User, body: Option<Value>) {
    let mut request = app.request(method, path).bearer_auth(&user.token);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
}

#[tokio::test]
async fn smoke_a_cached_copy_is_used_unless_its_lifetime_is_zero() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let user = app.user().await;
    assert_eq!(read_role(&app, &user).await.unwrap(), "user");
    app.database.sql("UPDATE users SET role = 'admin'").await;
    assert_eq!(read_role(&app, &user).await.unwrap(), "user");

    let app = TestApp::with(&["--identity-cache-ms=0"]).await;
    let user = app.user().await;
    assert_eq!(read_role(&app, &user).await.unwrap(), "user");
    app.database.sql("UPDATE users SET role = 'admin'").await;
    assert_eq!(read_role(&app, &user).await.unwrap(), "admin");
}

#[tokio::test]
async fn a_change_is_effective_at_once_in_its_own_process() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let admin = app.admin().await;
    let cached_user = async || {
        let user = app.user().await;
        assert_eq!(read_role(&app, &user).await.unwrap(), "user");
        user
    };

    let user = cached_user().await;
    let path = format!("/users/{}", user.id);
    send_change(&app, Method::PATCH, &path, &admin, Some(json!({ "role": "admin" }))).await;
    assert_eq!(read_role(&app, &user).await, Err(401), "a new admin has to sign in again");
    let user = User::signed_in(user.id, &user.email, &app.login(&user.email, PASSWORD).await);
    assert_eq!(read_role(&app, &user).await.unwrap(), "admin");
    send_change(&app, Method::PATCH, &path, &admin, Some(json!({ "is_active": false }))).await;
    assert_eq!(read_role(&app, &user).await, Err(403));

    let user = cached_user().await;
    send_change(&app, Method::PATCH, "/users/me", &user, Some(json!({ "full_name": "Ada" }))).await;
    assert_eq!(app.get("/users/me", Some(&user)).await.body["full_name"], "Ada");

    for (method, path) in [(Method::POST, "/auth/logout"), (Method::POST, "/auth/logout-all")] {
        let user = cached_user().await;
        send_change(&app, method, path, &user, None).await;
        assert_eq!(read_role(&app, &user).await, Err(401), "{path}");
    }

    let user = cached_user().await;
    send_change(&app, Method::DELETE, &format!("/users/{}", user.id), &admin, None).await;
    assert_eq!(read_role(&app, &user).await, Err(401));

    let user = cached_user().await;
    send_change(&app, Method::DELETE, "/users/me", &user, Some(json!({ "password": PASSWORD }))).await;
    assert_eq!(read_role(&app, &user).await, Err(401));

    let user = cached_user().await;
    let other = app.login(&user.email, PASSWORD).await.body["access_token"].as_str().unwrap().to_owned();
    let other = User { token: other, ..user.clone() };
    assert_eq!(read_role(&app, &other).await.unwrap(), "user");
    let new = json!({ "current_password": PASSWORD, "new_password": "another good password" });
    send_change(&app, Method::POST, "/users/me/password", &user, Some(new)).await;
    assert_eq!((read_role(&app, &user).await, read_role(&app, &other).await), (Ok("user".into()), Err(401)));
}

/// Caches the user at `there`, and sets another password at `here`. Returns the new password.
async fn set_password(here: &TestApp, there: &TestApp, user: &User, old: &str) -> String {
    read_role(there, user).await.unwrap();
    let new = format!("{old}!");
    let body = json!({ "current_password": old, "new_password": new });
    send_change(here, Method::POST, "/users/me/password", user, Some(body)).await;
    new
}

#[tokio::test]
async fn a_password_set_by_another_process_confirms_a_change_in_spite_of_a_stale_copy() {
    let database = Arc::new(TestDatabase::migrated().await);
    let here = TestApp::on(database.clone(), &[LONG_CACHE]).await;
    let there = TestApp::on(database, &[LONG_CACHE]).await;
    let user = here.user().await;
    let org = there.post("/orgs", Some(&user), json!({ "name": "Acme" })).await.body["id"].clone();

    let password = set_password(&here, &there, &user, PASSWORD).await;
    let email = json!({ "email": "new@example.com", "password": password });
    send_change(&there, Method::POST, "/users/me/email", &user, Some(email)).await;
    let password = set_password(&here, &there, &user, &password).await;
    let setup = there.post("/users/me/two-factor", Some(&user), json!({ "password": password })).await;
    assert_eq!(setup.status, 200, "{}", setup.text);
    let authenticator = Authenticator::with_secret(setup.body["secret"].as_str().unwrap());
    let code = json!({ "code": authenticator.code() });
    let codes = recovery_codes(&here.post("/users/me/two-factor/confirm", Some(&user), code).await);
    let password = set_password(&here, &there, &user, &password).await;
    let both = json!({ "password": password, "code": codes[0] });
    send_change(&there, Method::POST, &format!("/orgs/{org}/deletion"), &user, Some(both)).await;
    let password = set_password(&here, &there, &user, &password).await;
    let both = json!({ "password": password, "code": codes[1] });
    send_change(&there, Method::POST, "/users/me/two-factor/disable", &user, Some(both)).await;
    let password = set_password(&here, &there, &user, &password).await;
    let password = set_password(&there, &here, &user, &password).await;
    let password = json!({ "password": password });
    send_change(&here, Method::POST, "/users/me/deletion", &user, Some(password)).await;
}

/// The process cannot know whether the change was committed, so it must discard its copies.
#[tokio::test]
async fn a_lost_response_to_commit_discards_the_copies() {
    let database = Arc::new(TestDatabase::migrated().await);
    let (proxy, url) = Proxy::before(&database.url).await;
    let app = TestApp::on(database, &[LONG_CACHE, &format!("--database-url={url}")]).await;
    let (admin, user) = (app.admin().await, app.user().await);
    assert_eq!(read_role(&app, &user).await.unwrap(), "user");
    assert_eq!(read_role(&app, &admin).await.unwrap(), "admin");
    proxy.lose_answer("COMMIT");
    let path = format!("/users/{}", user.id);
    let body = json!({ "is_active": false });
    let answer =
        app.request(Method::PATCH, &path).bearer_auth(&admin.token).json(&body).send().await.unwrap();
    assert!(proxy.has_lost_answer());
    assert_eq!(answer.status(), 503);
    assert_eq!(read_role(&app, &user).await, Err(403));
}

#[tokio::test]
async fn a_demoted_admin_with_a_stale_copy_cannot_change_users() {
    let app = TestApp::with(&[LONG_CACHE]).await;
    let admin = app.admin().await;
    assert_eq!(app.get("/users", Some(&admin)).await.status, 200);
    app.database.sql("UPDATE users SET role = 'user'").await;
    let path = format!("/users/{}", admin.id);
    let again = app.request(Method::PATCH, &path).bearer_auth(&admin.token).json(&json!({ "role": "admin" }));
    assert_eq!(again.send().await.unwrap().status(), 403);
}
