//! The products of organizations. These tests are an example for the tests of other resources.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::{
    isolation::Org,
    support::{
        TestApp, User,
        app::{Answer, fields},
        records::column,
    },
};

fn request(app: &TestApp, method: Method, path: &str, user: &User) -> RequestBuilder {
    app.request(method, path).bearer_auth(&user.token)
}

fn tea(sku: &str) -> Value {
    json!({ "sku": sku, "name": "Green tea", "price": 1999, "currency": "EUR" })
}

/// Creates an organization without products. Returns it with the path of its products.
async fn org(app: &TestApp) -> (Org, String) {
    let org = Org::create(app, "acme").await;
    app.sql(&format!("DELETE FROM products WHERE org_id = {}", org.id)).await;
    let path = format!("/orgs/{}/products", org.id);
    (org, path)
}

/// Creates a product. Returns its path.
async fn create_product(app: &TestApp, path: &str, user: &User, body: Value) -> String {
    let created = app.post(path, Some(user), body).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    format!("{path}/{}", created.body["id"])
}

#[tokio::test]
async fn smoke_a_product_is_created_read_changed_and_deleted() {
    let app = TestApp::start().await;
    let (org, path) = org(&app).await;
    let created = app.post(&path, Some(&org.owner), tea("TEA-1")).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.text);
    let one = format!("{path}/{}", created.body["id"]);
    assert_eq!(created.header("location"), format!("/api/v1{one}"));
    let read = app.get(&one, Some(&org.owner)).await;
    assert_eq!((read.status, &read.body), (StatusCode::OK, &created.body));
    assert_eq!(read.body["price"], 1999);

    let change =
        async |body: Value| Answer::of(request(&app, Method::PATCH, &one, &org.owner).json(&body)).await;
    let changed = change(json!({ "price": 5, "name": "Black tea" })).await;
    assert_eq!((changed.status, &changed.body["name"]), (StatusCode::OK, &json!("Black tea")));
    assert_eq!(changed.body["sku"], "TEA-1");
    // A request without a change does not affect the product, its entity tag or the audit trail.
    for body in [json!({}), json!({ "price": 5 })] {
        let same = change(body).await;
        assert_eq!((same.status, &same.body), (StatusCode::OK, &changed.body));
        assert_eq!(same.header("etag"), changed.header("etag"));
    }
    assert_eq!(app.call(Method::DELETE, &one, &org.owner).await.status, StatusCode::NO_CONTENT);
    for method in [Method::GET, Method::DELETE] {
        app.call(method, &one, &org.owner).await.is_some_problem(404, "not_found");
    }
    let trail = format!(
        "SELECT action || ' ' || coalesce(before->>'price', '-') || ' ' || coalesce(after->>'price', '-') FROM audit_log
         WHERE org_id = {} AND target_type = 'product' AND actor_id = {} ORDER BY id",
        org.id, org.owner.id
    );
    let entries = ["product.created - 1999", "product.updated 1999 5", "product.deleted 5 -"];
    assert_eq!(column(&app.database, &trail).await, entries);
}

#[tokio::test]
async fn the_refusal_of_an_invalid_product_names_the_field() {
    let app = TestApp::start().await;
    let (org, path) = org(&app).await;
    let one = create_product(&app, &path, &org.owner, tea("TEA-1")).await;
    create_product(&app, &path, &org.owner, tea("TEA-2")).await;
    for (name, value, kind) in [
        ("sku", json!(""), "string_too_short"),
        ("sku", json!("x".repeat(65)), "string_too_long"),
        ("sku", json!("TEA-2"), "value_error"),
        ("name", json!(""), "string_too_short"),
        ("name", json!("a\0b"), "value_error"),
        ("price", json!(-1), "greater_than_equal"),
        ("price", json!(1_000_000_000_001_i64), "less_than_equal"),
        ("price", json!(1.5), "int_type"),
        ("currency", json!("eur"), "value_error"),
        ("currency", json!("EURO"), "value_error"),
        ("org_id", json!(7), "extra_forbidden"),
    ] {
        let mut body = tea("TEA-3");
        body[name] = value.clone();
        let location = format!("body.{name}");
        let expected = fields(&[(location.as_str(), kind)]);
        assert_eq!(app.post(&path, Some(&org.owner), body).await.invalid_fields(), expected);
        let patch = request(&app, Method::PATCH, &one, &org.owner).json(&json!({ name: value }));
        assert_eq!(Answer::of(patch).await.invalid_fields(), expected);
    }
    let missing = app.post(&path, Some(&org.owner), json!({})).await.invalid_fields();
    assert_eq!(missing.len(), 4, "{missing:?}");
    // Two organizations may use the same SKU.
    let other = Org::create(&app, "other").await;
    create_product(&app, &format!("/orgs/{}/products", other.id), &other.owner, tea("TEA-1")).await;
}

#[tokio::test]
async fn products_are_listed_in_pages_with_filters_and_order() {
    let app = TestApp::start().await;
    let (org, path) = org(&app).await;
    for (sku, name, currency) in
        [("1", "Straße", "EUR"), ("2", "apple", "USD"), ("3", "Banana 100%", "EUR"), ("4", "APPLE", "EUR")]
    {
        let body = json!({ "sku": sku, "name": name, "price": 1, "currency": currency });
        create_product(&app, &path, &org.owner, body).await;
    }
    let skus = async |query: &str| {
        let (mut found, mut next) = (Vec::new(), Some(format!("{path}?limit=1{query}")));
        while let Some(target) = next {
            let page = app.get(&target, Some(&org.owner)).await;
            assert_eq!(page.status, StatusCode::OK, "{target}: {}", page.text);
            let items = page.body["items"].as_array().unwrap();
            found.extend(items.iter().map(|item| item["sku"].as_str().unwrap().to_owned()));
            next = page.body["next_cursor"]
                .as_str()
                .map(|cursor| format!("{path}?limit=1{query}&cursor={cursor}"));
            assert_eq!(next.is_some(), page.header("link").contains("rel=\"next\""));
        }
        found.join(" ")
    };
    for (query, expected) in [
        ("", "4 3 2 1"),
        ("&sort=created_at", "1 2 3 4"),
        ("&sort=name", "2 4 3 1"),
        ("&sort=-name", "1 3 4 2"),
        ("&currency=EUR&sort=name", "4 3 1"),
        ("&search=STRASSE", "1"),
        ("&search=%25", "3"),
        ("&search=_", ""),
        ("&search=pp&sort=-name", "4 2"),
        ("&search=%20", "4 3 2 1"),
    ] {
        assert_eq!(skus(query).await, expected, "{query}");
    }
    let page = app.get(&format!("{path}?limit=1&sort=name"), Some(&org.owner)).await;
    let cursor = page.body["next_cursor"].as_str().unwrap();
    for query in ["sort=created_at&", "", "sort=name&search=a&"] {
        let refused = app.get(&format!("{path}?{query}cursor={cursor}"), Some(&org.owner)).await;
        assert_eq!(refused.invalid_fields(), fields(&[("query.cursor", "value_error")]), "{query}");
    }
}

/// Folding a name for sorting can replace one character by 18 characters, such as U+FDFA.
#[tokio::test]
async fn names_that_get_longer_by_folding_can_be_sorted_and_found() {
    let app = TestApp::start().await;
    let (org, path) = org(&app).await;
    let expanding: String = (0x3300_u32..0x3357).chain(0xfdf0..0xfdfc).filter_map(char::from_u32).collect();
    let names = ["\u{fdfa}".repeat(200), "\u{3316}".repeat(200), expanding.repeat(2), "Tea".into()];
    for (number, name) in names.iter().enumerate() {
        let product = json!({ "sku": number.to_string(), "name": name, "price": 1, "currency": "EUR" });
        create_product(&app, &path, &org.owner, product).await;
    }
    let (mut found, mut next) = (0, Some(format!("{path}?sort=name&limit=1")));
    while let Some(target) = next {
        let page = app.get(&target, Some(&org.owner)).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        found += page.body["items"].as_array().unwrap().len();
        let cursor = page.body["next_cursor"].as_str();
        next = cursor.map(|cursor| format!("{path}?sort=name&limit=1&cursor={cursor}"));
    }
    assert_eq!(found, names.len());
    let search = app.get(&format!("{path}?search=\u{3316}"), Some(&org.owner)).await;
    assert_eq!(search.body["items"].as_array().unwrap().len(), 2, "{}", search.text);
}

#[tokio::test]
async fn a_change_can_require_the_state_that_was_read() {
    let app = TestApp::start().await;
    let (org, path) = org(&app).await;
    let one = create_product(&app, &path, &org.owner, tea("TEA-1")).await;
    let tag = app.get(&one, Some(&org.owner)).await.header("etag").to_owned();
    let unchanged = request(&app, Method::GET, &one, &org.owner).header("if-none-match", &tag);
    assert_eq!(Answer::of(unchanged).await.status, StatusCode::NOT_MODIFIED);
    // Exactly one of several concurrent changes with the same entity tag succeeds.
    let changes = (0..6).map(|price| {
        let change = request(&app, Method::PATCH, &one, &org.owner).header("if-match", &tag);
        Answer::of(change.json(&json!({ "price": price })))
    });
    let answers = join_all(changes).await;
    let (made, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == StatusCode::OK);
    assert_eq!((made.len(), refused.len()), (1, 5));
    refused.iter().for_each(|answer| answer.is_some_problem(412, "precondition_failed"));
    for (tag, status) in [(tag.as_str(), 412), (made[0].header("etag"), 204)] {
        let delete = request(&app, Method::DELETE, &one, &org.owner).header("if-match", tag);
        assert_eq!(Answer::of(delete).await.status.as_u16(), status);
    }
}

#[tokio::test]
async fn the_role_decides_what_a_member_may_do() {
    let app = TestApp::start().await;
    let (org, path) = org(&app).await;
    let one = create_product(&app, &path, &org.owner, tea("TEA-1")).await;
    for (role, may_write) in [("viewer", false), ("member", true), ("admin", true)] {
        let user = app.user().await;
        org.join(&app, &user, role).await;
        for path in [&path, &one] {
            assert_eq!(app.get(path, Some(&user)).await.status, StatusCode::OK, "{role}");
        }
        let answers = [
            app.post(&path, Some(&user), tea(role)).await,
            Answer::of(request(&app, Method::PATCH, &one, &user).json(&json!({ "name": role }))).await,
        ];
        for answer in answers {
            assert_eq!(answer.status.is_success(), may_write, "{role}: {}", answer.text);
            assert!(may_write || answer.status == StatusCode::FORBIDDEN, "{role}: {}", answer.text);
        }
    }
}

/// A request checks the membership in a cached copy, which may be stale. A change also reads and locks the membership in
/// the database.
#[tokio::test]
async fn a_change_checks_the_membership_again() {
    let app = TestApp::with(&["--identity-cache-ms=60000"]).await;
    let (org, path) = org(&app).await;
    let one = create_product(&app, &path, &org.owner, tea("TEA-1")).await;
    let user = app.user().await;
    org.join(&app, &user, "member").await;
    assert_eq!(app.get(&one, Some(&user)).await.status, StatusCode::OK);
    let of_user = format!("WHERE org_id = {} AND user_id = {}", org.id, user.id);
    for (change, status) in [
        (format!("UPDATE memberships SET role = 'viewer' {of_user}"), 403),
        (format!("UPDATE memberships SET role = 'member', suspended_at = now() {of_user}"), 403),
        (format!("DELETE FROM memberships {of_user}"), 404),
    ] {
        // The cached copy is still valid, so a read does not see the change.
        app.database.sql(&change).await;
        assert_eq!(app.get(&one, Some(&user)).await.status, StatusCode::OK, "{change}");
        let patch = request(&app, Method::PATCH, &one, &user).json(&json!({ "price": 1 }));
        let create = request(&app, Method::POST, &path, &user).json(&tea("TEA-2"));
        let keyed =
            request(&app, Method::POST, &path, &user).json(&tea("TEA-2")).header("idempotency-key", "k");
        for request in [patch, create, keyed, request(&app, Method::DELETE, &one, &user)] {
            assert_eq!(Answer::of(request).await.status.as_u16(), status, "{change}");
        }
    }
    assert_eq!(app.get(&one, Some(&org.owner)).await.body["price"], 1999);
}

#[tokio::test]
async fn a_repeated_creation_with_an_idempotency_key_makes_one_product() {
    let app = TestApp::start().await;
    let (org, path) = org(&app).await;
    let send = || {
        let post = request(&app, Method::POST, &path, &org.owner).header("idempotency-key", "k1");
        Answer::of(post.json(&tea("TEA-1")))
    };
    let (first, second) = (send().await, send().await);
    assert_eq!((first.status, second.status), (StatusCode::CREATED, StatusCode::CREATED), "{}", second.text);
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(second.header("location"), first.header("location"));
    let count = format!("SELECT count(*) FROM products WHERE org_id = {}", org.id);
    assert_eq!(column(&app.database, &count).await, ["1"]);
    // The server checks the access before it returns a stored response. So a suspended organization gets an error.
    app.sql(&format!("UPDATE organizations SET suspended_at = now() WHERE id = {}", org.id)).await;
    send().await.is_some_problem(403, "org_suspended");
}
