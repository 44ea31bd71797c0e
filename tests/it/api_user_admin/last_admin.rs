//! There is always an admin who can act.

use reqwest::Method;
use serde_json::{Value, json};

use super::{delete, patch};
use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    eventually,
    records::column,
};

/// The ways in which one admin stops another.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Demote,
    Deactivate,
    Delete,
}

const WAYS: [Stop; 3] = [Stop::Demote, Stop::Deactivate, Stop::Delete];

async fn stop(app: &TestApp, how: Stop, admin: &User, other: &User) -> Answer {
    match how {
        Stop::Demote => patch(app, admin, other.id, json!({ "role": "user" })).await,
        Stop::Deactivate => patch(app, admin, other.id, json!({ "is_active": false })).await,
        Stop::Delete => delete(app, admin, other.id).await,
    }
}

async fn leave(app: &TestApp, admin: &User) -> Answer {
    let request = app.request(Method::DELETE, "/users/me").bearer_auth(&admin.token);
    Answer::of(request.json(&json!({ "password": PASSWORD }))).await
}

#[track_caller]
fn is_the_last(answer: &Answer) {
    answer.is_problem(409, "last_admin", "There must be another active admin first");
}

async fn active_admins(app: &TestApp) -> Vec<String> {
    let sql = "SELECT id FROM users WHERE role = 'admin' AND is_active ORDER BY id";
    column(&app.database, sql).await
}

#[tokio::test]
async fn smoke_the_only_admin_stays() {
    let app = TestApp::start().await;
    let (_user, admin) = (app.user().await, app.admin().await);
    for how in WAYS {
        is_the_last(&stop(&app, how, &admin, &admin).await);
    }
    let both = json!({ "role": "user", "is_active": false, "full_name": "Gone" });
    is_the_last(&patch(&app, &admin, admin.id, both).await);
    is_the_last(&leave(&app, &admin).await);
    let me = app.get("/users/me", Some(&admin)).await.body;
    let kept = ["role", "is_active", "full_name", "deletion_due_at"].map(|name| &me[name]);
    assert_eq!(kept, [&json!("admin"), &json!(true), &Value::Null, &Value::Null]);
    let renamed = patch(&app, &admin, admin.id, json!({ "full_name": "Root", "is_active": true })).await;
    assert_eq!(renamed.status, 200, "the rest can be changed: {}", renamed.text);
}

#[tokio::test]
async fn one_of_two_may_go_in_each_way() {
    for how in WAYS {
        let app = TestApp::start().await;
        let (one, other) = (app.admin().await, app.admin().await);
        let gone = stop(&app, how, &one, &one).await;
        assert!(gone.status.is_success(), "{how:?}: {}", gone.text);
        assert_eq!(active_admins(&app).await, [other.id.to_string()]);
        is_the_last(&stop(&app, how, &other, &other).await);
    }
    let app = TestApp::start().await;
    let (one, other) = (app.admin().await, app.admin().await);
    assert_eq!(leave(&app, &one).await.status, 202);
    is_the_last(&leave(&app, &other).await);
}

#[tokio::test]
async fn an_admin_who_cannot_act_does_not_count() {
    let app = TestApp::start().await;
    let (admin, other) = (app.admin().await, app.admin().await);
    for state in ["is_active = false", "deletion_due_at = now() + interval '1 day'", "hashed_password = NULL"]
    {
        app.sql(&format!("UPDATE users SET {state} WHERE id = {}", other.id)).await;
        for how in WAYS {
            is_the_last(&stop(&app, how, &admin, &admin).await);
        }
        is_the_last(&leave(&app, &admin).await);
        app.database
            .sql(&format!(
                "UPDATE users SET is_active = true, deletion_due_at = NULL, hashed_password = 'x' WHERE id = {}",
                other.id
            ))
            .await;
    }
    let invite = json!({ "email": "bob@example.com", "role": "admin" });
    app.post("/users", Some(&admin), invite).await;
    assert_eq!(stop(&app, Stop::Delete, &admin, &other).await.status, 204);
    is_the_last(&stop(&app, Stop::Demote, &admin, &admin).await);
}

#[tokio::test]
async fn those_who_cannot_act_may_be_stopped_by_the_last_who_can() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for how in WAYS {
        for state in
            ["is_active = false", "deletion_due_at = now()", "hashed_password = NULL", "role = 'user'"]
        {
            let other = app.admin().await;
            app.sql(&format!("UPDATE users SET {state} WHERE id = {}", other.id)).await;
            let stopped = stop(&app, how, &admin, &other).await;
            assert!(stopped.status.is_success(), "{how:?}, {state}: {}", stopped.text);
        }
    }
}

#[tokio::test]
async fn of_two_who_demote_each_other_at_once_one_succeeds() {
    let app = TestApp::start().await;
    let (one, other) = (app.admin().await, app.admin().await);
    for round in 0..10 {
        app.sql("UPDATE users SET role = 'admin'").await;
        let (first, second) =
            tokio::join!(stop(&app, Stop::Demote, &one, &other), stop(&app, Stop::Demote, &other, &one));
        let (good, bad) = if first.status == 200 { (first, second) } else { (second, first) };
        assert_eq!(good.status, 200, "round {round}: {}", good.text);
        // Whoever comes late enough is no admin any more.
        let refused = (bad.status.as_u16(), bad.body["code"].as_str().unwrap());
        assert!([(409, "last_admin"), (403, "forbidden")].contains(&refused), "{}", bad.text);
        assert_eq!(active_admins(&app).await.len(), 1);
    }
}

#[tokio::test]
async fn the_second_of_two_sees_what_the_first_has_done() {
    for how in WAYS {
        let app = TestApp::start().await;
        let (one, other) = (app.admin().await, app.admin().await);
        let (holder, connection) =
            tokio_postgres::connect(&app.database.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        holder.batch_execute("BEGIN; SELECT id FROM users FOR UPDATE").await.unwrap();
        let waiting = "SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let release = async {
            eventually("both have come as far as they can", || async {
                (column(&app.database, waiting).await.len() == 2).then_some(())
            })
            .await;
            holder.batch_execute("COMMIT").await.unwrap();
        };
        let (first, second, ()) =
            tokio::join!(stop(&app, how, &one, &other), stop(&app, how, &other, &one), release);
        let (good, bad) = if first.status.is_success() { (first, second) } else { (second, first) };
        assert!(good.status.is_success(), "{how:?}: {}", good.text);
        is_the_last(&bad);
        assert_eq!(active_admins(&app).await.len(), 1);
    }
}
