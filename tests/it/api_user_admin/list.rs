//! The list of users: pages, search, filters, order.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp, User,
    app::{Answer, fields},
};

/// Inserts four users at `list.example`. The other users of a test have another domain.
const INSERT_USERS: &str =
    "INSERT INTO users (email, hashed_password, full_name, role, is_active, created_at) VALUES
    ('ada@list.example', 'x', 'Cleo 100%', 'user', true, '2001-01-01'),
    ('bob_x@list.example', 'x', 'Ada of \\list', 'admin', true, '2002-01-01'),
    ('bobyx@list.example', 'x', NULL, 'user', false, '2003-01-01'),
    ('carl@list.example', 'x', 'Bert', 'admin', false, '2000-01-01')";

async fn start_with_users() -> (TestApp, User) {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    app.sql(INSERT_USERS).await;
    (app, admin)
}

async fn list(app: &TestApp, admin: &User, query: &[(&str, &str)]) -> Value {
    let request = app.request(Method::GET, "/users").bearer_auth(&admin.token);
    let answer = Answer::of(request.query(query)).await;
    assert_eq!(answer.status, 200, "{query:?}: {}", answer.text);
    answer.body
}

/// Returns the local part of the address of each listed user.
async fn find_names(app: &TestApp, admin: &User, query: &[(&str, &str)]) -> Vec<String> {
    let page = list(app, admin, query).await;
    let name = |user: &Value| user["email"].as_str().unwrap().split('@').next().unwrap().to_owned();
    let names: Vec<_> = page["items"].as_array().unwrap().iter().map(name).collect();
    assert_eq!(page["total"], names.len(), "the page has all of them");
    names
}

#[tokio::test]
async fn smoke_a_page_of_the_user_list_has_its_users_and_the_total() {
    let (app, admin) = start_with_users().await;
    for (offset, limit, names) in [
        (0, 2, &["ada", "bob_x"][..]),
        (1, 2, &["bob_x", "bobyx"]),
        (2, 10, &["bobyx", "carl"]),
        (4, 10, &[]),
        (1_000_000, 200, &[]),
    ] {
        let (offset, limit) = (offset.to_string(), limit.to_string());
        let query = [("search", "list.example"), ("sort", "email"), ("offset", &offset), ("limit", &limit)];
        let page = list(&app, &admin, &query).await;
        let emails: Vec<_> = page["items"].as_array().unwrap().iter().map(|user| &user["email"]).collect();
        let expected: Vec<_> = names.iter().map(|name| json!(format!("{name}@list.example"))).collect();
        assert_eq!(emails, expected.iter().collect::<Vec<_>>());
        assert_eq!(page["total"], 4);
        assert_eq!((page["offset"].to_string(), page["limit"].to_string()), (offset, limit));
    }
    let all = list(&app, &admin, &[]).await;
    assert_eq!((&all["total"], &all["offset"], &all["limit"]), (&json!(5), &json!(0), &json!(50)));
    let own = app.get("/users/me", Some(&admin)).await.body;
    assert_eq!(all["items"][0], own, "the newest user comes first, in the format of /users/me");
}

#[tokio::test]
async fn a_search_matches_any_part_of_the_address_or_name_in_any_case() {
    let (app, admin) = start_with_users().await;
    for (search, names) in [
        ("ADA", &["ada", "bob_x"][..]),
        ("cleo 100", &["ada"]),
        ("  bert ", &["carl"]),
        ("B@LIST", &[]),
        ("YX@LIST", &["bobyx"]),
        ("unknown", &[]),
        ("' OR true --", &[]),
    ] {
        assert_eq!(
            find_names(&app, &admin, &[("search", search), ("sort", "email")]).await,
            names,
            "{search}"
        );
    }
    for nothing in ["", "  "] {
        assert_eq!(find_names(&app, &admin, &[("search", nothing)]).await.len(), 5);
    }
}

#[tokio::test]
async fn wildcards_in_a_search_are_literal() {
    let (app, admin) = start_with_users().await;
    for (search, names) in [
        ("%", &["ada"][..]),
        ("100%", &["ada"]),
        ("b_", &["bob_x"]),
        ("_", &["bob_x"]),
        ("\\", &["bob_x"]),
        ("\\l", &["bob_x"]),
        ("%a%", &[]),
        ("___", &[]),
    ] {
        assert_eq!(
            find_names(&app, &admin, &[("search", search), ("sort", "email")]).await,
            names,
            "{search}"
        );
    }
}

#[tokio::test]
async fn a_search_finds_names_with_non_ascii_letters() {
    let (app, admin) = start_with_users().await;
    app.sql("UPDATE users SET full_name = 'Ümit ÇELIK' WHERE email = 'bobyx@list.example'").await;
    for search in ["Ümit", "mit ç", "ÜMIT", "ümit"] {
        assert_eq!(find_names(&app, &admin, &[("search", search)]).await, ["bobyx"], "{search}");
    }
}

#[tokio::test]
async fn filters_of_the_user_list_are_combined() {
    let (app, admin) = start_with_users().await;
    for (filters, names) in [
        (&[("role", "user")][..], &["ada", "bobyx"][..]),
        (&[("role", "admin")], &["bob_x", "carl"]),
        (&[("is_active", "true")], &["ada", "bob_x"]),
        (&[("is_active", "false")], &["bobyx", "carl"]),
        (&[("role", "admin"), ("is_active", "false")], &["carl"]),
    ] {
        let query = [&[("search", "list.example"), ("sort", "email")], filters].concat();
        assert_eq!(find_names(&app, &admin, &query).await, names, "{filters:?}");
    }
    assert_eq!(find_names(&app, &admin, &[("role", "admin"), ("search", "user")]).await.len(), 1);
}

#[tokio::test]
async fn each_sort_order_can_be_reversed() {
    let (app, admin) = start_with_users().await;
    for (sort, names) in [
        ("created_at", ["carl", "ada", "bob_x", "bobyx"]),
        ("-created_at", ["bobyx", "bob_x", "ada", "carl"]),
        ("email", ["ada", "bob_x", "bobyx", "carl"]),
        ("-email", ["carl", "bobyx", "bob_x", "ada"]),
        // Users without a name come last in both directions.
        ("full_name", ["bob_x", "carl", "ada", "bobyx"]),
        ("-full_name", ["ada", "carl", "bob_x", "bobyx"]),
    ] {
        assert_eq!(
            find_names(&app, &admin, &[("search", "list.example"), ("sort", sort)]).await,
            names,
            "{sort}"
        );
    }
    let newest_first = find_names(&app, &admin, &[("search", "list.example")]).await;
    assert_eq!(newest_first, ["bobyx", "bob_x", "ada", "carl"]);
}

#[tokio::test]
async fn pages_with_equal_sort_keys_neither_repeat_nor_skip_users() {
    let (app, admin) = start_with_users().await;
    app.sql("UPDATE users SET created_at = '2001-01-01', full_name = 'Same'").await;
    for sort in ["created_at", "-created_at", "full_name", "-full_name"] {
        let mut ids = Vec::new();
        for offset in ["0", "1", "2", "3", "4"] {
            let page = list(&app, &admin, &[("sort", sort), ("offset", offset), ("limit", "1")]).await;
            ids.push(page["items"][0]["id"].as_i64().unwrap());
        }
        assert!(ids.is_sorted() != sort.starts_with('-'), "{sort}: {ids:?}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 5, "{sort}");
    }
}

#[tokio::test]
async fn every_invalid_parameter_of_the_user_list_is_reported() {
    let (app, admin) = start_with_users().await;
    let long = format!("search={}", "x".repeat(256));
    for (query, wrong) in [
        ("limit=0", vec![("query.limit", "greater_than_equal")]),
        ("limit=201", vec![("query.limit", "less_than_equal")]),
        ("offset=-1", vec![("query.offset", "greater_than_equal")]),
        ("offset=1000001", vec![("query.offset", "less_than_equal")]),
        ("sort=age", vec![("query.sort", "enum")]),
        ("role=owner&is_active=maybe", vec![("query.is_active", "bool_type"), ("query.role", "enum")]),
        (&long, vec![("query.search", "string_too_long")]),
        ("search=%00", vec![("query.search", "value_error")]),
    ] {
        let answer = app.get(&format!("/users?{query}"), Some(&admin)).await;
        assert_eq!(answer.invalid_fields(), fields(&wrong), "{query}");
    }
}
