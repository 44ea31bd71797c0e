//! The parameters of lists besides the cursor: in links to the next page, `offset` of release 0.1.0, and unknown parameters.

use reqwest::Method;
use serde_json::{Value, json};

use super::{INSERT_PAGED_USERS, ids, next_target, read_pages};
use crate::{
    openapi::{fetch_document, list_operations, resolve_ref},
    support::{
        TestApp, User,
        app::{Answer, fields},
    },
};

#[tokio::test]
async fn the_link_to_the_next_page_keeps_the_other_parameters() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql("INSERT INTO users (email, hashed_password, full_name) VALUES ('1@a', 'x', 'é & +'), ('2@a', 'x', 'é & +')")
        .await;
    let page = app.get("/users/?limit=1&sort=email&search=%C3%A9+%26+%2B", Some(&admin)).await;
    let next = next_target(&page).unwrap();
    let (list, cursor) = next.split_once("&cursor=").unwrap();
    assert_eq!(list, "/api/v1/users?search=%C3%A9+%26+%2B&sort=email&limit=1");
    assert_eq!(page.body["next_cursor"], cursor, "a cursor needs no encoding in a URL");
    let last = Answer::of(app.at_root(Method::GET, &next).bearer_auth(&admin.token)).await;
    assert_eq!((&last.body["items"][0]["email"], &last.body["next_cursor"]), (&json!("2@a"), &Value::Null));
    assert!(last.headers.get("link").is_none());
}

/// Pages by offset, for clients that were written for release 0.1.0.
#[tokio::test]
async fn pages_by_offset_lead_to_pages_by_cursor() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql(INSERT_PAGED_USERS).await;
    let all = ids(&read_pages(&app, &admin, "/users?sort=full_name&limit=200", async |_| {}).await);
    for offset in [0, 3, 38] {
        let path = format!("/users?sort=full_name&limit=5&offset={offset}");
        let page = app.get(&path, Some(&admin)).await;
        assert_eq!((&page.body["total"], &page.body["offset"]), (&json!(41), &json!(offset)));
        let pages = read_pages(&app, &admin, &path, async |_| {}).await;
        assert_eq!(ids(&pages), all[offset..]);
    }
}

#[tokio::test]
async fn every_list_has_pages_and_reports_unknown_and_invalid_parameters_together() {
    let app = TestApp::start().await;
    let (document, admin) = (fetch_document().await, app.admin().await);
    let org = app.post("/orgs", Some(&admin), json!({ "name": "Acme" })).await.body["id"].to_string();
    let mut lists = 0;
    for (path, method, operation) in list_operations(&document) {
        let names: Vec<_> =
            operation["parameters"].as_array().into_iter().flatten().map(|p| &p["name"]).collect();
        let content =
            operation["responses"]["200"]["content"].as_object().and_then(|all| all.values().next());
        let schema = content.map_or(&Value::Null, |content| resolve_ref(&document, &content["schema"]));
        let is_list = schema["type"] == "array" || schema["properties"]["items"]["type"] == "array";
        for name in ["cursor", "limit"] {
            assert_eq!(names.contains(&&json!(name)), is_list && method == "get", "{method} {path}: {name}");
        }
        if !is_list {
            continue;
        }
        lists += 1;
        let link = &operation["responses"]["200"]["headers"]["Link"];
        assert!(link.is_object(), "{path} does not document its header Link");
        let ask = async |query: &str, user: Option<&User>| {
            let mut request = app.at_root(Method::GET, &format!("{path}?{query}").replace("{org}", &org));
            if let Some(user) = user {
                request = request.bearer_auth(&user.token);
            }
            Answer::of(request).await
        };
        let unknown = ask("serach=x&limit=0&sorting=y&serach=z", Some(&admin)).await;
        let expected = [
            ("query.limit", "greater_than_equal"),
            ("query.serach", "extra_forbidden"),
            ("query.sorting", "extra_forbidden"),
        ];
        assert_eq!(unknown.invalid_fields(), fields(&expected), "{path}");
        assert_eq!(ask("Limit=1", Some(&admin)).await.status, 422, "{path}: names are case-sensitive");
        for twice in ["limit=1&limit=2", "limit=1&cursor=&%6Cimit=1", "limit=3&serach=x&limit=3"] {
            let found = ask(twice, Some(&admin)).await.invalid_fields();
            assert!(
                found.contains(&("query.limit".into(), "value_error".into())),
                "{path}?{twice}: {found:?}"
            );
        }
        let many: Vec<_> = (0..100).map(|n| format!("unknown{n}=1")).collect();
        for first in ["", "limit=0&", "limit=0&cursor=&cursor=&"] {
            let found = ask(&format!("{first}{}", many.join("&")), Some(&admin)).await.invalid_fields();
            assert_eq!(found.len(), 50, "{path}?{first}");
            assert!(found.iter().any(|(_, kind)| kind == "too_many_errors"), "{path}?{first}: {found:?}");
        }
        ask("serach=x", None).await.is_some_problem(401, "not_authenticated");
    }
    assert!(lists >= 6, "{lists}");
    // An unknown parameter is also reported if the path is percent-encoded.
    let encoded: String = org.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let unknown = app.get(&format!("/orgs/{encoded}/members?serach=x"), Some(&admin)).await;
    assert_eq!(unknown.invalid_fields(), fields(&[("query.serach", "extra_forbidden")]));
    for path in ["/users/me?x=1", "/health?x=1", &format!("/users/{}?x=1", admin.id)] {
        assert_eq!(app.get(path, Some(&admin)).await.status, 200, "{path} is no list");
    }
}
