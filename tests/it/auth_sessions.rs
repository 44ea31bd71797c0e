//! Sessions: opened, refreshed, listed, expired and revoked.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD, SECRET, fields},
    eventually,
    records::{column, tables},
};

impl TestApp {
    pub async fn refresh(&self, token: &str) -> Answer {
        self.post("/auth/refresh", None, json!({ "refresh_token": token })).await
    }

    /// Signs the user in again. Returns the user with the tokens of the new session.
    pub async fn signed_in_again(&self, user: &User) -> User {
        User::signed_in(user.id, &user.email, &self.login(&user.email, PASSWORD).await)
    }

    pub async fn is_signed_in(&self, user: &User) -> bool {
        self.get("/users/me", Some(user)).await.status == 200
    }

    /// Asserts that the access token and the refresh token are refused.
    pub async fn assert_signed_out(&self, user: &User) {
        self.get("/users/me", Some(user)).await.is_some_problem(401, "invalid_token");
        self.refresh(&user.refresh_token).await.is_some_problem(401, "invalid_token");
    }
}

#[tokio::test]
async fn smoke_login_and_refresh_return_both_tokens() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let login = app.login(&user.email, PASSWORD).await;
    let first = User::signed_in(user.id, &user.email, &login);
    let refresh = app.refresh(&first.refresh_token).await;
    let next = User::signed_in(user.id, &user.email, &refresh);
    for (answer, token) in [(&login, &first.refresh_token), (&refresh, &next.refresh_token)] {
        assert!(token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
        assert_eq!(answer.body["token_type"], "bearer");
        let lifetimes = (&answer.body["expires_in"], &answer.body["refresh_expires_in"]);
        assert_eq!(lifetimes, (&json!(1_800), &json!(2_592_000)));
    }
    assert!(first.refresh_token != user.refresh_token && next.refresh_token != first.refresh_token);
    assert_eq!(app.get("/users/me", Some(&next)).await.body["email"], user.email);
    assert_eq!(app.refresh(&next.refresh_token).await.status, 200);
    assert_eq!(app.get("/users/me/sessions", Some(&user)).await.body.as_array().unwrap().len(), 2);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn only_the_hash_of_a_token_is_stored() {
    let app = TestApp::start().await;
    let email = "ada@example.com";
    app.post("/auth/register", None, json!({ "email": email, "password": PASSWORD })).await;
    let user = User::signed_in(0, email, &app.login(email, PASSWORD).await);
    let next = User::signed_in(0, email, &app.refresh(&user.refresh_token).await);
    assert_eq!(app.post("/auth/forgot-password", None, json!({ "email": email })).await.status, 202);
    let mut tokens: Vec<_> = app.mails().await.iter().map(|mail| mail.token()).collect();
    assert_eq!(tokens.len(), 2, "verification and reset");
    tokens.extend([user.refresh_token, next.refresh_token]);

    let dump = tables(&app.database).await;
    for token in tokens {
        assert!(!dump.contains(&token), "{token} is in the database");
        assert!(!dump.contains(&hex(token.as_bytes())), "{token} is in the database as bytes");
        assert!(dump.contains(&hex(&saas::security::hash(&token))), "the hash of {token} is missing");
    }
    assert!(!dump.contains(&user.token) && !dump.contains(PASSWORD));
}

#[tokio::test]
async fn a_retried_refresh_returns_the_same_refresh_token() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let first = User::signed_in(user.id, &user.email, &app.refresh(&user.refresh_token).await);
    let again = User::signed_in(user.id, &user.email, &app.refresh(&user.refresh_token).await);
    assert_eq!(first.refresh_token, again.refresh_token);
    assert!(app.is_signed_in(&first).await && app.is_signed_in(&again).await);
    assert_eq!(app.refresh(&again.refresh_token).await.status, 200);
}

#[tokio::test]
async fn concurrent_refreshes_return_the_same_next_token() {
    let app = TestApp::start().await;
    let replica = TestApp::on(app.database.clone(), &[]).await;
    let user = app.user().await;
    let servers = [&app, &replica];
    let answers = join_all((0..20).map(|n| servers[n % 2].refresh(&user.refresh_token))).await;
    let mut tokens = BTreeSet::new();
    for answer in &answers {
        let next = User::signed_in(user.id, &user.email, answer);
        assert!(app.is_signed_in(&next).await);
        tokens.insert(next.refresh_token);
    }
    assert_eq!(tokens.len(), 1);
    assert_eq!(column(&app.database, "SELECT count(*) FROM refresh_tokens").await, ["2"]);
    assert_eq!(app.refresh(tokens.first().unwrap()).await.status, 200);
}

#[tokio::test]
async fn smoke_a_replayed_refresh_token_revokes_its_session_only() {
    let app = TestApp::start().await;
    let (user, other_user) = (app.user().await, app.user().await);
    let elsewhere = app.signed_in_again(&user).await;
    let newest = User::signed_in(user.id, &user.email, &app.refresh(&user.refresh_token).await);
    app.sql("UPDATE refresh_tokens SET spent_at = spent_at - interval '11 seconds'").await;
    assert!(app.is_signed_in(&newest).await);

    app.refresh(&user.refresh_token).await.is_problem(401, "invalid_token", "Could not validate credentials");
    app.assert_signed_out(&newest).await;
    app.assert_signed_out(&user).await;
    assert!(app.is_signed_in(&elsewhere).await && app.is_signed_in(&other_user).await);
    assert_eq!(app.refresh(&elsewhere.refresh_token).await.status, 200);

    let mails = app.mails().await;
    let sent: Vec<_> = mails.iter().map(|mail| (mail.to.as_str(), mail.subject.as_str())).collect();
    assert_eq!(sent, [(user.email.as_str(), "You were signed out for safety")]);
    let replays = "SELECT target_id FROM audit_log WHERE action = 'session.replayed'";
    assert_eq!(column(&app.database, replays).await, [user.id.to_string()], "recorded once");
}

#[tokio::test]
async fn an_idle_session_expires_after_30_days() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let age = async |span: &str| {
        let tokens = format!("UPDATE refresh_tokens SET created_at = created_at - interval '{span}'");
        let sessions = format!("UPDATE sessions SET last_seen_at = last_seen_at - interval '{span}'");
        app.sql(&format!("{tokens}; {sessions}")).await;
    };
    age("29 days").await;
    let next = User::signed_in(user.id, &user.email, &app.refresh(&user.refresh_token).await);
    age("29 days").await;
    let last = User::signed_in(user.id, &user.email, &app.refresh(&next.refresh_token).await);
    age("30 days").await;
    app.refresh(&last.refresh_token).await.is_some_problem(401, "invalid_token");
    app.get("/users/me", Some(&last)).await.is_some_problem(401, "invalid_token");
    let elsewhere = app.signed_in_again(&user).await;
    let list = app.get("/users/me/sessions", Some(&elsewhere)).await;
    assert_eq!(
        list.body.as_array().unwrap().len(),
        1,
        "only the session that was just opened: {}",
        list.text
    );
    assert!(app.mails().await.is_empty(), "an expired token is not a replay");
}

#[tokio::test]
async fn a_session_expires_after_90_days() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let age = async |days: u32| {
        // Hours instead of days: a calendar day may have 23 hours.
        let sql = format!("UPDATE sessions SET expires_at = expires_at - {days} * interval '24 hours'");
        app.sql(&sql).await;
    };
    age(89).await;
    let answer = app.refresh(&user.refresh_token).await;
    let next = User::signed_in(user.id, &user.email, &answer);
    assert!(answer.body["refresh_expires_in"].as_u64().unwrap() <= 86_400, "{}", answer.text);
    age(1).await;
    app.assert_signed_out(&next).await;
}

#[tokio::test]
async fn an_invalid_refresh_token_is_refused() {
    let app = TestApp::start().await;
    let user = app.user().await;
    for token in ["", "nonsense", &"0".repeat(64), &user.refresh_token.to_uppercase()] {
        app.refresh(token).await.is_problem(401, "invalid_token", "Could not validate credentials");
    }
    let long = app.refresh(&"0".repeat(129)).await;
    assert_eq!(long.invalid_fields(), fields(&[("body.refresh_token", "string_too_long")]));
    app.post("/auth/refresh", None, json!({})).await.is_some_problem(401, "not_authenticated");
    app.get("/users/me", Some(&User::with_token(&user.refresh_token)))
        .await
        .is_some_problem(401, "invalid_token");
}

#[tokio::test]
async fn smoke_a_logout_is_effective_on_every_replica() {
    let app = TestApp::start().await;
    let replica = TestApp::on(app.database.clone(), &[]).await;
    let user = app.user().await;
    let elsewhere = app.signed_in_again(&user).await;
    assert!(replica.is_signed_in(&user).await);
    assert_eq!(app.call(Method::POST, "/auth/logout", &user).await.status, 204);
    app.assert_signed_out(&user).await;
    eventually("the other replica refuses the token", || async {
        (!replica.is_signed_in(&user).await).then_some(())
    })
    .await;
    app.call(Method::POST, "/auth/logout", &user).await.is_some_problem(401, "invalid_token");
    assert!(app.is_signed_in(&elsewhere).await);
}

#[tokio::test]
async fn logout_all_revokes_all_sessions_of_the_user() {
    let app = TestApp::start().await;
    let (user, other_user) = (app.user().await, app.user().await);
    let elsewhere = app.signed_in_again(&user).await;
    assert_eq!(app.call(Method::POST, "/auth/logout-all", &user).await.status, 204);
    app.assert_signed_out(&user).await;
    app.assert_signed_out(&elsewhere).await;
    assert!(app.is_signed_in(&other_user).await);
}

#[tokio::test]
async fn the_list_of_sessions_shows_device_and_address() {
    let app = TestApp::with(&["--trusted-proxies=1"]).await;
    let user = app.user().await;
    let sign_in = async |device: &str, address: &str| {
        let login = app.form("/auth/login", &[("username", user.email.as_str()), ("password", PASSWORD)]);
        let login = login.header("user-agent", device).header("x-forwarded-for", address);
        User::signed_in(user.id, &user.email, &Answer::of(login).await)
    };
    let long = "x".repeat(400);
    sign_in(&long, "203.0.113.8").await;
    sign_in("A phone", "2001:db8::7").await;
    let laptop = sign_in("A laptop", "203.0.113.7").await;
    let hour_ago = "UPDATE sessions SET last_seen_at = now() - interval '1 hour'";
    app.sql(&format!("{hour_ago} WHERE user_agent = 'A phone'")).await;

    let list = app.get("/users/me/sessions", Some(&laptop)).await;
    let sessions = list.body.as_array().unwrap();
    let names = ["device", "address", "current", "two_factor"];
    let shown: Vec<_> = sessions.iter().map(|session| json!(names.map(|name| &session[name]))).collect();
    assert_eq!(
        json!(shown),
        json!([
            ["A laptop", "203.0.113.7", true, false],
            [long[..255], "203.0.113.8", false, false],
            [null, "127.0.0.1", false, false],
            ["A phone", "2001:db8::7", false, false],
        ])
    );
    assert!(sessions.iter().all(|one| one["created_at"].is_string() && one["last_seen_at"].is_string()));
}

#[tokio::test]
async fn a_user_can_revoke_own_sessions_only() {
    let app = TestApp::start().await;
    let (user, other_user) = (app.user().await, app.user().await);
    let other = app.signed_in_again(&user).await;
    let id = async |user: &User| {
        let list = app.get("/users/me/sessions", Some(user)).await.body;
        let current = list.as_array().unwrap().iter().find(|session| session["current"] == true);
        current.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let revoke = async |id: &str| app.call(Method::DELETE, &format!("/users/me/sessions/{id}"), &user).await;
    let others = id(&other).await;
    assert_eq!(revoke(&others).await.status, 204);
    app.assert_signed_out(&other).await;
    for id in
        [others.as_str(), &id(&other_user).await, "b2f3c9d0-6a55-4f0e-9d6c-0a7c0f6f1a2b", "nonsense", "1"]
    {
        revoke(id).await.is_problem(404, "not_found", "Session not found");
    }
    assert!(app.is_signed_in(&user).await && app.is_signed_in(&other_user).await);
}

#[tokio::test]
async fn a_key_rotation_revokes_no_session() {
    let old = TestApp::start().await;
    let user = old.user().await;
    let key = "--secret-key=ffeeddccbbaa99887766554433221100ffeeddcc";
    let new = TestApp::on(old.database.clone(), &[key, &format!("--secret-key-previous={SECRET}")]).await;
    let first = User::signed_in(user.id, &user.email, &old.refresh(&user.refresh_token).await);
    // A client that has lost the response retries at a replica with the new key.
    let again = User::signed_in(user.id, &user.email, &new.refresh(&user.refresh_token).await);
    assert_eq!(again.refresh_token, first.refresh_token);
    let next = User::signed_in(user.id, &user.email, &new.refresh(&first.refresh_token).await);
    assert!(new.is_signed_in(&next).await);
    assert_eq!(
        old.refresh(&next.refresh_token).await.status,
        200,
        "a replica with the old key, during the rotation"
    );
}

#[tokio::test]
async fn a_deactivated_user_cannot_refresh() {
    let app = TestApp::start().await;
    let user = app.user().await;
    let set = |active: bool| format!("UPDATE users SET is_active = {active} WHERE id = {}", user.id);
    app.sql(&set(false)).await;
    app.refresh(&user.refresh_token).await.is_some_problem(401, "invalid_token");
    app.sql(&set(true)).await;
    assert_eq!(
        app.refresh(&user.refresh_token).await.status,
        200,
        "the refused attempt has not spent the token"
    );
}

#[tokio::test]
async fn require_verified_email_refuses_logins_with_unverified_addresses() {
    let app = TestApp::with(&["--require-verified-email=true"]).await;
    let email = "ada@example.com";
    app.post("/auth/register", None, json!({ "email": email, "password": PASSWORD })).await;
    app.login(email, "wrong password").await.is_some_problem(401, "bad_credentials");
    app.login(email, PASSWORD).await.is_some_problem(403, "email_not_verified");
    let token = app.mailed_token(email).await;
    assert_eq!(app.post("/auth/verify-email", None, json!({ "token": token })).await.status, 204);
    assert_eq!(app.login(email, PASSWORD).await.status, 200);
}
