//! The last admin who can sign in cannot be demoted, deactivated or deleted.

use reqwest::Method;
use serde_json::{Value, json};

use super::{delete, patch};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    eventually,
    records::column,
};

/// How an admin removes another admin, or themselves.
#[derive(Clone, Copy, Debug)]
enum Removal {
    Demote,
    Deactivate,
    Delete,
}

const REMOVALS: [Removal; 3] = [Removal::Demote, Removal::Deactivate, Removal::Delete];

async fn remove_admin(app: &TestApp, how: Removal, admin: &User, other: &User) -> Answer {
    match how {
        Removal::Demote => patch(app, admin, other.id, json!({ "role": "user" })).await,
        Removal::Deactivate => patch(app, admin, other.id, json!({ "is_active": false })).await,
        Removal::Delete => delete(app, admin, other.id).await,
    }
}

async fn delete_own_account(app: &TestApp, admin: &User) -> Answer {
    let request = app.request(Method::DELETE, "/users/me").bearer_auth(&admin.token);
    Answer::of(request.json(&json!({ "password": PASSWORD }))).await
}

#[track_caller]
fn assert_is_last_admin(answer: &Answer) {
    answer.is_problem(409, "last_admin", "This is the last active admin; add another one first");
}

async fn list_active_admins(app: &TestApp) -> Vec<String> {
    let sql = "SELECT id FROM users WHERE role = 'admin' AND is_active ORDER BY id";
    column(&app.database, sql).await
}

#[tokio::test]
async fn smoke_the_only_admin_cannot_be_removed() {
    let app = TestApp::start().await;
    let (_user, admin) = (app.user().await, app.admin().await);
    for how in REMOVALS {
        assert_is_last_admin(&remove_admin(&app, how, &admin, &admin).await);
    }
    let both = json!({ "role": "user", "is_active": false, "full_name": "Gone" });
    assert_is_last_admin(&patch(&app, &admin, admin.id, both).await);
    assert_is_last_admin(&delete_own_account(&app, &admin).await);
    let me = app.get("/users/me", Some(&admin)).await.body;
    let kept = ["role", "is_active", "full_name", "deletion_due_at"].map(|name| &me[name]);
    assert_eq!(kept, [&json!("admin"), &json!(true), &Value::Null, &Value::Null]);
    let renamed = patch(&app, &admin, admin.id, json!({ "full_name": "Root", "is_active": true })).await;
    assert_eq!(renamed.status, 200, "other fields can be changed: {}", renamed.text);
}

#[tokio::test]
async fn one_of_two_admins_can_be_removed() {
    for how in REMOVALS {
        let app = TestApp::start().await;
        let (one, other) = (app.admin().await, app.admin().await);
        let gone = remove_admin(&app, how, &one, &one).await;
        assert!(gone.status.is_success(), "{how:?}: {}", gone.text);
        assert_eq!(list_active_admins(&app).await, [other.id.to_string()]);
        assert_is_last_admin(&remove_admin(&app, how, &other, &other).await);
    }
    let app = TestApp::start().await;
    let (one, other) = (app.admin().await, app.admin().await);
    assert_eq!(delete_own_account(&app, &one).await.status, 202);
    assert_is_last_admin(&delete_own_account(&app, &other).await);
}

#[tokio::test]
async fn an_admin_who_cannot_sign_in_does_not_count_as_another_admin() {
    let app = TestApp::start().await;
    let (admin, other) = (app.admin().await, app.admin().await);
    for state in ["is_active = false", "deletion_due_at = now() + interval '1 day'", "hashed_password = NULL"]
    {
        app.sql(&format!("UPDATE users SET {state} WHERE id = {}", other.id)).await;
        for how in REMOVALS {
            assert_is_last_admin(&remove_admin(&app, how, &admin, &admin).await);
        }
        assert_is_last_admin(&delete_own_account(&app, &admin).await);
        app.database
            .sql(&format!(
                "UPDATE users SET is_active = true, deletion_due_at = NULL, hashed_password = 'x' WHERE id = {}",
                other.id
            ))
            .await;
    }
    let invite = json!({ "email": "bob@example.com", "role": "admin" });
    app.post("/users", Some(&admin), invite).await;
    assert_eq!(remove_admin(&app, Removal::Delete, &admin, &other).await.status, 204);
    assert_is_last_admin(&remove_admin(&app, Removal::Demote, &admin, &admin).await);
}

#[tokio::test]
async fn the_last_admin_who_can_sign_in_may_remove_the_other_admins() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for how in REMOVALS {
        for state in
            ["is_active = false", "deletion_due_at = now()", "hashed_password = NULL", "role = 'user'"]
        {
            let other = app.admin().await;
            app.sql(&format!("UPDATE users SET {state} WHERE id = {}", other.id)).await;
            let removed = remove_admin(&app, how, &admin, &other).await;
            assert!(removed.status.is_success(), "{how:?}, {state}: {}", removed.text);
        }
    }
}

#[tokio::test]
async fn only_one_of_two_concurrent_demotions_succeeds() {
    let app = TestApp::start().await;
    let (one, other) = (app.admin().await, app.admin().await);
    for round in 0..10 {
        app.sql("UPDATE users SET role = 'admin'").await;
        let (first, second) = tokio::join!(
            remove_admin(&app, Removal::Demote, &one, &other),
            remove_admin(&app, Removal::Demote, &other, &one)
        );
        let (good, bad) = if first.status == 200 { (first, second) } else { (second, first) };
        assert_eq!(good.status, 200, "round {round}: {}", good.text);
        // 403 if the first demotion is complete before the second request is authorized: its caller is no longer an
        // admin.
        let refused = (bad.status.as_u16(), bad.body["code"].as_str().unwrap());
        assert!([(409, "last_admin"), (403, "forbidden")].contains(&refused), "{}", bad.text);
        assert_eq!(list_active_admins(&app).await.len(), 1);
    }
}

#[tokio::test]
async fn of_two_admins_who_remove_each_other_at_once_one_stays() {
    for how in REMOVALS {
        let app = TestApp::start().await;
        let (one, other) = (app.admin().await, app.admin().await);
        let (holder, connection) =
            tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        holder.batch_execute("BEGIN; SELECT id FROM users FOR UPDATE").await.unwrap();
        let waiting = "SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let release = async {
            eventually("both requests wait for a lock", || async {
                (column(&app.database, waiting).await.len() == 2).then_some(())
            })
            .await;
            holder.batch_execute("COMMIT").await.unwrap();
        };
        let (first, second, ()) = tokio::join!(
            remove_admin(&app, how, &one, &other),
            remove_admin(&app, how, &other, &one),
            release
        );
        let (good, bad) = if first.status.is_success() { (first, second) } else { (second, first) };
        assert!(good.status.is_success(), "{how:?}: {}", good.text);
        // Either the first removal has removed the caller of the second one, or the second one would remove the last
        // admin.
        let refused = bad.body["code"].as_str().unwrap();
        assert!(
            ["last_admin", "forbidden", "inactive_user", "invalid_token"].contains(&refused),
            "{}",
            bad.text
        );
        assert_eq!(list_active_admins(&app).await.len(), 1);
    }
}
