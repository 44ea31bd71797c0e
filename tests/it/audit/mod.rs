//! The audit trail: its entries are complete and cannot be changed.

mod changes;
mod list;
mod queues;
mod secrets;

use reqwest::Method;
use saas::{
    db,
    security::Passwords,
    services::{
        admins::{ensure_admin, promote},
        housekeeping,
    },
};
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    records::{column, refusal},
};

/// Returns the audit entries about a user, the oldest first.
async fn read_trail(app: &TestApp, admin: &User, user_id: i64) -> Vec<Value> {
    let page = app.get(&format!("/audit?user_id={user_id}&limit=200"), Some(admin)).await;
    assert_eq!(page.status, 200, "{}", page.text);
    page.body["items"].as_array().unwrap().iter().rev().cloned().collect()
}

async fn patch(app: &TestApp, admin: &User, id: i64, body: Value) -> Answer {
    let request = app.request(Method::PATCH, &format!("/users/{id}")).bearer_auth(&admin.token);
    Answer::of(request.header("x-request-id", "mine-1").json(&body)).await
}

async fn count_rows(app: &TestApp, table: &str) -> String {
    column(&app.database, &format!("SELECT count(*) FROM {table}")).await.concat()
}

#[tokio::test]
async fn smoke_an_audit_entry_has_actor_action_target_and_origin() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let change = json!({ "role": "admin", "full_name": "Ada", "is_active": true });
    assert_eq!(patch(&app, &admin, user.id, change).await.status, 200);
    let mut entry = read_trail(&app, &admin, user.id).await.pop().unwrap();
    assert!(entry["id"].take().is_i64() && entry["created_at"].take().is_string());
    // The id that the server has generated, not the `mine-1` that the client has sent.
    assert_eq!(entry["request_id"].take().as_str().unwrap().len(), 36);
    let expected = json!({
        "id": null,
        "created_at": null,
        "actor_id": admin.id,
        "api_key_id": null,
        "action": "user.updated",
        "target_type": "user",
        "target_id": user.id.to_string(),
        "before": { "role": "user", "full_name": null },
        "after": { "role": "admin", "full_name": "Ada" },
        "address": "127.0.0.1",
        "request_id": null,
        "client_request_id": "mine-1",
    });
    assert_eq!(entry, expected, "the entry has only the changed fields");
}

#[tokio::test]
async fn an_audit_entry_has_the_client_address_behind_a_proxy() {
    let app = TestApp::with(&["--trusted-proxies=1"]).await;
    let (user, admin) = (app.user().await, app.admin().await);
    let request = app.request(Method::PATCH, "/users/me").bearer_auth(&user.token);
    let request = request.header("x-forwarded-for", "10.9.8.7, 2001:db8::7");
    assert_eq!(Answer::of(request.json(&json!({ "full_name": "Ada" }))).await.status, 200);
    let entry = read_trail(&app, &admin, user.id).await.pop().unwrap();
    assert_eq!((&entry["actor_id"], &entry["address"]), (&json!(user.id), &json!("2001:db8::7")));
}

#[tokio::test]
async fn a_change_by_a_command_or_a_job_has_no_actor() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let (passwords, personal) = (Passwords::new(4), &app.app.config.organizations.personal);
    let mut conn = db::connect(&app.database.settings()).await.unwrap();
    for _ in 0..2 {
        let password = Some(PASSWORD.into());
        ensure_admin(&mut conn, &passwords, "root@example.com", password, personal).await.unwrap();
    }
    assert!(!promote(&mut conn, "root@example.com").await.unwrap());
    assert!(promote(&mut conn, &user.email).await.unwrap());
    let root: i64 = column(&app.database, "SELECT id FROM users WHERE email = 'root@example.com'").await[0]
        .parse()
        .unwrap();
    app.sql(&format!("UPDATE users SET deletion_due_at = now() WHERE id = {}", user.id)).await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().users, 1);

    let of_root = read_trail(&app, &admin, root).await;
    assert_eq!(of_root.len(), 1, "the second call changes nothing: {of_root:?}");
    assert_eq!((&of_root[0]["action"], &of_root[0]["before"]), (&json!("user.created"), &Value::Null));
    assert_eq!(of_root[0]["after"]["role"], "admin");
    let of_user = read_trail(&app, &admin, user.id).await;
    let [.., promoted, deleted] = &of_user[..] else { panic!("{of_user:?}") };
    assert_eq!(promoted["action"], "user.updated");
    assert_eq!(
        (&promoted["before"], &promoted["after"]),
        (&json!({ "role": "user" }), &json!({ "role": "admin" }))
    );
    assert_eq!((&deleted["action"], &deleted["after"]), (&json!("user.deleted"), &Value::Null));
    assert_eq!(deleted["before"]["email"], user.email);
    for entry in [&of_root[0], promoted, deleted] {
        for name in ["actor_id", "address", "request_id", "client_request_id"] {
            assert_eq!(entry[name], Value::Null, "{entry}");
        }
    }
}

#[tokio::test]
async fn a_refused_request_writes_no_audit_entry() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let change = json!({ "email": "new@example.com", "password": PASSWORD });
    assert_eq!(app.post("/users/me/email", Some(&user), change).await.status, 202);
    let link = json!({ "token": app.mailed_token("new@example.com").await });
    let taker = json!({ "email": "new@example.com", "password": PASSWORD });
    assert_eq!(app.post("/auth/register", None, taker.clone()).await.status, 201);
    let before = (app.mails().await.len(), count_rows(&app, "audit_log").await);

    patch(&app, &admin, admin.id, json!({ "role": "user" })).await.is_some_problem(409, "last_admin");
    patch(&app, &admin, 0, json!({ "role": "user" })).await.is_some_problem(404, "not_found");
    patch(&app, &user, admin.id, json!({ "role": "user" })).await.is_some_problem(403, "forbidden");
    app.post("/auth/register", None, taker.clone()).await.is_some_problem(400, "email_taken");
    let invite = json!({ "email": "new@example.com" });
    app.post("/users", Some(&admin), invite).await.is_some_problem(400, "email_taken");
    // This request consumes the token, and then fails to set the address. The consumption is rolled back.
    app.post("/auth/confirm-email", None, link).await.is_some_problem(400, "email_taken");
    let wrong = json!({ "current_password": "another password", "new_password": "another horse battery" });
    app.post("/users/me/password", Some(&user), wrong).await.is_some_problem(400, "wrong_password");
    app.login(&user.email, "another password").await.is_some_problem(401, "bad_credentials");
    assert_eq!((app.mails().await.len(), count_rows(&app, "audit_log").await), before);
}

/// The entry and the change are written in one transaction.
#[tokio::test]
async fn a_change_is_rolled_back_if_its_audit_entry_cannot_be_written() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let (me, sessions) = (app.get("/users/me", Some(&user)).await.body, count_rows(&app, "sessions").await);
    app.sql("ALTER TABLE audit_log ADD CONSTRAINT no_room CHECK (false) NOT VALID").await;
    let new = json!({ "email": "new@example.com", "password": PASSWORD });
    let change = json!({ "current_password": PASSWORD, "new_password": "another horse battery" });
    let logout = app.request(Method::POST, "/auth/logout-all").bearer_auth(&user.token);
    for answer in [
        app.post("/auth/register", None, new.clone()).await,
        app.post("/users", Some(&admin), json!({ "email": "new@example.com" })).await,
        app.post("/users/me/password", Some(&user), change).await,
        app.login(&user.email, PASSWORD).await,
        patch(&app, &admin, user.id, json!({ "role": "admin", "is_active": false })).await,
        app.call(Method::DELETE, &format!("/users/{}", user.id), &admin).await,
        Answer::of(logout).await,
    ] {
        answer.is_problem(500, "internal_error", "Internal Server Error");
    }
    app.sql("ALTER TABLE audit_log DROP CONSTRAINT no_room").await;
    assert_eq!(app.get("/users/me", Some(&user)).await.body, me);
    assert_eq!(
        (count_rows(&app, "sessions").await, count_rows(&app, "job_outbox").await),
        (sessions, "0".into())
    );
    assert_eq!(app.login(&user.email, PASSWORD).await.status, 200);
    assert_eq!(app.post("/auth/register", None, new).await.status, 201);
}

#[tokio::test]
async fn the_audit_table_is_append_only() {
    let app = TestApp::start().await;
    let (user, admin) = (app.user().await, app.admin().await);
    let before = column(&app.database, "SELECT a::text FROM audit_log a ORDER BY id").await;
    assert!(before.len() >= 2, "{before:?}");
    for sql in [
        "UPDATE audit_log SET actor_id = 0",
        "UPDATE audit_log SET after = NULL WHERE action = 'session.opened'",
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE created_at < now()",
        "TRUNCATE audit_log",
        "INSERT INTO audit_log (id, action, target_type, target_id) OVERRIDING SYSTEM VALUE
         SELECT min(id), 'x', 'x', 'x' FROM audit_log ON CONFLICT (id) DO UPDATE SET action = 'x'",
        // `saas.audit_retention`, which the retention job turns on, allows only DELETE.
        "BEGIN; SET LOCAL saas.audit_retention = 'on'; UPDATE audit_log SET actor_id = 0",
        "BEGIN; SET LOCAL saas.audit_retention = 'on'; TRUNCATE audit_log",
        "BEGIN; SET LOCAL saas.audit_retention = 'off'; DELETE FROM audit_log",
    ] {
        assert_eq!(refusal(&app.database, sql).await, "audit_log is append-only", "{sql}");
    }
    assert_eq!(column(&app.database, "SELECT a::text FROM audit_log a ORDER BY id").await, before);
    let entries = read_trail(&app, &admin, user.id).await.len();
    assert_eq!(app.call(Method::DELETE, &format!("/users/{}", user.id), &admin).await.status, 204);
    assert_eq!(
        read_trail(&app, &admin, user.id).await.len(),
        entries + 1,
        "entries are kept after the user is deleted"
    );
}
