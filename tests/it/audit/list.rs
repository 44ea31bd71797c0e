//! The list of audit entries, and their retention.

use saas::services::housekeeping;
use serde_json::{Value, json};

use super::{count_rows, read_trail};
use crate::support::{TestApp, User, app::fields, records::column};

/// Inserts audit entries that differ only in their ids.
async fn insert_entries(app: &TestApp, actor: i64, action: &str, user: i64, entries: u32) {
    let sql = format!(
        "INSERT INTO audit_log (actor_id, action, target_type, target_id)
         SELECT {actor}, '{action}', 'user', '{user}' FROM generate_series(1, {entries})"
    );
    app.sql(&sql).await;
}

async fn list(app: &TestApp, admin: &User, query: &str) -> Value {
    let page = app.get(&format!("/audit?{query}"), Some(admin)).await;
    assert_eq!(page.status, 200, "{query}: {}", page.text);
    page.body
}

fn ids(page: &Value) -> Vec<i64> {
    page["items"].as_array().unwrap().iter().map(|entry| entry["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn smoke_pages_of_the_audit_list_start_with_the_newest_entry_and_skip_none() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    insert_entries(&app, 7, "test.made", 8, 7).await;
    let all = ids(&list(&app, &admin, "action=test.made").await);
    assert!(all.len() == 7 && all.is_sorted_by(|one, next| one > next), "{all:?}");
    let (mut seen, mut before, mut sizes) = (Vec::new(), String::new(), Vec::new());
    loop {
        let page = list(&app, &admin, &format!("action=test.made&limit=3{before}")).await;
        let some = ids(&page);
        // New entries must not shift the next pages.
        insert_entries(&app, 7, "test.made", 8, 2).await;
        sizes.push(some.len());
        seen.extend(some);
        match page["next"].as_i64() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    assert_eq!((seen, sizes), (all, vec![3, 3, 1]));
    let exact = list(&app, &admin, "action=test.made&limit=13").await;
    assert_eq!((ids(&exact).len(), &exact["next"]), (13, &Value::Null), "no empty page follows the last one");
    let none = json!({ "items": [], "next_cursor": null, "limit": 50, "next": null });
    assert_eq!(list(&app, &admin, "before=1").await, none);
}

#[tokio::test]
async fn the_page_size_of_the_audit_list_defaults_to_fifty() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    insert_entries(&app, 7, "test.made", 8, 250).await;
    assert_eq!(ids(&list(&app, &admin, "").await).len(), 50);
    assert_eq!(ids(&list(&app, &admin, "limit=200").await).len(), 200);
    assert_eq!(ids(&list(&app, &admin, "limit=1").await).len(), 1);
}

#[tokio::test]
async fn filters_of_the_audit_list_are_combined() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    insert_entries(&app, 1_001, "test.made", 2_001, 1).await;
    insert_entries(&app, 1_001, "test.broken", 2_002, 2).await;
    insert_entries(&app, 1_002, "test.made", 2_002, 4).await;
    app.database
        .sql("INSERT INTO audit_log (action, target_type, target_id) VALUES ('test.made', 'queue', '2002')")
        .await;
    for (query, entries) in [
        ("actor_id=1001", 3),
        ("actor_id=1002", 4),
        ("user_id=2002", 6),
        ("action=test.made", 6),
        ("action=test.broken&actor_id=1001", 2),
        ("action=test.made&actor_id=1001&user_id=2002", 0),
        ("action=test.made&user_id=2002", 4),
        ("action=test", 0),
        ("action=TEST.MADE", 0),
        ("action=%25", 0),
        ("user_id=200", 0),
    ] {
        let page = list(&app, &admin, query).await;
        assert_eq!((ids(&page).len(), &page["next"]), (entries, &Value::Null), "{query}");
    }
}

#[tokio::test]
async fn every_invalid_parameter_of_the_audit_list_is_reported() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let long = format!("action={}", "x".repeat(101));
    for (query, wrong) in [
        ("limit=0", vec![("query.limit", "greater_than_equal")]),
        ("limit=201", vec![("query.limit", "less_than_equal")]),
        ("before=x&actor_id=y", vec![("query.actor_id", "int_type"), ("query.before", "int_type")]),
        (&long, vec![("query.action", "string_too_long")]),
        ("action=%00", vec![("query.action", "value_error")]),
    ] {
        let answer = app.get(&format!("/audit?{query}"), Some(&admin)).await;
        assert_eq!(answer.invalid_fields(), fields(&wrong), "{query}");
    }
}

#[tokio::test]
async fn the_audit_trail_requires_an_admin() {
    let app = TestApp::start().await;
    let user = app.user().await;
    app.get("/audit", None).await.is_some_problem(401, "not_authenticated");
    for path in ["/audit".to_owned(), format!("/audit?user_id={}", user.id)] {
        app.get(&path, Some(&user)).await.is_problem(403, "forbidden", "Not enough permissions");
    }
}

#[tokio::test]
async fn smoke_only_audit_entries_older_than_the_retention_are_deleted() {
    for (flags, days) in [(&[][..], 365), (&["--audit-retention-days=30"], 30)] {
        let app = TestApp::with(flags).await;
        let (user, admin) = (app.user().await, app.admin().await);
        let fresh = read_trail(&app, &admin, user.id).await;
        for (action, days) in [("test.old", days + 1), ("test.oldest", 3_650), ("test.younger", days - 1)] {
            let sql = format!(
                "INSERT INTO audit_log (created_at, action, target_type, target_id)
                 VALUES (now() - interval '{days} days', '{action}', 'user', '0')"
            );
            app.sql(&sql).await;
        }
        let all: usize = count_rows(&app, "audit_log").await.parse().unwrap();
        let removed = housekeeping::run(&app.app).await.unwrap();
        assert_eq!((removed.audit_entries, removed.users), (2, 0));
        let left = column(&app.database, "SELECT action FROM audit_log WHERE target_id = '0'").await;
        assert_eq!(left, ["test.younger"]);
        assert_eq!(count_rows(&app, "audit_log").await, (all - 2).to_string());
        assert_eq!(read_trail(&app, &admin, user.id).await, fresh);
        assert_eq!(housekeeping::run(&app.app).await.unwrap().audit_entries, 0);
    }
}

#[tokio::test]
async fn one_run_of_housekeeping_deletes_all_old_audit_entries() {
    let app = TestApp::start().await;
    let sql = "INSERT INTO audit_log (created_at, action, target_type, target_id)
               SELECT now() - interval '366 days', 'test.old', 'user', '0' FROM generate_series(1, 2500)";
    app.sql(sql).await;
    assert_eq!(housekeeping::run(&app.app).await.unwrap().audit_entries, 2_500);
    assert_eq!(count_rows(&app, "audit_log").await, "0");
}
