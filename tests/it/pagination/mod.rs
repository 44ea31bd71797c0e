//! Pages of all lists: cursors, links, bounded searches, and the parameters of release 0.1.0.

mod cursors;
mod parameters;

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, PASSWORD},
    records::column,
};

const USER_SORTS: [&str; 6] = ["created_at", "-created_at", "email", "-email", "full_name", "-full_name"];

/// Inserts 40 users. Many have equal sort keys, and some have no name.
const INSERT_PAGED_USERS: &str = "INSERT INTO users (email, hashed_password, full_name, created_at)
    SELECT 'p' || n || '@pages.example', 'x', CASE WHEN n % 4 > 0 THEN 'Name ' || n % 5 END,
           '2020-01-01'::timestamptz + n % 3 * interval '1 day'
    FROM generate_series(1, 40) n";

/// Inserts 20,000 users. The address of a user has a number; a user with a higher number was created earlier. A search that
/// cannot use an index must read thousands of these users.
const INSERT_CROWD: &str = "INSERT INTO users (email, hashed_password, full_name, is_active, created_at)
    SELECT 'crowd' || n || '@example.com', 'x',
           CASE WHEN n > 9000 THEN 'Imported' END || CASE n WHEN 19990 THEN ' zq' WHEN 19995 THEN ' Needle' ELSE '' END,
           n < 19000, now() - n * interval '1 minute'
    FROM generate_series(1, 20000) n";

/// Returns the path and the query of the next page, or `None` on the last page.
fn next_target(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().unwrap();
    let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Some(target.unwrap_or_else(|| panic!("{link}")).to_owned())
}

/// Returns the items of a page. The body is an object with `items`, or an array.
fn items(answer: &Answer) -> &[Value] {
    answer.body.get("items").unwrap_or(&answer.body).as_array().unwrap()
}

/// Reads all pages of a list by their links. Calls `between` with the items of each page before it reads the next page.
async fn read_pages(
    app: &TestApp,
    user: &User,
    path: &str,
    mut between: impl AsyncFnMut(&[Value]),
) -> Vec<Vec<Value>> {
    let mut target = format!("/api/v1{path}");
    let mut pages = Vec::new();
    loop {
        let answer = Answer::of(app.at_root(Method::GET, &target).bearer_auth(&user.token)).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text);
        let next = next_target(&answer);
        if answer.body.is_object() {
            let cursor = answer.body["next_cursor"].as_str();
            assert_eq!(cursor.is_some(), next.is_some(), "{target}");
            assert!(next.as_ref().is_none_or(|next| next.ends_with(&format!("cursor={}", cursor.unwrap()))));
        }
        between(items(&answer)).await;
        pages.push(items(&answer).to_vec());
        assert!(pages.len() < 200, "{path} has no last page");
        match next {
            Some(next) => target = next,
            None => return pages,
        }
    }
}

fn ids(pages: &[Vec<Value>]) -> Vec<i64> {
    pages.concat().iter().map(|item| item["id"].as_i64().unwrap()).collect()
}

fn assert_no_repetition(ids: &[i64], about: &str) {
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{about}: {ids:?}");
}

#[tokio::test]
async fn smoke_pages_neither_repeat_nor_miss_users_while_others_come_and_go() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut serial = 0;
    for sort in USER_SORTS {
        for filter in ["", "&search=pages.example", "&role=user", "&is_active=true&search=p"] {
            app.sql(&format!("DELETE FROM users WHERE id <> {}; {INSERT_PAGED_USERS}", admin.id)).await;
            let list = format!("/users?sort={sort}{filter}");
            let before = ids(&read_pages(&app, &admin, &format!("{list}&limit=200"), async |_| {}).await);
            assert!(before.len() >= 40, "{list}");
            let mut deleted = BTreeSet::new();
            let pages = read_pages(&app, &admin, &format!("{list}&limit=7"), async |page| {
                // Deletes the last user of the page, whose position is in the cursor, and adds users near both ends of
                // every sort order.
                let last = page.last().map_or(0, |user| user["id"].as_i64().unwrap());
                if last != admin.id {
                    deleted.insert(last);
                    serial += 1;
                    let sql = format!(
                        "DELETE FROM users WHERE id = {last};
                         INSERT INTO users (email, hashed_password, full_name, created_at) VALUES
                         ('a{serial}@pages.example', 'x', 'A', '2010-01-01'), ('z{serial}@pages.example', 'x', 'Z', now())"
                    );
                    app.sql(&sql).await;
                }
            })
            .await;
            let found = ids(&pages);
            assert_no_repetition(&found, &list);
            let known: Vec<_> = found.iter().copied().filter(|id| before.contains(id)).collect();
            assert_eq!(known, before, "{list}: a deleted user was on the page before");
            assert!(deleted.len() >= 5 && pages.iter().rev().skip(1).all(|page| page.len() == 7), "{list}");
        }
    }
}

#[tokio::test]
async fn a_search_of_many_users_finds_all_matches_in_bounded_steps() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql(INSERT_CROWD).await;
    app.sql("VACUUM ANALYZE users").await;
    let truth = async |condition: &str| -> BTreeSet<i64> {
        let rows = column(&app.database, &format!("SELECT id FROM users WHERE {condition}")).await;
        rows.iter().map(|id| id.parse().unwrap()).collect()
    };
    // Each entry: the query, the condition in SQL, and the number of users on the first page.
    for (query, condition, first) in [
        ("search=needle", "full_name LIKE '%Needle%'", 1),
        ("search=needle&sort=email", "full_name LIKE '%Needle%'", 1),
        // `zq` and `zz` are too short for the search index.
        ("search=zq", "full_name LIKE '%zq%'", 0),
        ("search=zq&sort=full_name", "full_name LIKE '%zq%'", 0),
        ("search=zz", "false", 0),
        ("search=nobody", "false", 0),
        ("search=wd1999", "email LIKE '%wd1999%'", 11),
        // `imported` and `crowd` match so many users that the search does not use its index. None of the newest users match
        // `imported`.
        ("search=imported", "full_name LIKE 'Imported%'", 0),
        ("search=imported&sort=created_at", "full_name LIKE 'Imported%'", 200),
        ("search=crowd&sort=-full_name", "email LIKE 'crowd%'", 200),
        ("is_active=false", "NOT is_active", 200),
        ("is_active=false&search=zq", "full_name LIKE '%zq%'", 1),
        ("role=admin&sort=email", "role = 'admin'", 1),
        ("role=admin&search=zq", "false", 0),
    ] {
        let pages = read_pages(&app, &admin, &format!("/users?limit=200&{query}"), async |_| {}).await;
        let found = ids(&pages);
        assert_no_repetition(&found, query);
        assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), truth(condition).await, "{query}");
        assert_eq!(pages[0].len(), first, "{query}");
    }
    for (query, total) in [("search=needle", 1), ("search=imported", 10_000), ("search=nobody", 0)] {
        let page = app.get(&format!("/users?{query}"), Some(&admin)).await;
        assert_eq!(page.body["total"], total, "{query}");
    }
}

#[tokio::test]
async fn pages_of_the_audit_trail_do_not_shift_while_entries_are_added() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let insert = "INSERT INTO audit_log (actor_id, action, target_type, target_id)
                  SELECT 7, 'test.made', 'user', '8' FROM generate_series(1, 10)";
    app.sql(insert).await;
    let newest_first = "SELECT id FROM audit_log WHERE action = 'test.made' ORDER BY id DESC";
    let all: Vec<i64> =
        column(&app.database, newest_first).await.iter().map(|id| id.parse().unwrap()).collect();
    let path = "/audit?action=test.made&limit=4";
    let pages = read_pages(&app, &admin, path, async |_| app.sql(insert).await).await;
    assert_eq!((ids(&pages), pages.len()), (all.clone(), 3));
    // The filter `before` is independent of the cursor, and stays in the links.
    let pages = read_pages(&app, &admin, &format!("{path}&before={}", all[2]), async |_| {}).await;
    assert_eq!(ids(&pages), all[3..]);
}

#[tokio::test]
async fn pages_of_jobs_do_not_shift_while_jobs_come_and_go() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let mut enqueued = Vec::new();
    for _ in 0..9 {
        enqueued.push(app.enqueue("/jobs/example?name=x", &admin).await);
    }
    let path = "/admin/jobs?status=queued&limit=2";
    let mut first = None;
    let pages = read_pages(&app, &admin, path, async |page| {
        // Adds a job at the end of the queue after each page, and cancels the first job after the first page.
        app.enqueue("/jobs/example?name=new", &admin).await;
        if first.is_none() {
            let id = page[0]["job_id"].as_str().unwrap().to_owned();
            assert_eq!(app.call(Method::DELETE, &format!("/admin/jobs/{id}"), &admin).await.status, 200);
            first = Some(id);
        }
    })
    .await;
    let found: Vec<_> = pages.concat().iter().map(|job| job["job_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(found[..9], enqueued);
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
}

#[tokio::test]
async fn lists_that_are_arrays_have_pages_too() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for name in ["b", "d", "a", "c", "e"] {
        let change = app.request(Method::PATCH, &format!("/admin/queues/{name}")).bearer_auth(&admin.token);
        assert_eq!(Answer::of(change.json(&json!({ "paused": true }))).await.status, 200);
    }
    for _ in 0..4 {
        assert_eq!(app.login(&admin.email, PASSWORD).await.status, 200);
    }
    for path in ["/admin/queues", "/users/me/sessions"] {
        let all = app.get(path, Some(&admin)).await;
        assert!(items(&all).len() >= 5 && next_target(&all).is_none(), "{path}: {}", all.text);
        let pages = read_pages(&app, &admin, &format!("{path}?limit=2"), async |_| {}).await;
        assert_eq!((pages.concat(), pages[0].len()), (items(&all).to_vec(), 2), "{path}");
    }
    // The tag also covers the link, which only the header has.
    let last = app.get("/admin/queues?limit=5", Some(&admin)).await;
    let change = app.request(Method::PATCH, "/admin/queues/f").bearer_auth(&admin.token);
    assert_eq!(Answer::of(change.json(&json!({ "paused": true }))).await.status, 200);
    let first = app.get("/admin/queues?limit=5", Some(&admin)).await;
    assert_eq!(items(&first), items(&last));
    assert_ne!(first.header("etag"), last.header("etag"));
    let all = app.get("/admin/queues", Some(&admin)).await;
    assert!(items(&all).is_sorted_by_key(|queue| queue["name"].as_str().unwrap()), "{}", all.text);
}
